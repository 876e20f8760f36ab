"""The table of an energy result, and its machine with clock and heat in words."""

from collections.abc import Mapping
from typing import Any

from ...results.energy import EnergyResult, Figures, Shared
from ...systems.workload import beams_named
from .table import Table

_CLOCK = (("now", ""), ("limit", " allowed"), ("most", " possible"))


def energy_table(result: EnergyResult) -> Table:
    """Power at rest and under load, and joules an image and a token."""
    energy = result.energy
    image, token = energy["joules_per_image"], energy["joules_per_token"]
    seconds = f"{energy['seconds']:.0f} s"
    rows = [
        ("power at rest", f"{energy['idle_watts']:.2f} W", ""),
        ("power under load", f"{energy['load_watts']:.2f} W", seconds),
        ("an image", _joules(image, 3), f"{energy['images']} images, {_net(image, 3)}"),
    ]
    if token is not None:
        told = f"{energy['tokens']} tokens, {_net(token, 4)}"
        rows.append(("a token", _joules(token, 4), told))
    rows.append(("throttling", _throttling(energy), ""))
    return Table(
        title=f"Energy: {asked(result)}",
        heading=("what", "figure", "further"),
        rows=tuple(rows),
        kinds="nft",
        note=(
            f"Measured at {' + '.join(energy['rails'])} ({energy['covers']}) by "
            f"{energy['source']}, {energy['samples']} samples"
            f"{', joules as the sensor counted them' if energy['method'] == 'counter' else ''}. "
            "Joules are gross, what the battery gives; above rest is what the model adds."
        ),
    )


def asked(result: EnergyResult) -> str:
    """`int8 on tensorrt, OD, 3 beams`, of what the settings say."""
    settings = result.settings
    beams = settings.get("beams")
    parts = [
        f"{settings.get('precision', 'bundle')} on {settings.get('device', 'an engine')}",
        settings.get("task"),
        None if beams is None else beams_named(beams),
    ]
    return ", ".join(str(part) for part in parts if part)


def machine_of_energy(result: EnergyResult) -> Mapping[str, Any]:
    """The machine, with clock and heat in words."""
    clock = result.machine.get("gpu_clock") or {}
    celsius = result.machine.get("hottest_celsius") or ()
    machine: dict[str, Any] = {
        name: value
        for name, value in result.machine.items()
        if name not in ("gpu_clock", "hottest_celsius")
    }
    if clock:
        told = [f"{clock[name]} MHz{what}" for name, what in _CLOCK if clock.get(name) is not None]
        machine["gpu clock"] = ", ".join(told)
    known = [f"{degrees:.0f} °C" for degrees in celsius if degrees is not None]
    if known:
        machine["hottest, before and after"] = " and ".join(known)
    return machine


def _throttling(energy: Figures) -> str:
    """What slowed the machine down, and how often."""
    events = [f"{count} x {name}" for name, count in energy["throttling"].items()]
    return ", ".join(events) or "none"


def _joules(pair: Shared, digits: int) -> str:
    return f"{pair[0]:.{digits}f} J"


def _net(pair: Shared, digits: int) -> str:
    return f"{pair[1]:.{digits}f} J above rest"
