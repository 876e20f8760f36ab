"""A result as a section of a report: title, place, tables; the same for HTML and Markdown."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..results import AccuracyResult, EnergyResult, SpeedResult
from ..results_io import AnyResult
from .figures import CaptionedChart, speed_figures
from .speed_tables import speed_tables
from .tables import (
    Table,
    accuracy_tables,
    energy_table,
    machine_line,
    machine_of_energy,
    machine_table,
)

_ORDER = (SpeedResult, AccuracyResult, EnergyResult)


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """What a report has about one result."""

    source: str
    """The file's name, if it has one."""
    kind: str
    """`Speed`, `Accuracy` or `Energy`."""
    models: str
    place: str
    tables: Sequence[Table]
    figures: Sequence[CaptionedChart]
    machine: Table


def sections_of(
    results: Sequence[AnyResult], names: Sequence[str] = (), *, brief: bool = False
) -> list[Section]:
    """All sections: speed first, then accuracy, then energy.

    Args:
        results: what was measured.
        names: of their files, as many; empty where they are from none.
        brief: whether to leave the stages out, for a README.
    """
    named = list(zip(results, names or [""] * len(results), strict=True))
    named.sort(key=lambda each: _ORDER.index(type(each[0])))
    return [_section(result, name, brief=brief) for result, name in named]


def _section(result: AnyResult, name: str, *, brief: bool) -> Section:
    place = f"{machine_line(result.machine)}, {result.machine['date']}"
    figures = list[CaptionedChart]()
    machine: Mapping[str, Any] = result.machine
    if isinstance(result, SpeedResult):
        kind, models, figures = "Speed", result.models, speed_figures(result)
        place += f", {result.settings['threads']} thread(s) a system"
        tables = [*speed_tables(result, brief=brief), *accuracy_tables(result.accuracy)]
        machine = {**machine, **_own_versions(result)}
    elif isinstance(result, EnergyResult):
        kind, models, tables = "Energy", result.model, [energy_table(result)]
        machine = machine_of_energy(result)
    else:
        kind, models, tables = "Accuracy", result.model, accuracy_tables([result])
    return Section(
        source=name,
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
