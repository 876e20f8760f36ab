"""What speed was aimed at beside what was measured: the tables of benchmarks/README.md.

    python -m florence_edge_benchmarks.report.targets results/speed --update benchmarks/README.md

writes them anew, between the page's marks, from the committed results of that folder.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from florence_edge.command import run_command
from florence_edge.errors import RequestError

from ..results import RunRow, SpeedResult, SystemRow
from ..results_io import read_result, write_text
from ..timing import ratios
from . import units
from .markdown import table_as_markdown, with_block
from .speed_tables import host_share, stage_median
from .tables import Table

TASKS = ("CAPTION", "OD")


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """A system and its workload: a bundle on a device, or what it is compared with."""

    bundle: str = ""
    device: str = "cpu"
    variant: str = ""
    beams: int = 3
    batch: int = 1


FP32, INT8 = Selection(bundle="fp32"), Selection(bundle="int8-cpu")
OPENVINO = Selection(bundle="int8-portable", device="openvino")

Results = dict[str, SpeedResult]
"""The committed speed results, by the names of their files without the ending."""


def read_results(folder: Path) -> Results:
    """The speed results of a folder.

    Raises:
        RequestError: a file of it is not a speed result.
    """
    results = {}
    for path in sorted(folder.glob("*.json")):
        result = read_result(path)
        if not isinstance(result, SpeedResult):
            raise RequestError(f"{path} is not a result of `florence-bench speed`.")
        results[path.stem] = result
    return results


def target_tables(results: Results) -> str:
    """The tables between the marks of benchmarks/README.md.

    Raises:
        RequestError: a result that a figure is from is missing, or has not the system or workload.
    """
    tables = (_changes(results), _targets(results), _start(results))
    return "\n\n".join(map(table_as_markdown, tables))


def _changes(results: Results) -> Table:
    result = _result(results, "base_graphs_cpu")
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
                    units.duration(
                        stage_median(_run(result, "CAPTION", Selection(bundle=name)), stage)
                    )
                    for name in (f"{bundle}-before", bundle)
                ),
            )
            for change, stage, bundle in rows
        ),
        kinds="ttff",
    )


def _targets(results: Results) -> Table:
    rows = [
        (target, *(figure(task) for task in TASKS), file) for target, file, figure in _rows(results)
    ]
    return Table(title="", heading=("target", *TASKS, "from"), rows=tuple(rows), kinds="tffn")


def _rows(results: Results) -> Iterator[tuple[str, str, Callable[[str], str]]]:
    main, within, optimum = "base_cpu", "base_beams_batches_cpu", "base_optimum_cpu"
    float32, bfloat16 = Selection(variant="transformers"), Selection(variant="transformers-bf16")
    for target, ours, theirs in (
        ("float32: 1.6 and 2.2 times transformers float32", FP32, float32),
        ("int8 `cpu`: 2.6 and 4 times transformers float32", INT8, float32),
        ("OpenVINO, int8 portable: 5 and 6 times transformers float32", OPENVINO, float32),
        ("int8 `cpu`: 1.5 times transformers bfloat16", INT8, bfloat16),
    ):
        yield target, main, _faster(_result(results, main), ours, theirs, _seconds)
    for name, bundle, file in (
        ("float32", "fp32", within),
        ("int8 `cpu`", "int8-cpu", within),
        ("float32, one thread", "fp32", optimum),
    ):
        beams, greedy = Selection(bundle=bundle), Selection(bundle=bundle, beams=1)
        target = f"{name}: a step of 3 beams at most 1.25 greedy ones"
        yield target, file, _faster(_result(results, file), greedy, beams, _step)
    for name, bundle in (("float32", "fp32"), ("int8 `cpu`", "int8-cpu")):
        for search, count in (("greedy", 1), ("3 beams", 3)):
            single = Selection(bundle=bundle, beams=count)
            four = Selection(bundle=bundle, beams=count, batch=4)
            target = f"{name}, {search}: batches of 4 at least 1.3 times the pictures a second"
            yield target, within, _faster(_result(results, within), four, single, _a_picture)
    yield "search: at most 8 % of decoding", "all of them", _search_share(results)
    for search, count in (("greedy", 1), ("3 beams", 3)):
        ours = Selection(bundle="fp32", beams=count)
        theirs = Selection(variant="optimum", beams=count)
        target = f"optimum's BART: its decoding, {search}, to ours in float32, one thread"
        yield target, optimum, _faster(_result(results, optimum), theirs, ours, _decoding)


def _start(results: Results) -> Table:
    start = _system(_result(results, "base_cpu"), INT8).start
    rows = [
        ("import: under 0.4 s", units.duration(start.import_seconds if start else None)),
        ("int8 `cpu` loads in under 2 s", units.duration(start.load_seconds if start else None)),
        ("and peaks under 900 MB", units.size(start.peak_bytes if start else None)),
    ]
    return Table(title="", heading=("target", "base_cpu"), rows=tuple(rows), kinds="tf")


def _faster(
    result: SpeedResult,
    ours: Selection,
    theirs: Selection,
    seconds: Callable[[RunRow], list[float]],
) -> Callable[[str], str]:
    """How many times faster `ours` is, round by round, by task."""

    def figure(task: str) -> str:
        of, to = (seconds(_run(result, task, each)) for each in (theirs, ours))
        return units.spread(ratios(of, to))

    return figure


def _search_share(results: Results) -> Callable[[str], str]:
    def figure(task: str) -> str:
        shares = [
            host_share(run)
            for result in results.values()
            for run in result.runs
            if run.workload.task == task and _kind(result, run.label) == "bundle"
        ]
        return f"{units.share(min(shares))} to {units.share(max(shares))}"

    return figure


def _seconds(run: RunRow) -> list[float]:
    return [each.seconds for each in run.rounds]


def _a_picture(run: RunRow) -> list[float]:
    return [each.seconds / run.workload.batch for each in run.rounds]


def _decoding(run: RunRow) -> list[float]:
    return [each.decoding_seconds for each in run.rounds]


def _step(run: RunRow) -> list[float]:
    return [each.step_seconds for each in run.rounds]


def _result(results: Results, name: str) -> SpeedResult:
    if name not in results:
        raise RequestError(f"There is no result {name}.json among {', '.join(results) or 'none'}.")
    return results[name]


def _run(result: SpeedResult, task: str, selection: Selection) -> RunRow:
    label = _system(result, selection).system.label
    runs = [
        run
        for run in result.runs
        if run.label == label
        and (run.workload.task, run.workload.beams, run.workload.batch)
        == (task, selection.beams, selection.batch)
    ]
    if len(runs) != 1:
        raise RequestError(f"{len(runs)} runs of {task} by {selection}, expected 1.")
    return runs[0]


def _system(result: SpeedResult, selection: Selection) -> SystemRow:
    wanted = (selection.bundle, selection.device)
    rows: Sequence[SystemRow] = [
        row
        for row in result.systems
        if row.system.variant == selection.variant
        and (selection.variant or (row.system.bundle, row.system.device) == wanted)
    ]
    if len(rows) != 1:
        raise RequestError(f"{len(rows)} systems are {selection}, expected 1.")
    return rows[0]


def _kind(result: SpeedResult, label: str) -> str:
    return next(row.system.kind for row in result.systems if row.system.label == label)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the tables into the page; give the exit status."""
    parser = argparse.ArgumentParser(prog="florence_edge_benchmarks.report.targets")
    parser.add_argument("results", type=Path, metavar="DIR", help="speed results as JSON")
    parser.add_argument("--update", type=Path, metavar="PAGE", required=True, help="Markdown")
    parsed = parser.parse_args(arguments)

    def update() -> None:
        page = parsed.update.read_text(encoding="utf-8")
        tables = target_tables(read_results(parsed.results))
        write_text(parsed.update, with_block(page, tables, str(parsed.update)))

    return run_command(parser.prog, update)


if __name__ == "__main__":
    sys.exit(main())
