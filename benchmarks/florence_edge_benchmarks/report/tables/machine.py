"""The machine in a report: in a line, and in full."""

from collections.abc import Mapping, Sequence
from typing import Any

from .. import units
from .table import Table


def machine_line(machine: Mapping[str, Any]) -> str:
    """The machine in one line, as every figure names it."""
    parts = [
        machine.get("board"),
        machine["processor"],
        f"{machine['cores']} core{'s' if machine['cores'] != 1 else ''}",
        machine.get("gpu"),
        machine.get("power_mode"),
    ]
    # A machine that is no board of NVIDIA's may be called by its processor.
    return ", ".join(dict.fromkeys(str(part) for part in parts if part))


def machine_table(machine: Mapping[str, Any], settings: Mapping[str, Any]) -> Table:
    """All that was recorded about machine and settings."""
    known = {**machine, "memory_bytes": units.size(machine.get("memory_bytes"))}
    told = {name.replace("_bytes", "").replace("_", " "): value for name, value in known.items()}
    told |= {f"--{name.replace('_', '-')}": value for name, value in settings.items()}
    rows = [(name, _said(value)) for name, value in told.items()]
    return Table(
        title="Machine and settings",
        heading=("what", "value"),
        rows=tuple((name, value) for name, value in rows if value),
        kinds="nt",
    )


def _said(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {each}" for name, each in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(str, value))
    return "" if value is None else str(value)
