"""Accuracy against speed: a plot for each measure of a task on the same pictures."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..results.accuracy import AccuracyResult
from ..results.speed import RunRow, SpeedResult
from ..systems.workload import name_of
from .figures import Figure, where
from .runs import is_whole, total
from .scatter import Mark, Marks, scatter
from .tables.accuracy import accuracy_beside, data_of, ending_of_answers


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plot:
    """What points must share to stand in one plot."""

    task: str
    measure: str
    data: str
    """Its fingerprint; two folders may have one name."""
    shown: str
    new_tokens: int | None
    batch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Point:
    system: str
    beams: int
    milliseconds: float
    value: float


def trade_off_figures(
    speeds: Sequence[SpeedResult], accuracies: Sequence[AccuracyResult]
) -> list[Figure]:
    """Accuracy against speed, wherever both were measured of a bundle, engine, beams and task."""
    return [
        _figure(speed, plot, points)
        for speed in speeds
        for plot, points in _plots(speed, accuracies).items()
    ]


def _plots(speed: SpeedResult, accuracies: Sequence[AccuracyResult]) -> dict[_Plot, list[_Point]]:
    """The points of each plot, each once though several files tell it."""
    plots: dict[_Plot, list[_Point]] = {}
    for run, known in _measured(speed, accuracies):
        workload = run.workload
        measure, value = known.headline(workload.task)
        plot = _Plot(
            task=workload.task,
            measure=measure,
            data=known.data_fingerprint,
            shown=data_of(known),
            new_tokens=workload.new_tokens,
            batch=workload.batch,
        )
        point = _Point(
            system=run.label, beams=known.beams, milliseconds=total(run) * 1e3, value=value
        )
        drawn = plots.setdefault(plot, [])
        if point not in drawn:
            drawn.append(point)
    return plots


def _measured(
    speed: SpeedResult, accuracies: Sequence[AccuracyResult]
) -> Iterator[tuple[RunRow, AccuracyResult]]:
    """Runs with the accuracy of their answers, from few beams to many; of batches the smallest."""
    rows = {row.system.label: row for row in speed.systems}
    runs = [run for run in speed.runs if is_whole(run)]
    smallest = min((run.workload.batch for run in runs), default=1)
    for run in sorted(runs, key=lambda run: run.workload.beams):
        if run.workload.batch == smallest:
            for known in accuracy_beside(rows[run.label], run, accuracies):
                yield run, known


def _figure(speed: SpeedResult, plot: _Plot, points: Sequence[_Point]) -> Figure:
    beams = {point.beams for point in points}
    marks: dict[str, list[Mark]] = {row.system.label: [] for row in speed.systems}
    for each in points:
        word = str(each.beams) if len(beams) > 1 else ""
        marks[each.system].append(Mark(each.milliseconds, each.value, word))
    series = [Marks(label, drawn) for label, drawn in marks.items() if drawn]
    asked = name_of(plot.task, beams, plot.new_tokens, plot.batch)
    better = "down" if plot.measure.endswith("error rate") else "up"
    ending = ending_of_answers(pinned=plot.new_tokens is not None)
    numbers = " A number at a point is that of its beams." if len(beams) > 1 else ""
    return Figure(
        scatter(series, f"median milliseconds of {asked}", plot.measure),
        f"{plot.task}, {plot.measure} on {plot.shown}: {better} and left is better",
        f"{where(speed)} Accuracy is of {plot.shown}; {ending}. Axes need not begin at 0.{numbers}",
    )
