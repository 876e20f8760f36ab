"""florence-bench speed: how fast bundles answer, beside transformers on the same checkpoint."""

import argparse
import logging
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from florence_edge.errors import FlorenceEdgeError, RequestError
from florence_edge_calibration.int8.targets import TARGETS

from ..accuracy import Examination, measure_accuracy
from ..devices import Device, device_of
from ..interleave import Rounds
from ..machine import usable_cores
from ..markdown import markdown_of
from ..pictures import scene_picture
from ..random_models import RandomModel, export_bundles, make_checkpoint
from ..results import AccuracyResult, SpeedResult, check_writable, write_result
from ..speed import measure_speed
from ..systems import (
    COMPETITORS,
    OPTIMUM,
    Comparison,
    Entrant,
    System,
    entrant_of,
    stated_checkpoint,
    systems_of,
)
from ..truth import read_truth
from ..workload import Workload, new_tokens_of, workloads
from .arguments import count, counts, names, tasks

logger = logging.getLogger(__name__)

HELP = "stages, latency, memory and start of bundles, beside transformers if asked for"
DESCRIPTION = (
    "Measure bundles, or --architecture base|large with random weights. Compared systems take "
    "turns (A B A B), each in a process of its own, and ratios are taken round by round."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say which arguments the command takes."""
    parser.add_argument(
        "bundles", nargs="*", metavar="BUNDLE[@D,D]", help="exported folder, and engines for it"
    )
    parser.add_argument("--tasks", type=tasks, default=["CAPTION", "OD", "OCR_WITH_REGION"])
    parser.add_argument("--beams", type=counts, default=[1, 3], metavar="1,3")
    parser.add_argument("--batch", type=counts, default=[1], metavar="1,4", help="pictures at once")
    parser.add_argument(
        "--new-tokens",
        metavar="N",
        help="exactly so many tokens, whatever the model says: 50, or CAPTION:20,OD:100",
    )
    parser.add_argument("--image", type=Path, metavar="FILE", help="default: a generated scene")
    parser.add_argument("--rounds", type=count, default=5, metavar="N", help="timed (default 5)")
    parser.add_argument("--warmup", type=count, default=1, metavar="N", help="not timed (1)")
    parser.add_argument("--threads", type=count, metavar="N", help="default: all usable cores")
    parser.add_argument(
        "--device",
        type=names,
        default=["cpu"],
        metavar="D,D",
        help="engines for bundles that name none, such as cpu,openvino,openvino+bf16",
    )
    parser.add_argument(
        "--engine-precision",
        choices=("fp32", "bf16"),
        help="what openvino computes in where --device does not say it",
    )
    parser.add_argument(
        "--compare",
        type=names,
        default=[],
        metavar="C,C",
        help=f"{', '.join(COMPETITORS)}; transformers is on the bundles' GPU, or @cpu, @cuda:1",
    )
    parser.add_argument(
        "--checkpoint", default="", help="what to compare with; default: the bundle's own"
    )
    parser.add_argument("--optimum-python", default="", metavar="PATH", help="see the README")
    _add_random_model(parser)
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="truth for columns of accuracy, as in `accuracy`"
    )
    parser.add_argument("--data-limit", type=count, metavar="N", help="its first N pictures")
    parser.add_argument("--output", type=Path, metavar="FILE", help="results as JSON")


def _add_random_model(parser: argparse.ArgumentParser) -> None:
    random = parser.add_argument_group("a model with random weights")
    random.add_argument("--architecture", choices=("tiny", "base", "large"))
    random.add_argument(
        "--precision", type=names, default=["fp32"], metavar="P,P", help="fp32,fp16,int8"
    )
    random.add_argument(
        "--target", choices=TARGETS, default="cpu", help="what int8 is made for (default cpu)"
    )
    random.add_argument("--seed", type=int, default=0, metavar="N")
    random.add_argument("--image-size", type=count, default=768, metavar="N")
    random.add_argument("--work", type=Path, metavar="DIR", help="keep checkpoint and bundles here")


def run(arguments: argparse.Namespace) -> str:
    """Measure, write the result and give its tables."""
    check_writable(arguments.output)
    with tempfile.TemporaryDirectory(prefix="florence-bench-") as temporary:
        result = _measure(arguments, Path(temporary))
        if arguments.data:
            result = replace(result, accuracy=tuple(_accuracies(arguments, result)))
    if arguments.output:
        write_result(arguments.output, result)
    _check_measured(result)
    return markdown_of([result])


def _check_measured(result: SpeedResult) -> None:
    """A failure is a row, but a run in which no bundle answered has failed as a whole."""
    bundles = {row.system.label: row.error for row in result.systems if row.system.kind == "bundle"}
    runs = [run for run in result.runs if run.label in bundles]
    if not bundles or any(run.rounds for run in runs):
        return
    label, error = next(iter(bundles.items()))
    error = error or next((run.error for run in runs if run.error), "it did not answer")
    raise RequestError(f"No bundle was measured. {label}: {error}")


def _measure(arguments: argparse.Namespace, temporary: Path) -> SpeedResult:
    devices, failed = _devices(arguments), dict[str, str]()
    entrants = [entrant_of(text, devices) for text in arguments.bundles]
    checkpoint = arguments.checkpoint
    if arguments.architecture:
        model, work = _random_model(arguments), arguments.work or temporary
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
    asked = _workloads(arguments, temporary)
    for system in systems:
        if system.kind == OPTIMUM:
            _write_bart(system, checkpoint, asked)
    rounds = Rounds(warmup=arguments.warmup, timed=arguments.rounds)
    return measure_speed(systems, asked, rounds, _settings(arguments, threads), failed)


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
    from ..optimum_bart.checkpoint import write_bart  # needs the export extra

    bundle = Path(system.bundle)
    write_bart(checkpoint or stated_checkpoint(bundle), bundle, asked, Path(system.checkpoint))


def _accuracies(arguments: argparse.Namespace, result: SpeedResult) -> Iterator[AccuracyResult]:
    """How right each bundle is in the measured tasks; one that cannot be asked is left out."""
    truth = read_truth(arguments.data, limit=arguments.data_limit)
    examination = Examination(tasks=arguments.tasks)
    for row in result.systems:
        system = row.system
        if system.kind != "bundle" or row.error is not None:
            continue
        logger.info("%s: accuracy", system.label)
        where, threads = system.runs_on, system.threads
        try:
            yield measure_accuracy(
                Path(system.bundle), truth, examination, device=where, threads=threads
            )
        except FlorenceEdgeError as error:
            logger.warning("%s: %s", system.label, error)


def _random_model(arguments: argparse.Namespace) -> RandomModel:
    return RandomModel(
        architecture=arguments.architecture,
        precisions=arguments.precision,
        target=arguments.target,
        seed=arguments.seed,
        image_size=arguments.image_size,
    )


def _settings(arguments: argparse.Namespace, threads: int) -> dict[str, object]:
    """What a reader needs to measure the same again."""
    left_out = {"command", "output", "work", "optimum_python"}
    if not arguments.architecture:
        left_out |= {"precision", "target", "seed", "image_size"}
    given = {
        name: value
        for name, value in vars(arguments).items()
        if name not in left_out and value not in (None, "", [])
    }
    return {
        name: ",".join(map(str, value)) if isinstance(value, list) else str(value)
        for name, value in {**given, "threads": threads}.items()
    }
