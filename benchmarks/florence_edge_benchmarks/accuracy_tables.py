"""The tables of an accuracy result, and its headline figures beside speed."""

from collections.abc import Sequence

from . import units
from .results import AccuracyResult, SystemRow
from .table import Table


def accuracy_table(result: AccuracyResult) -> Table:
    """A row a task: its headline figure, and the others beside it."""
    rows = []
    for task, figures in result.figures.items():
        (headline, value), *others = figures.items()
        beside = ", ".join(f"{name} {units.figure(other)}" for name, other in others)
        rows.append((task, headline, units.figure(value), beside))
    return Table(
        title=f"Accuracy: {result.precision} on {result.device}, {result.images} pictures of "
        f"{result.data}",
        heading=("task", "measure", "figure", "further"),
        rows=tuple(rows),
        kinds="nnft",
        note=" ".join(result.notes),
    )


def accuracy_of(
    row: SystemRow, accuracies: Sequence[AccuracyResult], task: str
) -> tuple[str, float] | None:
    """Name and value of the headline figure that was measured of this bundle on this engine."""
    identity = (row.model, row.precision, row.system.runs_on.name)
    for each in accuracies:
        same = (each.model, each.precision, each.device) == identity
        if row.system.kind == "bundle" and same and task in each.figures:
            return next(iter(each.figures[task].items()))
    return None
