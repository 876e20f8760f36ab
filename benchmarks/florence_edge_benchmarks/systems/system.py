"""A compared system, as its process and a result are told what it is."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from .devices import Device

Kind = Literal["bundle", "transformers", "optimum"]


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """Something that answers workloads, as a process of its own is told to be it.

    `bundle` is the folder that is run or, for the other kinds, the one that is compared with:
    it gives them image size, prompts and generation settings.
    """

    label: str
    kind: Kind
    bundle: str
    threads: int
    device: str = "cpu"
    engine_precision: str = ""
    """What the engine computes in, where that is a choice; empty is its default."""
    variant: str = ""
    checkpoint: str = ""
    python: str = ""
    """The interpreter that runs it; empty means this one."""

    @property
    def runs_on(self) -> Device:
        """Engine, device and what is computed in."""
        return Device(self.device, self.engine_precision)

    @staticmethod
    def from_json(found: Mapping[str, Any]) -> "System":
        """What `dataclasses.asdict` and JSON made of a system."""
        return System(**found)

    def to_argument(self) -> str:
        """The system as one argument of a command line."""
        return json.dumps(asdict(self))
