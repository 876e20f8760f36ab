"""The tables of an accuracy result, and its headline figures beside speed."""

from collections.abc import Sequence

from ...results.accuracy import AccuracyResult
from ...results.speed import RunRow, SystemRow
from ...systems.workload import beams_named
from .. import units
from .table import Table


def accuracy_tables(results: Sequence[AccuracyResult]) -> list[Table]:
    """A table for each set of pictures, so that what stands in one can be compared."""
    same: dict[tuple[str, str], list[AccuracyResult]] = {}
    for result in results:
        same.setdefault((result.data_fingerprint, data_of(result)), []).append(result)
    return [_table(shown, some) for (_, shown), some in same.items()]


def _table(data: str, results: Sequence[AccuracyResult]) -> Table:
    """A row for every task of every bundle: its headline figure, and the others beside it."""
    tasks = dict.fromkeys(task for result in results for task in result.figures)
    rows = [
        (task, _who(result), *_figures(result, task))
        for task in tasks
        for result in results
        if task in result.figures
    ]
    return Table(
        title=f"Accuracy on {data}",
        heading=("task", "system", "measure", "figure", "further"),
        rows=tuple(rows),
        kinds="nnnft",
        note=" ".join(dict.fromkeys(note for result in results for note in result.notes)),
    )


def _who(result: AccuracyResult) -> str:
    """`int8 on cpu (base8), 3 beams`."""
    cut = result.max_new_tokens
    told = f"{result.precision} on {result.device} ({result.bundle}), {beams_named(result.beams)}"
    return told if cut is None else f"{told}, cut after {cut} tokens"


def _figures(result: AccuracyResult, task: str) -> tuple[str, str, str]:
    (headline, value), *others = result.figures[task].items()
    beside = ", ".join(f"{name} {units.figure(other)}" for name, other in others)
    return headline, units.figure(value), beside


def accuracy_beside(
    row: SystemRow, run: RunRow, accuracies: Sequence[AccuracyResult]
) -> list[AccuracyResult]:
    """The results that are about what answered in a run: its bundle, engine, beams and task.

    Bundles are the same if their content is, whatever they are called; other systems have no
    accuracy, and that of answers which were cut short is of other answers.
    """
    known = row.fingerprint if row.system.kind == "bundle" else ""
    asked = (known, row.system.runs_on.name, run.workload.beams)
    return [
        each
        for each in accuracies
        if known
        and (each.fingerprint, each.device, each.beams) == asked
        and run.workload.task in each.figures
        and each.max_new_tokens is None
    ]


def accuracy_cell(row: SystemRow, run: RunRow, accuracies: Sequence[AccuracyResult]) -> str:
    """Name and value of the headline figure, for a row of speed."""
    found = accuracy_beside(row, run, accuracies)
    if not found:
        return "-"
    measure, value = found[0].headline(run.workload.task)
    return f"{measure} {units.figure(value)}"


def accuracy_note(runs: Sequence[RunRow], accuracies: Sequence[AccuracyResult]) -> str:
    """How the accuracy in a table of speed was measured."""
    if not accuracies:
        return ""
    data = " and ".join(dict.fromkeys(map(data_of, accuracies)))
    pinned = any(run.workload.new_tokens is not None for run in runs)
    return (
        f" Accuracy is that of the same bundle, engine and number of beams on {data}; "
        f"{ending_of_answers(pinned=pinned)}."
    )


def ending_of_answers(*, pinned: bool) -> str:
    """Which answers accuracy is of, where those that were timed may be `pinned` to a length."""
    free = "answers end where the model ends them"
    return f"{free}, not after the number of tokens that was timed" if pinned else free


def data_of(result: AccuracyResult) -> str:
    """`40 pictures of coco_cc`."""
    return f"{result.images} picture{'s' if result.images != 1 else ''} of {result.data}"
