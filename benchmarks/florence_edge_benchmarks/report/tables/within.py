"""Ratios within one system: what beams cost a step, and what a batch brings."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from ...results.speed import RunRow, SpeedResult
from ...summary import ratios
from .. import units
from ..runs import is_whole
from .table import Table


def within_table(result: SpeedResult) -> Table:
    """A row for every run with beams or a batch beside one without, of equally many tokens."""
    runs = [run for run in result.runs if is_whole(run)]
    return Table(
        title="Beams and batches",
        heading=("task", "system", "what", "ratio"),
        rows=tuple(row for run in runs for row in _rows(run, runs)),
        kinds="nntf",
        note=(
            "Medians over the rounds, which these runs share, with the lowest and highest. A step "
            "is the mean time of engine and search a token."
        ),
    )


def _rows(run: RunRow, runs: Sequence[RunRow]) -> Iterator[tuple[str, ...]]:
    workload = run.workload
    if workload.beams > 1:
        greedy = _beside(run, replace(workload, beams=1), runs)
        if greedy is not None:
            what = f"a step of {workload.beams} beams to a greedy one"
            steps, others = ([each.step_seconds for each in one.rounds] for one in (run, greedy))
            yield _row(run, what, steps, others)
    if workload.batch > 1:
        single = _beside(run, replace(workload, batch=1), runs)
        if single is not None:
            what = f"pictures a second in batches of {workload.batch} to single ones"
            many = [workload.batch / each.seconds for each in run.rounds]
            yield _row(run, what, many, [1 / each.seconds for each in single.rounds])


def _beside(run: RunRow, workload: object, runs: Sequence[RunRow]) -> RunRow | None:
    """The same system's run of a workload, if it has as many rounds."""
    for other in runs:
        same = other.label == run.label and other.workload == workload
        if same and len(other.rounds) == len(run.rounds):
            return other
    return None


def _row(run: RunRow, what: str, of: Sequence[float], to: Sequence[float]) -> tuple[str, ...]:
    return run.workload.name, run.label, what, units.spread(ratios(of, to))
