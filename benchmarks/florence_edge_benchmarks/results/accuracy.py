"""What `florence-bench accuracy` measured."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from florence_edge.errors import RequestError

from ..machine import Machine


@dataclass(frozen=True, slots=True, kw_only=True)
class AccuracyResult:
    """How right one bundle was: by task, figures by name, the headline first.

    What it is a figure of is told by the fingerprints of bundle and data, by engine and beams, and
    by whether answers were cut short; names are for people.
    """

    machine: Machine
    settings: Mapping[str, Any]
    model: str
    precision: str
    device: str
    bundle: str
    """The name of its folder."""
    fingerprint: str
    """Of the bundle, see `fingerprints.py`."""
    beams: int
    max_new_tokens: int | None
    """Where answers were cut short; None leaves their length to the model."""
    data: str
    """The name of the data's folder."""
    data_fingerprint: str
    images: int
    figures: Mapping[str, Mapping[str, float]]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse a task that nothing was measured in.

        Raises:
            RequestError: naming it.
        """
        for task, figures in self.figures.items():
            if not figures:
                raise RequestError(f"figures.{task} has no figure")

    def headline(self, task: str) -> tuple[str, float]:
        """Name and value of the figure that stands in tables and plots."""
        return next(iter(self.figures[task].items()))
