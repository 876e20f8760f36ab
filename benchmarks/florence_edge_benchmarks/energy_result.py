"""What `florence-bench energy` measured, as a report reads it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_FIGURES = (
    *("idle_watts", "load_watts", "seconds", "images", "tokens"),
    *("joules_per_image", "joules_per_token", "throttling", "method", "samples"),
    *("source", "rails", "covers"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class EnergyResult:
    """Power and joules of a bundle that answered in a closed loop; `energy` is as it was written.

    Joules an image and a token are pairs, gross and net: net is what is above rest.
    """

    machine: Mapping[str, Any]
    settings: Mapping[str, Any]
    plan: Mapping[str, Any]
    energy: Mapping[str, Any]

    @staticmethod
    def from_json(found: Mapping[str, Any]) -> "EnergyResult":
        """What `write_energy` wrote.

        Raises:
            KeyError, TypeError, ValueError: a field is missing or garbled.
        """
        energy = dict(found["energy"])
        for name in _FIGURES:
            energy[name]  # a KeyError says which is missing
        for watts in ("idle_watts", "load_watts"):
            energy[watts] = float(energy[watts])
        for name in ("joules_per_image", "joules_per_token"):
            if energy[name] is not None:
                gross, net = energy[name]
                energy[name] = (float(gross), float(net))
        machine, settings = dict(found["machine"]), dict(found["settings"])
        machine["date"], machine["processor"], machine["cores"], settings["model"]
        return EnergyResult(
            machine=machine, settings=settings, plan=dict(found["plan"]), energy=energy
        )

    @property
    def model(self) -> str:
        """The model that was measured."""
        return str(self.settings["model"])
