"""The plots of a report: which numbers of a result are drawn, and what is written under them."""

from collections.abc import Iterator
from dataclasses import dataclass

from ..gauges.stages import STAGES
from ..results.speed import RunRow, SpeedResult
from . import units
from .plots import Bar, Series, bars, lines
from .runs import is_whole, stage_median, total
from .tables.machine import machine_line


@dataclass(frozen=True, slots=True)
class Figure:
    """A drawing, its title, and a caption that names model and machine."""

    svg: str
    title: str
    caption: str


def speed_figures(result: SpeedResult) -> list[Figure]:
    """Stages, latency against tokens, and memory."""
    drawn = [*_stage_figures(result), *_token_figures(result), *_memory_figures(result)]
    return [Figure(svg, title, where(result)) for svg, title in drawn]


def where(result: SpeedResult) -> str:
    """Model and machine, for a caption."""
    return f"Model: {result.models}. Machine: {machine_line(result.machine)}."


def _stage_figures(result: SpeedResult) -> Iterator[tuple[str, str]]:
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
        yield bars(STAGES, rows, "milliseconds"), f"Stages of {name}, medians"


def _token_figures(result: SpeedResult) -> Iterator[tuple[str, str]]:
    """One plot for the workload of most tokens a number of beams, each system a line."""
    runs = [run for run in result.runs if is_whole(run) and len(run.steps) > 1]
    for beams in dict.fromkeys(run.workload.beams for run in runs):
        same = [run for run in runs if run.workload.beams == beams and run.workload.batch == 1]
        if not same:
            continue
        longest = max(same, key=lambda run: len(run.steps)).workload
        series = [Series(run.label, _latencies(run)) for run in same if run.workload == longest]
        svg = lines(series, "new tokens", "milliseconds until then")
        yield svg, f"Latency against tokens: {longest.name}, medians"


def _latencies(run: RunRow) -> list[tuple[float, float]]:
    """Milliseconds from the picture file to the token of each position, search included."""
    before = sum(stage_median(run, stage) for stage in STAGES[: STAGES.index("decoder")])
    search = stage_median(run, "search") / len(run.steps)
    reached, curve = before, [(0.0, before * 1e3)]
    for position, step in enumerate(run.steps, start=1):
        reached += step + search
        curve.append((float(position), reached * 1e3))
    return curve


def _memory_figures(result: SpeedResult) -> Iterator[tuple[str, str]]:
    started = [(row.system.label, row.start) for row in result.systems if row.start is not None]
    for title, counts in (
        (
            "Most memory resident while answering",
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
            yield bars(["memory"], rows, "MB"), title
