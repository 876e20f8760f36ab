"""The tables of a speed result: rows of text, the same for HTML and Markdown.

Latency beside the baseline, stages, what beams and batches cost within one system, what systems
cost before and beside their answers, and what failed.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from operator import attrgetter

from ..results import Floors, RunRow, SpeedResult, Start, SystemRow
from ..systems.system import OUR_READER
from ..timing import STAGES, percentile, ratios
from . import units
from .tables import Table, accuracy_cell, accuracy_note


def is_whole(run: RunRow) -> bool:
    """Whether a run has every stage; optimum answers have the decoder's alone."""
    return bool(run.rounds) and set(STAGES) <= set(run.rounds[0].stages)


def stage_median(run: RunRow, stage: str) -> float:
    """Median seconds of a stage."""
    return percentile([each.stages[stage] for each in run.rounds], 50)


def host_share(run: RunRow) -> float:
    """The part of decoding that is spent outside of the engine."""
    search, decoder = (stage_median(run, stage) for stage in ("search", "decoder"))
    return search / max(search + decoder, 1e-12)


def host_a_token(run: RunRow) -> float | None:
    """Median seconds of the host's own work a token; see `Timing.host`."""
    known = [each.host / each.tokens for each in run.rounds if each.host is not None]
    return percentile(known, 50) if known else None


def total(run: RunRow, percent: float = 50) -> float:
    """A percentile of the seconds of an answer."""
    return percentile([each.seconds for each in run.rounds], percent)


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


def start_table(result: SpeedResult) -> Table:
    """Import, loading, memory and size of the systems that started."""
    started = [(row, row.start) for row in result.systems if row.start is not None]
    on_gpu = any(start.device_bytes is not None for _, start in started)
    rows = [
        (row.system.label, row.precision, *_times(start), *_sizes(start, on_gpu=on_gpu))
        for row, start in started
    ]
    return Table(
        title="Start, memory and size",
        heading=(
            *("system", "precision", "import", "load", "cold start"),
            *("loaded", "peak answering", "peak", *(["on the GPU"] if on_gpu else [])),
            "model on disk",
        ),
        rows=tuple(rows),
        kinds="nn" + "f" * (7 + on_gpu),
        note=_note([row for row, _ in started], on_gpu=on_gpu),
    )


def _times(start: Start) -> tuple[str, ...]:
    seconds = (start.import_seconds, start.load_seconds, start.first_answer_seconds)
    return tuple(map(units.duration, seconds))


def _sizes(start: Start, *, on_gpu: bool) -> tuple[str, ...]:
    counts = [start.loaded_bytes, start.answering_bytes, start.peak_bytes]
    counts += [start.device_bytes] if on_gpu else []
    return tuple(map(units.size, [*counts, start.disk_bytes]))


def _note(rows: Sequence[SystemRow], *, on_gpu: bool) -> str:
    note = (
        "A process of its own each, apart from the timing. Cold start is process to first answer, "
        "with files perhaps in the page cache. Memory is resident memory, mapped files included; "
        "the peak includes loading"
    )
    readers = {
        row.start.reader or OUR_READER
        for row in rows
        if row.start is not None and row.system.kind == "transformers"
    }
    note += "".join(f", for transformers by {reader}" for reader in sorted(readers)) + "."
    if on_gpu:
        note += " On the GPU is what is held there after the answers, beyond the CUDA context."
    return note


_HOST = (
    " Host a token is what decoding takes but for waiting for the GPU: search and launches; of "
    "transformers it is not known."
)


def speed_tables(result: SpeedResult, *, brief: bool = False) -> list[Table]:
    """All tables of a speed result; `brief` leaves the stages out, for a README."""
    stages = [] if brief else [stage_table(result), within_table(result)]
    floors = [] if brief else [floor_table(result)]
    tables = [latency_table(result), *stages, *floors, start_table(result), failure_table(result)]
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


def floor_table(result: SpeedResult) -> Table:
    """How near each engine comes to what the arithmetic and the weights take."""
    floors = {row.system.label: row.floors for row in result.systems if row.floors is not None}
    rows = [
        (run.workload.name, run.label, *_beside_floors(run, floors[run.label]))
        for run in result.runs
        if is_whole(run) and run.label in floors and run.workload.batch == 1
    ]
    return Table(
        title="Measured against the floors",
        heading=(
            *("task", "system", "products of vision", "vision", "GFLOP/s"),
            *("weights a step", "step p50", "GB/s"),
        ),
        rows=tuple(rows),
        kinds="nn" + "f" * 6,
        note=(
            "Vision cannot do with less than its products, a step not with less than reading the "
            "decoder's weights once, however many beams it has."
        ),
    )


def _beside_floors(run: RunRow, floors: Floors) -> tuple[str, ...]:
    vision, step, flop = stage_median(run, "vision"), run.step_p50, floors.vision_flop
    return (
        f"{flop / 1e9:.0f} GFLOP" if flop else "-",
        units.duration(vision),
        f"{flop / vision / 1e9:.0f}" if flop and vision else "-",
        units.size(floors.step_bytes),
        units.duration(step),
        f"{floors.step_bytes / step / 1e9:.1f}" if step else "-",
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
