"""A result as a section of a report: title, place, tables; the same for HTML and Markdown."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .accuracy_tables import accuracy_table
from .energy_result import EnergyResult
from .energy_tables import energy_table, machine_of_energy
from .figures import Figure, speed_figures
from .machine_tables import machine_line, machine_table
from .results import Result, SpeedResult
from .speed_tables import speed_tables
from .table import Table


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """What a report says of one result."""

    kind: str
    """`Speed`, `Accuracy` or `Energy`."""
    models: str
    place: str
    tables: Sequence[Table]
    figures: Sequence[Figure]
    machine: Table


def section_of(result: Result, *, brief: bool = False) -> Section:
    """The section; `brief` leaves the stages out, for a README."""
    place = f"{machine_line(result.machine)}, {result.machine['date']}"
    machine, figures = result.machine, list[Figure]()
    if isinstance(result, SpeedResult):
        kind, models, figures = "Speed", result.models, speed_figures(result)
        place += f", {result.settings['threads']} thread(s) a system"
        tables = [*speed_tables(result, brief=brief), *map(accuracy_table, result.accuracy)]
        machine = {**machine, **_own_versions(result)}
    elif isinstance(result, EnergyResult):
        kind, models, tables = "Energy", result.model, [energy_table(result)]
        machine = machine_of_energy(result)
    else:
        kind, models, tables = "Accuracy", result.model, [accuracy_table(result)]
    return Section(
        kind=kind,
        models=models,
        place=place,
        tables=tables,
        figures=figures,
        machine=machine_table(machine, result.settings),
    )


def _own_versions(result: SpeedResult) -> Mapping[str, Any]:
    """Versions in the environments that systems have of their own."""
    return {
        f"versions of {row.system.label}": row.start.versions
        for row in result.systems
        if row.start is not None and row.start.versions
    }
