"""`measure_speed`: start every system, let all take turns, and put the outcome together.

In a timed round every system answers once, A B A B, so that all share the same machine. Other work
on it slows whole stretches of time; the ratio of two answers of one round holds where the seconds
do not. So do workloads of one round: three beams against one, four pictures against one.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from florence_edge.bundle import Bundle
from florence_edge.errors import BackendError, BundleError, FlorenceEdgeError, RequestError

from ..machine import describe_machine
from ..results import Round, RunRow, SpeedResult, SystemRow
from ..results_io import bundle_fingerprint
from ..systems.checkpoint import check_same_weights
from ..systems.system import VARIANTS, System
from ..systems.workload import TimedAnswer, Workload
from ..timing import Timing, median_by_position, percentile
from .floors import floors_of
from .process import SystemProcess
from .start import measure_start

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rounds:
    """How often: warm-up answers are not timed."""

    warmup: int = 1
    timed: int = 5


RoundsOutcome = list[Timing] | str
"""The timings of all rounds, or the message of a failure."""


def run_rounds(
    systems: Mapping[str, TimedAnswer], workloads: Sequence[Workload], rounds: Rounds
) -> list[dict[str, RoundsOutcome]]:
    """Let all answer every workload in turn; one that fails is left out of that workload.

    Every other round goes backwards, so that none is always the one who follows another.

    Returns:
        The outcomes by label, one mapping a workload.
    """
    outcomes: list[dict[str, RoundsOutcome]] = [{label: [] for label in systems} for _ in workloads]
    turns = [
        (workload, of_workload, label)
        for workload, of_workload in zip(workloads, outcomes, strict=True)
        for label in systems
    ]
    for number in range(rounds.warmup + rounds.timed):
        for workload, of_workload, label in turns if number % 2 == 0 else turns[::-1]:
            timings = of_workload[label]
            if isinstance(timings, str):
                continue
            try:
                timing = systems[label](workload)
            except BackendError as error:
                of_workload[label] = str(error)
                continue
            if number >= rounds.warmup:
                timings.append(timing)
    return outcomes


def measure_speed(
    systems: Sequence[System],
    workloads: Sequence[Workload],
    rounds: Rounds,
    settings: Mapping[str, Any],
    failed: Mapping[str, str],
) -> SpeedResult:
    """Measure all systems with all workloads.

    First each alone, for memory and start; then all together, taking turns, for time. What fails
    becomes a row with its message.

    Args:
        systems: of distinct labels.
        workloads: at least one.
        rounds: how many are timed.
        settings: what was requested, as plain JSON; kept with the result.
        failed: bundles that could not be made, by their folder, and why.
    """
    machine = describe_machine()
    rows = [_with_floors(_start(system, workloads, failed)) for system in systems]
    runs: list[RunRow] = []
    baseline = baseline_of([row.system for row in rows if row.error is None])
    with ExitStack() as stack:
        running = {label: one.answer for label, one in _running(stack, rows)}
        for task, some in _by_task(workloads).items() if running else ():
            logger.info("%s: workloads %d, rounds %d", task, len(some), rounds.timed)
            for workload, outcomes in zip(some, run_rounds(running, some, rounds), strict=True):
                runs += _run_rows(workload, outcomes, baseline)
    return SpeedResult(
        machine=machine,
        settings=settings,
        baseline=baseline,
        systems=tuple(rows),
        runs=tuple(runs),
    )


def check_measured(result: SpeedResult) -> None:
    """Refuse a result in which no bundle has answered; why was reported when it happened.

    Raises:
        RequestError: it is so. One failure among others is a row.
    """
    bundles = {row.system.label for row in result.systems if row.system.kind == "bundle"}
    if not any(run.rounds for run in result.runs if run.label in bundles):
        raise RequestError("No bundle was measured; why stands above. No result was written.")


def _by_task(workloads: Sequence[Workload]) -> dict[str, list[Workload]]:
    """Those of a task share their rounds; of all tasks, a GPU would not keep its memory."""
    tasks: dict[str, list[Workload]] = {}
    for workload in workloads:
        tasks.setdefault(workload.task, []).append(workload)
    return tasks


def baseline_of(systems: Sequence[System]) -> str:
    """The label that ratios refer to: plain transformers, any other of its variants, the first."""
    variants = {system.variant: system.label for system in reversed(systems)}
    first = systems[0].label if systems else ""
    return next((variants[name] for name in VARIANTS if name in variants), first)


def _start(system: System, workloads: Sequence[Workload], failed: Mapping[str, str]) -> SystemRow:
    logger.info("%s: start and memory", system.label)
    heaviest = max(workloads, key=lambda one: (one.batch, one.beams, one.new_tokens or 0))
    model, precision, fingerprint = _identity(system)
    try:
        if system.bundle in failed:
            raise BundleError(failed[system.bundle])
        if system.kind == "transformers":
            check_same_weights(Path(system.bundle), system.checkpoint)
        start = measure_start(system, workloads[0], heaviest)
    except FlorenceEdgeError as error:
        logger.warning("%s: %s", system.label, error)
        return SystemRow(
            system=system, model=model, precision=precision, start=None, error=str(error)
        )
    return SystemRow(
        system=system, model=model, precision=precision, start=start, fingerprint=fingerprint
    )


def _with_floors(row: SystemRow) -> SystemRow:
    """A row with its floors, if it started."""
    if row.error is not None:
        return row
    return replace(row, floors=floors_of(Bundle.load(Path(row.system.bundle)), row.precision))


def _identity(system: System) -> tuple[str, str, str]:
    """Model, precision, and the fingerprint of a bundle that is measured itself."""
    try:
        bundle = Bundle.load(Path(system.bundle))
    except FlorenceEdgeError:
        return "unknown", "unknown", ""
    if system.kind == "bundle":
        return bundle.model, bundle.precision, bundle_fingerprint(bundle.folder)
    if system.kind == "openvino-notebook":
        return bundle.model, "int8 weights", ""
    if system.kind == "transformersjs":
        return bundle.model, "int8 weights (q8)", ""
    dtype = VARIANTS[system.variant].dtype if system.variant in VARIANTS else "float32"
    return bundle.model, dtype, ""


def _running(stack: ExitStack, rows: Sequence[SystemRow]) -> Iterable[tuple[str, SystemProcess]]:
    """The systems that could be started, once more, to stay."""
    for row in rows:
        if row.error is None:
            yield row.system.label, stack.enter_context(SystemProcess(row.system))


def _run_rows(
    workload: Workload, outcomes: Mapping[str, RoundsOutcome], baseline: str
) -> Iterable[RunRow]:
    reference = outcomes.get(baseline)
    for label, outcome in outcomes.items():
        if isinstance(outcome, str):
            logger.warning("%s, %s: %s", label, workload.name, outcome)
            yield run_row(label, workload, [], same_tokens=None, error=outcome)
            continue
        same = None
        if label != baseline and isinstance(reference, list):
            same = [each.token_ids for each in outcome] == [each.token_ids for each in reference]
        yield run_row(label, workload, outcome, same_tokens=same)


def run_row(
    label: str,
    workload: Workload,
    timings: Sequence[Timing],
    *,
    same_tokens: bool | None,
    error: str | None = None,
) -> RunRow:
    """The timings of all rounds as they are stored."""
    steps = [step for timing in timings for step in timing.steps]
    return RunRow(
        label=label,
        workload=replace(workload, image=Path(workload.image).name),
        rounds=tuple(
            Round(
                seconds=timing.seconds,
                stages=timing.stages,
                tokens=timing.tokens,
                host=timing.host,
            )
            for timing in timings
        ),
        steps=tuple(median_by_position([timing.steps for timing in timings])),
        step_p50=percentile(steps, 50) if steps else None,
        step_p90=percentile(steps, 90) if steps else None,
        step_count=len(steps),
        same_tokens=same_tokens,
        error=error,
    )
