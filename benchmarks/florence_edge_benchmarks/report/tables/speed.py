"""The tables of a speed result: rows of text, the same for HTML and Markdown."""

from collections.abc import Sequence
from operator import attrgetter

from ...gauges.stages import STAGES
from ...results.speed import RunRow, SpeedResult
from ...summary import percentile, ratios
from .. import units
from ..runs import (
    host_a_token,
    host_share,
    is_whole,
    stage_median,
    total,
)
from .accuracy import accuracy_cell, accuracy_note
from .start import start_table
from .table import Table
from .within import within_table

_HOST = (
    " Host a token is what decoding takes but for waiting for the GPU: search and launches. "
    "ONNX Runtime waits within its runs, which are left out whole; of transformers it is not known."
)


def speed_tables(result: SpeedResult, *, brief: bool = False) -> list[Table]:
    """All tables of a speed result; `brief` leaves the stages out, for a README."""
    stages = [] if brief else [stage_table(result), within_table(result)]
    tables = [latency_table(result), *stages, start_table(result), failure_table(result)]
    return [table for table in tables if table.rows]


def latency_table(result: SpeedResult) -> Table:
    """How long answers take, and how much faster than the baseline they are."""
    rows = [
        (
            *(run.workload.name, run.label),
            *_latency(run),
            *(_times_faster(run, result), _same(run)),
            *([_accuracy(run, result)] if result.accuracy else []),
        )
        for run in result.runs
        if run.rounds
    ]
    return Table(
        title="Latency, picture file to answer",
        heading=(
            *("task", "system", "p50", "p90", "rounds", "tokens/s", "images/s"),
            *(f"times {result.baseline}", "same tokens"),
            *(["accuracy"] if result.accuracy else []),
        ),
        rows=tuple(rows),
        kinds="nn" + "f" * (8 if result.accuracy else 7),
        note=(
            "Systems take turns. The ratio is the median over the rounds of baseline time by "
            "system time, with the lowest and highest round. tokens/s counts the time of decoder "
            "and search." + accuracy_note(result.runs, result.accuracy)
        ),
        remark=(
            "Same tokens: whether the token ids of all answers are the baseline's. Where the "
            "likeliest tokens nearly tie, as with random weights, int8 and bfloat16 choose others; "
            "that says nothing about accuracy."
        ),
    )


def stage_table(result: SpeedResult) -> Table:
    """Where the time goes, as medians."""
    runs = [run for run in result.runs if is_whole(run)]
    on_gpu = any(host_a_token(run) is not None for run in runs)
    rows = [
        (
            run.workload.name,
            run.label,
            *(units.duration(stage_median(run, stage)) for stage in STAGES),
            units.share(host_share(run)),
            units.duration(run.step_p50),
            units.duration(run.step_p90),
            *([units.duration(host_a_token(run))] if on_gpu else []),
        )
        for run in runs
    ]
    return Table(
        title="Stages",
        heading=(
            *("task", "system", *STAGES, "search share", "step p50", "step p90"),
            *(["host a token"] if on_gpu else []),
        ),
        rows=tuple(rows),
        kinds="nn" + "f" * (len(STAGES) + 3 + on_gpu),
        note=(
            "Medians over the rounds. Decoder is the engine's time for all steps, search the time "
            "between them, and its share is of both; a step is one decoded token, of all beams."
            + (_HOST if on_gpu else "")
        ),
    )


def failure_table(result: SpeedResult) -> Table:
    """What did not work, and why."""
    systems = [(row.system.label, "start", row.error) for row in result.systems if row.error]
    runs = [(run.label, run.workload.name, run.error) for run in result.runs if run.error]
    others = [(each.label, each.at, each.message) for each in result.failures]
    rows = tuple((label, what, error or "") for label, what, error in systems + runs + others)
    return Table(title="Failures", heading=("system", "at", "message"), rows=rows, kinds="nnt")


def _latency(run: RunRow) -> Sequence[str]:
    batch = run.workload.batch
    decoding = [each.decoding_seconds for each in run.rounds]
    tokens = [each.tokens * batch for each in run.rounds]
    rates = [count / seconds for count, seconds in zip(tokens, decoding, strict=True)]
    whole = is_whole(run)
    return (
        units.duration(total(run)) if whole else "-",
        units.duration(total(run, 90)) if whole else "-",
        str(len(run.rounds)),
        units.rate(percentile(rates, 50)),
        units.rate(batch / total(run)) if whole else "-",
    )


def _times_faster(run: RunRow, result: SpeedResult) -> str:
    baseline = next(
        (
            other
            for other in result.runs
            if (other.label, other.workload) == (result.baseline, run.workload)
        ),
        None,
    )
    if baseline is None or len(baseline.rounds) != len(run.rounds):
        return "-"
    if run.label == result.baseline:
        return "1"
    seconds = attrgetter("seconds" if is_whole(run) else "decoding_seconds")
    spread = ratios([*map(seconds, baseline.rounds)], [*map(seconds, run.rounds)])
    what = "" if is_whole(run) else "decoding "
    return what + units.spread(spread)


def _same(run: RunRow) -> str:
    return {True: "yes", False: "no", None: "-"}[run.same_tokens if is_whole(run) else None]


def _accuracy(run: RunRow, result: SpeedResult) -> str:
    """The headline figure of a bundle's answers to the task, where truth was given."""
    row = next(row for row in result.systems if row.system.label == run.label)
    return accuracy_cell(row, run, result.accuracy)
