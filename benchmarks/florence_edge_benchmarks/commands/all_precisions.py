"""florence-bench all: a checkpoint in every precision, exported, measured and tabulated."""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

from florence_edge import GenerationOptions
from florence_edge.bundle import PRECISIONS
from florence_edge.cpu import usable_cores
from florence_edge.errors import RequestError
from florence_edge.image_arguments import picture_path
from florence_edge_calibration.quantization.recipe import TARGETS, Target

from ..accuracy.ask import AskOptions, check_gradable
from ..accuracy.data import read_truth
from ..accuracy.run import with_accuracy
from ..report.markdown import tables_as_markdown
from ..report.precision_table import precision_tables
from ..results import SpeedResult
from ..results_io import check_writable, write_result
from ..speed.comparison import (
    BundleOnDevices,
    ComparisonPlan,
    check_some_can_answer,
    compared_systems,
)
from ..speed.precisions import PrecisionPlan, export_precisions
from ..speed.run import Rounds, check_measured, measure_speed
from ..systems.system import SystemDevice, parse_device
from ..systems.workload import new_tokens_by_task, scene_picture, workloads
from .arguments import add_data, as_settings, count, names, tasks

HELP = "export a checkpoint in every precision, and tabulate size, time and accuracy"
DESCRIPTION = (
    "Export MODEL in every precision and measure the bundles in turns, on one device: size, time "
    "and, with --data, accuracy, in one table. What cannot be exported or run is a row that says "
    "why."
)
# What integers are made for, by engine: on CUDA, ONNX Runtime multiplies blocks of 4 bits by an
# operator of its own.
_TARGETS: dict[str, dict[str, Target]] = {
    "cpu": {"int8": "cpu", "int4": "cpu"},
    "openvino": {"int8": "portable", "int4": "portable"},
    "cuda": {"int8": "tensorrt", "int4": "portable"},
}
_TASKS = ["CAPTION", "OD", "OCR_WITH_REGION"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument(
        "model", metavar="MODEL", help="checkpoint folder, hub id or 'miniature', as for export"
    )
    parser.add_argument("--revision", metavar="COMMIT", help="of a model on the hub")
    parser.add_argument(
        "--precision",
        type=names,
        default=[*PRECISIONS],
        metavar="P,P",
        help=f"default: {','.join(PRECISIONS)}",
    )
    parser.add_argument(
        "--target", choices=TARGETS, help="what integers are made for (default: by the device)"
    )
    parser.add_argument(
        "--calibration-images",
        type=picture_path,
        metavar="DIR",
        help="pictures of the kind the model will get; the miniature has its own",
    )
    parser.add_argument("--samples", type=count, metavar="N", help="of them (default: 256)")
    parser.add_argument("--device", default="cpu", metavar="D", help="default: cpu")
    parser.add_argument(
        "--tasks",
        type=tasks,
        default=_TASKS,
        metavar="T,T",
        help=f"which of the 15 tasks to answer (default {','.join(_TASKS)})",
    )
    parser.add_argument("--beams", type=count, default=3, metavar="N", help="default: 3")
    parser.add_argument(
        "--image", type=picture_path, metavar="FILE", help="default: a generated scene"
    )
    parser.add_argument("--rounds", type=count, default=5, metavar="N", help="timed (default 5)")
    parser.add_argument("--threads", type=count, metavar="N", help="default: all usable cores")
    add_data(parser)
    parser.add_argument(
        "--work",
        type=Path,
        metavar="DIR",
        help="keep the bundles here; those of an earlier call are taken as they are",
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="results as JSON")


def run(arguments: argparse.Namespace) -> str:
    """Export, measure, write the result and give its table."""
    check_writable(arguments.output)
    device = parse_device(arguments.device)
    ask_options = AskOptions(
        tasks=arguments.tasks, options=GenerationOptions(num_beams=arguments.beams)
    )
    truth = None
    if arguments.data is not None:
        truth = read_truth(arguments.data, limit=arguments.data_limit)
        check_gradable(truth, ask_options)
    with tempfile.TemporaryDirectory(prefix="florence-bench-") as temporary:
        work = arguments.work or Path(temporary)
        result = _measure(arguments, device, work, Path(temporary))
        if truth is not None:
            result = with_accuracy(result, truth, [ask_options])
    if arguments.output:
        write_result(arguments.output, result)
    return tables_as_markdown(precision_tables(result))


def _measure(
    arguments: argparse.Namespace, device: SystemDevice, work: Path, temporary: Path
) -> SpeedResult:
    requested = workloads(
        arguments.tasks,
        [arguments.beams],
        [1],
        new_tokens_by_task(arguments.tasks, None, endless=False),
        str(arguments.image or scene_picture(temporary)),
    )
    exported = dict(export_precisions(_plan(arguments, device), work))
    failed = {str(folder): problem for folder, problem in exported.items() if problem}
    threads = arguments.threads or usable_cores().count
    systems = compared_systems(
        [BundleOnDevices(folder, (device,)) for folder in exported],
        ComparisonPlan(threads=threads),
        failed,
    )
    check_some_can_answer([*exported], requested, failed)
    left_out = {"command", "output", "work"}
    settings = as_settings({**vars(arguments), "threads": threads}, left_out)
    result = measure_speed(systems, requested, Rounds(timed=arguments.rounds), settings, failed)
    check_measured(result)
    return result


def _plan(arguments: argparse.Namespace, device: SystemDevice) -> PrecisionPlan:
    targets = _targets(device)
    if arguments.target:
        targets = dict.fromkeys(targets, arguments.target)
    return PrecisionPlan(
        model=arguments.model,
        revision=arguments.revision,
        precisions=_known(arguments.precision),
        targets=targets,
        calibration_images=arguments.calibration_images,
        samples=arguments.samples,
    )


def _targets(device: SystemDevice) -> dict[str, Target]:
    """What integers are made for on the device, by precision."""
    engine = device.device.engine
    if engine not in _TARGETS:
        raise RequestError(
            f"`all` measures on {', '.join(_TARGETS)}, not on {device.name}: its engines are built "
            "by florence-build, bundle by bundle. Export and build the bundles, then measure them "
            "with florence-bench speed."
        )
    return _TARGETS[engine]


def _known(precisions: Sequence[str]) -> Sequence[str]:
    for precision in precisions:
        if precision not in PRECISIONS:
            raise RequestError(
                f"There is no precision {precision!r}. Choose from {', '.join(PRECISIONS)}."
            )
    return precisions
