"""florence-bench speed: how fast bundles answer, beside transformers on the same checkpoint."""

import argparse
import logging
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from florence_edge import GenerationOptions
from florence_edge.errors import FlorenceEdgeError, RequestError

from ..accuracy.examine import Examination, check_gradable
from ..accuracy.measure import measure_accuracy
from ..accuracy.truth import Truth, read_truth
from ..machine import usable_cores
from ..pictures import scene_picture
from ..report.markdown import markdown_of
from ..results.accuracy import AccuracyResult
from ..results.files import check_writable, write_result
from ..results.speed import Failure, SpeedResult
from ..speed.beforehand import check_some_can_answer
from ..speed.entrants import (
    OPTIMUM,
    Comparison,
    Entrant,
    entrant_of,
    stated_checkpoint,
    systems_of,
)
from ..speed.interleave import Rounds
from ..speed.measure import measure_speed
from ..speed.random_models import (
    RandomModel,
    check_work,
    export_bundles,
    make_checkpoint,
)
from ..systems.devices import Device, device_of
from ..systems.system import System
from ..systems.workload import Workload, beams_named, new_tokens_of, workloads
from .speed_arguments import add_arguments, settings_of

__all__ = ["DESCRIPTION", "HELP", "add_arguments", "run"]

logger = logging.getLogger(__name__)

HELP = "stages, latency, memory and start of bundles, beside transformers if asked for"
DESCRIPTION = (
    "Measure bundles, or --architecture base|large with random weights. Compared systems take "
    "turns (A B A B), each in a process of its own, and ratios are taken round by round."
)


def run(arguments: argparse.Namespace) -> str:
    """Measure, write the result and give its tables."""
    check_writable(arguments.output)
    truth = _truth(arguments)
    with tempfile.TemporaryDirectory(prefix="florence-bench-") as temporary:
        result = _measure(arguments, Path(temporary))
        _check_measured(result)
        if truth is not None:
            measured = list(_accuracies(arguments, truth, result))
            accuracy = tuple(each for each in measured if isinstance(each, AccuracyResult))
            failures = tuple(each for each in measured if isinstance(each, Failure))
            result = replace(result, accuracy=accuracy, failures=failures)
    if arguments.output:
        write_result(arguments.output, result)
    return markdown_of([result])


def _truth(arguments: argparse.Namespace) -> Truth | None:
    """What is wrong with the data is told before hours are spent on speed."""
    if arguments.data is None:
        return None
    truth = read_truth(arguments.data, limit=arguments.data_limit)
    check_gradable(truth, Examination(tasks=arguments.tasks))
    return truth


def _check_measured(result: SpeedResult) -> None:
    """A failure is a row, but a run in which no bundle answered has failed, and is not written.

    Each failure was told when it happened.
    """
    bundles = {row.system.label for row in result.systems if row.system.kind == "bundle"}
    if not any(run.rounds for run in result.runs if run.label in bundles):
        raise RequestError("No bundle was measured; why stands above. No result was written.")


def _measure(arguments: argparse.Namespace, temporary: Path) -> SpeedResult:
    devices, failed = _devices(arguments), dict[str, str]()
    asked = _workloads(arguments, temporary)
    entrants = [entrant_of(text, devices) for text in arguments.bundles]
    checkpoint = arguments.checkpoint
    if arguments.architecture:
        model, work = _random_model(arguments), arguments.work or temporary
        check_work(model, work)
        made = make_checkpoint(model, work)
        checkpoint = checkpoint or str(made)
        for folder, problem in export_bundles(model, made, work):
            entrants.append(Entrant(folder, devices))
            if problem:
                failed[str(folder)] = problem
    if not entrants:
        raise RequestError("There is nothing to measure. Name a BUNDLE, or give --architecture.")
    threads = arguments.threads or usable_cores()
    comparison = Comparison(
        competitors=arguments.compare,
        threads=threads,
        checkpoint=checkpoint,
        bart=str(temporary / "bart"),
        optimum_python=arguments.optimum_python,
    )
    systems = systems_of(entrants, comparison, failed)
    check_some_can_answer([entrant.folder for entrant in entrants], asked, failed)
    for system in systems:
        if system.kind == OPTIMUM:
            _write_bart(system, checkpoint, asked)
    rounds = Rounds(warmup=arguments.warmup, timed=arguments.rounds)
    return measure_speed(systems, asked, rounds, settings_of(arguments, threads), failed)


def _devices(arguments: argparse.Namespace) -> tuple[Device, ...]:
    precision = arguments.engine_precision
    devices = tuple(device_of(text, precision=precision) for text in arguments.device)
    if precision is not None and not any(device.precision for device in devices):
        raise RequestError("--engine-precision is for openvino. Add it to --device.")
    return devices


def _workloads(arguments: argparse.Namespace, temporary: Path) -> list[Workload]:
    endless = bool(arguments.architecture)
    new_tokens = new_tokens_of(arguments.tasks, arguments.new_tokens, endless=endless)
    image = str(arguments.image or scene_picture(temporary))
    return workloads(arguments.tasks, arguments.beams, arguments.batch, new_tokens, image)


def _write_bart(system: System, checkpoint: str, asked: Sequence[Workload]) -> None:
    from ..systems.optimum_bart.checkpoint import write_bart  # needs the export extra

    bundle = Path(system.bundle)
    write_bart(checkpoint or stated_checkpoint(bundle), bundle, asked, Path(system.checkpoint))


def _accuracies(
    arguments: argparse.Namespace, truth: Truth, result: SpeedResult
) -> Iterator[AccuracyResult | Failure]:
    """How right each bundle is in the measured tasks, with each number of beams."""
    for row in result.systems:
        system = row.system
        if system.kind != "bundle" or row.error is not None:
            continue
        folder, where, threads = Path(system.bundle), system.runs_on, system.threads
        for beams in arguments.beams:
            logger.info("%s: accuracy, %s", system.label, beams_named(beams))
            options = GenerationOptions(num_beams=beams)
            examination = Examination(tasks=arguments.tasks, options=options)
            try:
                yield measure_accuracy(folder, truth, examination, device=where, threads=threads)
            except FlorenceEdgeError as error:
                logger.warning("%s: %s", system.label, error)
                yield Failure(system.label, f"accuracy, {beams_named(beams)}", str(error))


def _random_model(arguments: argparse.Namespace) -> RandomModel:
    return RandomModel(
        architecture=arguments.architecture,
        precisions=arguments.precision,
        target=arguments.target,
        seed=arguments.seed,
        image_size=arguments.image_size,
    )
