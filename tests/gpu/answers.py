"""Whole answers, picture file to result, beside transformers in turns: what the goals are about.

    python -m gpu.answers --figures FILE --work DIR --output RESULT.json [--device cpu]

The output is a result of florence-bench, written anew when more of it is known. First all systems
that start at once take turns; then they do so with a compiled transformers among them, whose code
lies in torch's cache if `gpu.opponents` ran before on the same machine.
"""

import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from time import perf_counter

from florence_edge import Device
from florence_edge.backends.gpu import CUDA_GRAPHS
from florence_edge.backends.gpu_decoder import MULTI_STEP
from florence_edge.bundle import Bundle
from florence_edge.cpu import usable_cores
from florence_edge.errors import FlorenceEdgeError
from florence_edge_benchmarks.machine import describe_machine
from florence_edge_benchmarks.results import RunRow, SpeedResult, Start, SystemRow
from florence_edge_benchmarks.results_io import bundle_fingerprint, write_result
from florence_edge_benchmarks.speed.comparison import (
    BundleOnDevices,
    ComparisonPlan,
    compared_systems,
)
from florence_edge_benchmarks.speed.process import SystemProcess
from florence_edge_benchmarks.speed.run import (
    Rounds,
    RoundsOutcome,
    baseline_of,
    run_rounds,
    run_row,
)
from florence_edge_benchmarks.systems.system import VARIANTS, System, SystemDevice, Variant
from florence_edge_benchmarks.systems.workload import TimedAnswer, Workload
from florence_edge_benchmarks.timing import ratios

from .backends import Settings, environment
from .figures import Figures
from .models import PRECISIONS, arguments, bundle, checkpoint
from .opponents import asked

EAGER = Variant("float32")
ROUNDS = Rounds(warmup=2, timed=10)


def main() -> int:
    parser = arguments(__doc__)
    parser.add_argument("--output", type=Path, required=True, help="a result of florence-bench")
    parser.add_argument("--no-compile", action="store_true", help="leave that opponent out")
    told = parser.parse_args()
    figures = Figures(told.figures, "answers")
    with figures.attempt("answers"):
        work, device = told.work, told.device
        folders = []
        for precision in PRECISIONS:
            with figures.attempt(precision):
                folders.append(bundle(told.architecture, precision, work))
        plan = ComparisonPlan(
            competitors=opponents(device, compiled=not told.no_compile),
            threads=usable_cores().count,
            checkpoint=str(checkpoint(told.architecture, work)),
        )
        on = (SystemDevice(Device.parse(device)),)
        systems = compared_systems([BundleOnDevices(folder, on) for folder in folders], plan)
        compiled = [system for system in systems if VARIANTS.get(system.variant, EAGER).compiled]
        at_once: list[tuple[System, Settings]] = [
            (system, {}) for system in systems if system not in compiled
        ]
        with ExitStack() as stack:
            taking_part = TakingPart(stack, asked(work))
            taking_part.start([*at_once, *settings_of(systems[0])])
            report(figures, told.output, taking_part.measure())
            if compiled and taking_part.start([(system, {}) for system in compiled]):
                report(figures, told.output, taking_part.measure())
            elif compiled:
                raise RuntimeError(taking_part.rows[-1].error)
    return figures.exit_status


def opponents(device: str, *, compiled: bool) -> list[str]:
    """transformers' variants; on a CPU float16 would say nothing."""
    plain = "transformers" if device == "cpu" else "transformers-fp16"
    return [plain, f"{plain}-compile"] if compiled else [plain]


def settings_of(system: System) -> list[tuple[System, Settings]]:
    """The same bundle in other ways: steps not captured, or that wait for the search, or do not."""
    ways = [{CUDA_GRAPHS: "0"}, {MULTI_STEP: "1"}, {MULTI_STEP: "4"}]
    if not system.runs_on.device.on_nvidia:
        return []
    return [
        (replace(system, label=f"{system.label}, {name}={value}"), {name: value})
        for way in ways
        for name, value in way.items()
    ]


class TakingPart:
    """Systems in processes of their own, which end with `stack`."""

    def __init__(self, stack: ExitStack, workloads: Sequence[Workload]) -> None:
        self.rows: list[SystemRow] = []
        self._stack = stack
        self._workloads = workloads
        self._running: dict[str, TimedAnswer] = {}

    def start(self, variants: Sequence[tuple[System, Settings]]) -> bool:
        """Start these beside each other; one that fails is a row with its message.

        Returns:
            Whether all of them answer.
        """
        processes = []
        for system, settings in variants:
            with environment(settings):
                processes.append((SystemProcess(system), perf_counter()))
        new = [started(self._stack, *one, self._workloads[0]) for one in processes]
        self.rows += new
        for row, (process, _) in zip(new, processes, strict=True):
            if row.error is None:
                self._running[row.system.label] = process.answer
        return all(row.error is None for row in new)

    def measure(self) -> SpeedResult:
        """Let all that run take turns."""
        runs: list[RunRow] = []
        baseline = baseline_of([row.system for row in self.rows if row.error is None])
        outcomes = run_rounds(self._running, self._workloads, ROUNDS)
        for workload, of_workload in zip(self._workloads, outcomes, strict=True):
            expected = token_ids(of_workload.get(baseline, ""))
            for label, outcome in of_workload.items():
                if isinstance(outcome, str):
                    runs.append(run_row(label, workload, [], same_tokens=None, error=outcome))
                    continue
                same = None if label == baseline else token_ids(outcome) == expected
                runs.append(run_row(label, workload, outcome, same_tokens=same))
        return SpeedResult(
            machine=describe_machine(),
            settings={
                "command": "python -m gpu.answers (tests/gpu)",
                "threads": str(self.rows[0].system.threads),
                "rounds": str(ROUNDS.timed),
            },
            baseline=baseline,
            systems=tuple(self.rows),
            runs=tuple(runs),
        )


def token_ids(outcome: RoundsOutcome) -> list[object] | None:
    """The answers of all rounds."""
    return None if isinstance(outcome, str) else [timing.token_ids for timing in outcome]


def started(stack: ExitStack, process: SystemProcess, begun: float, first: Workload) -> SystemRow:
    """The row of a system that was started beside others: its times of loading are no figures."""
    system = process.system
    bundle_of = Bundle.load(Path(system.bundle))
    ours = system.kind == "bundle"
    precision = bundle_of.precision if ours else VARIANTS[system.variant].dtype
    try:
        stack.enter_context(process)
        process.answer(first)
        seconds, used = perf_counter() - begun, process.memory()
    except FlorenceEdgeError as error:
        return SystemRow(
            system=system, model=bundle_of.model, precision=precision, start=None, error=str(error)
        )
    start = Start(
        import_seconds=None,
        load_seconds=process.loaded["load_seconds"],
        first_answer_seconds=seconds,
        loaded_bytes=process.loaded["resident_bytes"],
        answering_bytes=used["resident_bytes"],
        peak_bytes=used["peak_bytes"],
        disk_bytes=None,
        device_bytes=used["device_bytes"],
        reader=process.loaded.get("reader"),
    )
    return SystemRow(
        system=system,
        model=bundle_of.model,
        precision=precision,
        start=start,
        fingerprint=bundle_fingerprint(bundle_of.folder) if ours else "",
    )


def report(figures: Figures, output: Path, result: SpeedResult) -> None:
    """Write the result, and note times and ratios."""
    write_result(output, result)
    for row in result.systems:
        if row.error is not None:
            figures.put(f"{row.system.label} failed", row.error)
    by_workload: dict[str, list[RunRow]] = {}
    for run in result.runs:
        by_workload.setdefault(run.workload.name, []).append(run)
    for workload, runs in by_workload.items():
        for run in runs:
            figures.put(f"{workload}: {run.label}", summary(run, runs))


def summary(run: RunRow, runs: Sequence[RunRow]) -> Mapping[str, object]:
    """The median answer, and how many times as fast it is as transformers in the same rounds."""
    if run.error is not None:
        return {"error": run.error}
    seconds = [one.seconds for one in run.rounds]
    hosts = [one.host for one in run.rounds if one.host is not None]
    found: dict[str, object] = {
        "answer ms": round(1e3 * sorted(seconds)[len(seconds) // 2], 3),
        "tokens": run.rounds[0].tokens,
        "host ms of decoding": round(1e3 * sorted(hosts)[len(hosts) // 2], 3) if hosts else None,
        "same tokens": run.same_tokens,
    }
    for other in runs:
        if other.label.startswith("transformers") and other.label != run.label and other.rounds:
            spread = ratios([one.seconds for one in other.rounds], seconds)
            found[f"times {other.label}"] = [
                round(value, 2) for value in (spread.median, spread.low, spread.high)
            ]
    return found


if __name__ == "__main__":
    sys.exit(main())
