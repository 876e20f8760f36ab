"""The figures of benchmarks/README.md, from the committed results: `python -m
tests.benchmarks.asked_figures` writes the block anew, test_committed.py holds it to them.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from florence_edge_benchmarks.report import units
from florence_edge_benchmarks.report.markdown import table_as_markdown, with_block
from florence_edge_benchmarks.report.runs import host_share, stage_median
from florence_edge_benchmarks.report.tables.table import Table
from florence_edge_benchmarks.results.files import read_result
from florence_edge_benchmarks.results.speed import RunRow, SpeedResult, SystemRow
from florence_edge_benchmarks.summary import ratios

ROOT = Path(__file__).parents[2]
README = ROOT / "benchmarks" / "README.md"
TASKS = ("CAPTION", "OD")


@dataclass(frozen=True, slots=True, kw_only=True)
class Which:
    """A run: of a bundle on a device, or of what it is compared with."""

    bundle: str = ""
    device: str = "cpu"
    variant: str = ""
    beams: int = 3
    batch: int = 1


FP32, INT8 = Which(bundle="fp32"), Which(bundle="int8-cpu")
OPENVINO = Which(bundle="int8-portable", device="openvino")


def committed(name: str) -> SpeedResult:
    """The speed result `benchmarks/results/NAME.json`."""
    result = read_result(ROOT / "benchmarks" / "results" / f"{name}.json")
    assert isinstance(result, SpeedResult)
    return result


def block() -> str:
    """The tables between the marks of benchmarks/README.md."""
    return "\n\n".join(map(table_as_markdown, (_changes(), _asked(), _start())))


def _changes() -> Table:
    result = committed("base_graphs_cpu")
    rows = [
        ("`qkv` as three linears, behind the windows", "vision", "int8-cpu"),
        ("the same", "vision", "fp32"),
        ("a Q/DQ pair for each linear", "text encoder", "int8-portable"),
    ]
    return Table(
        title="",
        heading=("change", "what", "before", "after"),
        rows=tuple(
            (
                change,
                f"{stage}, {bundle}",
                *(
                    units.duration(stage_median(_run(result, "CAPTION", Which(bundle=name)), stage))
                    for name in (f"{bundle}-before", bundle)
                ),
            )
            for change, stage, bundle in rows
        ),
        kinds="ttff",
    )


def _asked() -> Table:
    rows = [(what, *(figure(task) for task in TASKS), file) for what, file, figure in _rows()]
    return Table(title="", heading=("asked", *TASKS, "from"), rows=tuple(rows), kinds="tffn")


def _rows() -> Iterator[tuple[str, str, Callable[[str], str]]]:
    main, within, optimum = "base_cpu", "base_beams_batches_cpu", "base_optimum_cpu"
    float32, bfloat16 = Which(variant="transformers"), Which(variant="transformers-bf16")
    for what, ours, theirs in (
        ("float32: 1.6 and 2.2 times transformers float32", FP32, float32),
        ("int8 `cpu`: 2.6 and 4 times transformers float32", INT8, float32),
        ("OpenVINO, int8 portable: 5 and 6 times transformers float32", OPENVINO, float32),
        ("int8 `cpu`: 1.5 times transformers bfloat16", INT8, bfloat16),
    ):
        yield what, main, _faster(main, ours, theirs, _seconds)
    for name, bundle in (("float32", "fp32"), ("int8 `cpu`", "int8-cpu")):
        beams, greedy = Which(bundle=bundle), Which(bundle=bundle, beams=1)
        what = f"{name}: a step of 3 beams at most 1.25 greedy ones"
        yield what, within, _faster(within, greedy, beams, _step)
    beams, greedy = FP32, Which(bundle="fp32", beams=1)
    what = "float32, one thread: a step of 3 beams at most 1.25 greedy ones"
    yield what, optimum, _faster(optimum, greedy, beams, _step)
    for name, bundle in (("float32", "fp32"), ("int8 `cpu`", "int8-cpu")):
        for said, count in (("greedy", 1), ("3 beams", 3)):
            single, four = (
                Which(bundle=bundle, beams=count),
                Which(bundle=bundle, beams=count, batch=4),
            )
            what = f"{name}, {said}: batches of 4 at least 1.3 times the pictures a second"
            yield what, within, _faster(within, four, single, _a_picture)
    yield "search: at most 8 % of decoding", "all of them", _search
    for said, count in (("greedy", 1), ("3 beams", 3)):
        ours, theirs = Which(bundle="fp32", beams=count), Which(variant="optimum", beams=count)
        what = f"optimum's BART: its decoding, {said}, to ours in float32, one thread"
        yield what, optimum, _faster(optimum, theirs, ours, _decoding)


def _start() -> Table:
    start = _system(committed("base_cpu"), INT8).start
    assert start is not None
    rows = [
        ("import: under 0.4 s", units.duration(start.import_seconds)),
        ("int8 `cpu` loads in under 2 s", units.duration(start.load_seconds)),
        ("and peaks under 900 MB", units.size(start.peak_bytes)),
    ]
    return Table(title="", heading=("asked", "base_cpu"), rows=tuple(rows), kinds="tf")


def _faster(
    name: str, ours: Which, theirs: Which, seconds: Callable[[RunRow], list[float]]
) -> Callable[[str], str]:
    """How many times faster `ours` is, round by round."""
    result = committed(name)

    def figure(task: str) -> str:
        return units.spread(
            ratios(seconds(_run(result, task, theirs)), seconds(_run(result, task, ours)))
        )

    return figure


def _search(task: str) -> str:
    shares = [
        host_share(run)
        for path in sorted((ROOT / "benchmarks" / "results").glob("*.json"))
        for result in [committed(path.stem)]
        for run in result.runs
        if run.workload.task == task and _by_label(result, run.label).system.kind == "bundle"
    ]
    return f"{units.share(min(shares))} to {units.share(max(shares))}"


def _seconds(run: RunRow) -> list[float]:
    return [each.seconds for each in run.rounds]


def _a_picture(run: RunRow) -> list[float]:
    return [each.seconds / run.workload.batch for each in run.rounds]


def _decoding(run: RunRow) -> list[float]:
    return [each.decoding_seconds for each in run.rounds]


def _step(run: RunRow) -> list[float]:
    return [each.step_seconds for each in run.rounds]


def _run(result: SpeedResult, task: str, which: Which) -> RunRow:
    label = _system(result, which).system.label
    (found,) = (
        run
        for run in result.runs
        if run.label == label
        and (run.workload.task, run.workload.beams, run.workload.batch)
        == (task, which.beams, which.batch)
    )
    return found


def _system(result: SpeedResult, which: Which) -> SystemRow:
    rows: Sequence[SystemRow] = [
        row
        for row in result.systems
        if row.system.variant == which.variant
        and (
            which.variant or (row.system.bundle, row.system.device) == (which.bundle, which.device)
        )
    ]
    (found,) = rows
    return found


def _by_label(result: SpeedResult, label: str) -> SystemRow:
    return next(row for row in result.systems if row.system.label == label)


if __name__ == "__main__":
    page = README.read_text(encoding="utf-8")
    README.write_text(with_block(page, block(), str(README)), encoding="utf-8")
