"""All precisions of a checkpoint in one table: size, time and accuracy, a row a bundle."""

from collections.abc import Iterator

from ..results import RunRow, SpeedResult, SystemRow
from ..timing import ratios
from . import units
from .speed_tables import failure_table, total
from .tables import Table, accuracy_cell, accuracy_note


def precision_tables(result: SpeedResult) -> list[Table]:
    """The table, and what failed, if anything did."""
    tables = [_precision_table(result), failure_table(result)]
    return [table for table in tables if table.rows]


def _precision_table(result: SpeedResult) -> Table:
    workloads = list(dict.fromkeys(run.workload for run in result.runs))
    columns = ("time", "accuracy") if result.accuracy else ("time",)
    heading = [f"{workload.task}: {column}" for workload in workloads for column in columns]
    rows = [
        (row.system.label, *_memory(row), *_cells(row, result), _same(row, result))
        for row in result.systems
    ]
    return Table(
        title="Precisions",
        heading=("system", "size", "peak memory", *heading, "same tokens"),
        rows=tuple(rows),
        kinds="n" + "f" * (len(heading) + 3),
        note=(
            "Time is the median from picture file to answer, and behind it how many times faster "
            f"than {result.baseline} (median of the ratios within each round, in which all take "
            "turns). Same tokens counts the tasks whose answers about the timed picture have the "
            f"baseline's token ids.{accuracy_note(result.runs, result.accuracy)}"
        ),
    )


def _memory(row: SystemRow) -> tuple[str, str]:
    start = row.start
    return (
        ("-", "-")
        if start is None
        else (units.size(start.disk_bytes), units.size(start.peak_bytes))
    )


def _cells(row: SystemRow, result: SpeedResult) -> Iterator[str]:
    """Of each workload the time, and the accuracy where there is any."""
    runs = {run.workload: run for run in result.runs if run.label == row.system.label}
    bases = {run.workload: run for run in result.runs if run.label == result.baseline}
    for workload, base in bases.items():
        run = runs.get(workload)
        yield "-" if run is None or not run.rounds else _time(run, base)
        if result.accuracy:
            yield "-" if run is None else accuracy_cell(row, run, result.accuracy)


def _time(run: RunRow, base: RunRow) -> str:
    time = units.duration(total(run))
    if run is base or len(run.rounds) != len(base.rounds):
        return time
    pairs = [each.seconds for each in base.rounds], [each.seconds for each in run.rounds]
    return f"{time} ({ratios(*pairs).median:.2f} x)"


def _same(row: SystemRow, result: SpeedResult) -> str:
    known = [run.same_tokens for run in result.runs if run.label == row.system.label]
    compared = [same for same in known if same is not None]
    return f"{sum(compared)} of {len(compared)}" if compared else "-"
