"""The figures of a report: which numbers of a result are drawn, and what is written under them.

Stages, latency against tokens and memory of each speed result; accuracy against speed wherever both
were measured on the same pictures.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..results import AccuracyResult, RunRow, SpeedResult
from ..systems.workload import name_workload
from ..timing import STAGES
from . import units
from .charts import Bar, BarChart, Chart, Line, LineChart, Mark, Marks, ScatterChart
from .speed_tables import is_whole, stage_median, total
from .tables import accuracy_beside, data_of, ending_of_answers, machine_line


@dataclass(frozen=True, slots=True)
class CaptionedChart:
    """A chart, its title, and a caption that names model and machine."""

    chart: Chart
    title: str
    caption: str


def speed_figures(result: SpeedResult) -> list[CaptionedChart]:
    """Stages, latency against tokens, and memory."""
    drawn = [*_stage_figures(result), *_token_figures(result), *_memory_figures(result)]
    return [CaptionedChart(chart, title, where(result)) for chart, title in drawn]


def where(result: SpeedResult) -> str:
    """Model and machine, for a caption."""
    return f"Model: {result.models}. Machine: {machine_line(result.machine)}."


def _stage_figures(result: SpeedResult) -> Iterator[tuple[Chart, str]]:
    runs = [run for run in result.runs if is_whole(run)]
    for name in dict.fromkeys(run.workload.name for run in runs):
        rows = [
            Bar(
                run.label,
                [stage_median(run, stage) * 1e3 for stage in STAGES],
                units.duration(total(run)),
            )
            for run in runs
            if run.workload.name == name
        ]
        yield BarChart(STAGES, rows, "milliseconds"), f"Stages of {name}, medians"


def _token_figures(result: SpeedResult) -> Iterator[tuple[Chart, str]]:
    """A chart for each number of beams: its longest workload, each system a line."""
    runs = [run for run in result.runs if is_whole(run) and len(run.steps) > 1]
    for beams in dict.fromkeys(run.workload.beams for run in runs):
        same = [run for run in runs if run.workload.beams == beams and run.workload.batch == 1]
        if not same:
            continue
        longest = max(same, key=lambda run: len(run.steps)).workload
        lines = [Line(run.label, _latencies(run)) for run in same if run.workload == longest]
        chart = LineChart(lines, "new tokens", "milliseconds until then")
        yield chart, f"Latency against tokens: {longest.name}, medians"


def _latencies(run: RunRow) -> list[tuple[float, float]]:
    """Milliseconds from the picture file to the token of each position, search included."""
    before = sum(stage_median(run, stage) for stage in STAGES[: STAGES.index("decoder")])
    search = stage_median(run, "search") / len(run.steps)
    reached, curve = before, [(0.0, before * 1e3)]
    for position, step in enumerate(run.steps, start=1):
        reached += step + search
        curve.append((float(position), reached * 1e3))
    return curve


def _memory_figures(result: SpeedResult) -> Iterator[tuple[Chart, str]]:
    started = [(row.system.label, row.start) for row in result.systems if row.start is not None]
    for title, counts in (
        (
            "Peak memory resident while answering",
            [(label, start.answering_bytes) for label, start in started],
        ),
        (
            "GPU memory held after the answers, beyond the CUDA context",
            [(label, start.device_bytes) for label, start in started],
        ),
    ):
        rows = [
            Bar(label, [count / 1e6], units.size(count))
            for label, count in counts
            if count is not None
        ]
        if rows:
            yield BarChart(["memory"], rows, "MB"), title


@dataclass(frozen=True, slots=True, kw_only=True)
class _PlotKey:
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
) -> list[CaptionedChart]:
    """Accuracy against speed, wherever both were measured of a bundle, engine, beams and task."""
    return [
        _figure(speed, plot, points)
        for speed in speeds
        for plot, points in _plots(speed, accuracies).items()
    ]


def _plots(
    speed: SpeedResult, accuracies: Sequence[AccuracyResult]
) -> dict[_PlotKey, list[_Point]]:
    """The points of each plot, each once though several files have it."""
    plots: dict[_PlotKey, list[_Point]] = {}
    for run, known in _measured(speed, accuracies):
        workload = run.workload
        measure, value = known.headline(workload.task)
        plot = _PlotKey(
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


def _figure(speed: SpeedResult, plot: _PlotKey, points: Sequence[_Point]) -> CaptionedChart:
    beams = {point.beams for point in points}
    marks: dict[str, list[Mark]] = {row.system.label: [] for row in speed.systems}
    for each in points:
        word = str(each.beams) if len(beams) > 1 else ""
        marks[each.system].append(Mark(each.milliseconds, each.value, word))
    series = [Marks(label, drawn) for label, drawn in marks.items() if drawn]
    workload = name_workload(plot.task, beams, plot.new_tokens, plot.batch)
    better = "down" if plot.measure.endswith("error rate") else "up"
    ending = ending_of_answers(pinned=plot.new_tokens is not None)
    numbers = " A number at a point is that of its beams." if len(beams) > 1 else ""
    return CaptionedChart(
        ScatterChart(series, f"median milliseconds of {workload}", plot.measure),
        f"{plot.task}, {plot.measure} on {plot.shown}: {better} and left is better",
        f"{where(speed)} Accuracy is of {plot.shown}; {ending}. Axes need not begin at 0.{numbers}",
    )
