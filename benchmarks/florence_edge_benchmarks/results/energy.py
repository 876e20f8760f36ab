"""What `florence-bench energy` measured."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypedDict

from florence_edge.errors import RequestError

from ..machine import Machine

Shared = tuple[float, float]
"""Joules an image or a token, gross and net: net is what is above rest."""


class Figures(TypedDict):
    """What the meter said of a bundle that answered in a closed loop."""

    source: str
    rails: tuple[str, ...]
    covers: str
    method: str
    samples: int
    idle_watts: float
    load_watts: float
    seconds: float
    gross_joules: float
    net_joules: float
    images: int
    tokens: int
    throttling: Mapping[str, int]
    joules_per_image: Shared
    joules_per_token: Shared | None


class Board(Machine, total=False):
    """A machine, with what a Jetson says of itself; its heat is before and after."""

    l4t: str | None
    jetpack: str | None
    gpu_clock: Mapping[str, int | str | None] | None
    hottest_celsius: tuple[float | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EnergyResult:
    """Power and joules of a bundle that answered in a closed loop."""

    settings: Mapping[str, Any]
    machine: Board
    plan: Mapping[str, Any]
    energy: Figures

    def __post_init__(self) -> None:
        """Refuse figures that name no model.

        Raises:
            RequestError: the settings do not say which.
        """
        if "model" not in self.settings:
            raise RequestError("settings.model is missing")

    @property
    def model(self) -> str:
        """The model that was measured."""
        return str(self.settings["model"])
