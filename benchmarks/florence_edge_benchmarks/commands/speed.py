"""florence-bench speed: how fast bundles answer, beside transformers on the same checkpoint."""

import argparse
import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path

from florence_edge import GenerationOptions
from florence_edge.cpu import usable_cores
from florence_edge.errors import RequestError
from florence_edge.image_arguments import picture_path
from florence_edge_calibration.quantization.recipe import TARGETS

from ..accuracy.ask import AskOptions, check_gradable
from ..accuracy.data import Truth, read_truth
from ..accuracy.run import with_accuracy
from ..report.markdown import markdown_of
from ..results import SpeedResult
from ..results_io import check_writable, write_result
from ..speed.comparison import (
    COMPETITORS,
    NOTEBOOK,
    OPTIMUM,
    TRANSFORMERS_JS,
    BundleOnDevices,
    ComparisonPlan,
    check_some_can_answer,
    compared_systems,
    named_checkpoint,
    parse_bundle,
)
from ..speed.random_models import RandomModel, check_work, export_bundles, make_checkpoint
from ..speed.run import Rounds, check_measured, measure_speed
from ..systems.system import System, SystemDevice, parse_device
from ..systems.workload import (
    Workload,
    new_tokens_by_task,
    scene_picture,
    workloads,
)
from .arguments import add_data, as_settings, batches, count, counts, names, tasks, whole

logger = logging.getLogger(__name__)

HELP = "stages, latency, memory and start of bundles, beside transformers if requested"
DESCRIPTION = (
    "Measure bundles, or --architecture base|large with random weights. Compared systems take "
    "turns (A B A B), each in a process of its own, and ratios are taken round by round."
)
README = "benchmarks/README.md"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument(
        "bundles", nargs="*", metavar="BUNDLE[@D,D]", help="exported folder, and devices for it"
    )
    _add_workload(parser)
    _add_rounds(parser)
    _add_systems(parser)
    _add_random_model(parser)
    add_data(parser)
    parser.add_argument("--output", type=Path, metavar="FILE", help="results as JSON")


_ENVIRONMENTS = ("optimum_python", "notebook_python", "transformersjs_modules")  # of this machine


def settings_of(arguments: argparse.Namespace, threads: int) -> dict[str, str]:
    """What a reader needs to measure the same again."""
    left_out = {"command", "output", "work", *_ENVIRONMENTS}
    if not arguments.architecture:
        left_out |= {"precision", "target", "seed", "image_size"}
    return as_settings({**vars(arguments), "threads": threads}, left_out)


def _add_workload(parser: argparse.ArgumentParser) -> None:
    default = ["CAPTION", "OD", "OCR_WITH_REGION"]
    parser.add_argument(
        "--tasks",
        type=tasks,
        default=default,
        metavar="T,T",
        help=f"which of the 15 tasks to answer (default {','.join(default)})",
    )
    parser.add_argument(
        "--beams", type=counts, default=[1, 3], metavar="B,B", help="1 is greedy (default 1,3)"
    )
    parser.add_argument(
        "--batch", type=batches, default=[1], metavar="N,N", help="pictures at once (default 1)"
    )
    parser.add_argument(
        "--new-tokens",
        metavar="N",
        help="exactly so many tokens, wherever the model would end: 50, or CAPTION:20,OD:100",
    )
    parser.add_argument(
        "--image", type=picture_path, metavar="FILE", help="default: a generated scene"
    )


def _add_rounds(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rounds", type=count, default=5, metavar="N", help="timed (default 5)")
    parser.add_argument(
        "--warmup", type=count, default=1, metavar="N", help="rounds before, not timed (default 1)"
    )
    parser.add_argument("--threads", type=count, metavar="N", help="default: all usable cores")


def _add_systems(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--device",
        type=names,
        default=["cpu"],
        metavar="D,D",
        help="devices of bundles that name none, such as cpu,openvino,openvino+bf16 (default cpu)",
    )
    parser.add_argument(
        "--engine-precision",
        choices=("fp32", "bf16"),
        help="what openvino computes in where --device leaves it open",
    )
    parser.add_argument(
        "--compare",
        type=names,
        default=[],
        metavar="C,C",
        help=f"{', '.join(COMPETITORS)}; transformers is on the bundles' GPU, or @cpu, @cuda:1",
    )
    parser.add_argument(
        "--checkpoint",
        default="",
        metavar="MODEL",
        help="what to compare with; default: the bundle's own, if that is a hub id or 'miniature'",
    )
    parser.add_argument(
        "--optimum-python",
        default="",
        metavar="PATH",
        help=f"the interpreter of optimum's environment; {README} says how to make it",
    )
    parser.add_argument(
        "--notebook-python",
        default="",
        metavar="PATH",
        help="the same for openvino-notebook",
    )
    parser.add_argument(
        "--transformersjs-modules",
        default="",
        metavar="PATH",
        help="the node_modules that has transformers.js, for transformersjs",
    )


def _add_random_model(parser: argparse.ArgumentParser) -> None:
    random = parser.add_argument_group("a model with random weights")
    random.add_argument("--architecture", choices=("tiny", "base", "large"), help="its size")
    random.add_argument(
        "--precision",
        type=names,
        default=["fp32"],
        metavar="P,P",
        help="fp32,fp16,int8,int4 (default fp32)",
    )
    random.add_argument(
        "--target",
        choices=TARGETS,
        default="cpu",
        help="what int8 and int4 are made for (default cpu)",
    )
    random.add_argument(
        "--seed", type=whole, default=0, metavar="N", help="of the weights (default 0)"
    )
    random.add_argument(
        "--image-size", type=count, default=768, metavar="N", help="its input's side (default 768)"
    )
    random.add_argument("--work", type=Path, metavar="DIR", help="keep checkpoint and bundles here")


def run(arguments: argparse.Namespace) -> str:
    """Measure, write the result and give its tables."""
    check_writable(arguments.output)
    truth = _truth(arguments)
    with tempfile.TemporaryDirectory(prefix="florence-bench-") as temporary:
        result = _measure(arguments, Path(temporary))
        check_measured(result)
        if truth is not None:
            asked = [
                AskOptions(tasks=arguments.tasks, options=each) for each in _by_beams(arguments)
            ]
            result = with_accuracy(result, truth, asked)
    if arguments.output:
        write_result(arguments.output, result)
    return markdown_of([result])


def _truth(arguments: argparse.Namespace) -> Truth | None:
    """Read first: what is wrong with the data is reported before hours are spent on speed."""
    if arguments.data is None:
        return None
    truth = read_truth(arguments.data, limit=arguments.data_limit)
    check_gradable(truth, AskOptions(tasks=arguments.tasks))
    return truth


def _measure(arguments: argparse.Namespace, temporary: Path) -> SpeedResult:
    devices, failed = _devices(arguments), dict[str, str]()
    requested = _workloads(arguments, temporary)
    bundles = [parse_bundle(text, devices) for text in arguments.bundles]
    checkpoint = arguments.checkpoint
    if arguments.architecture:
        model, work = _random_model(arguments), arguments.work or temporary
        check_work(model, work)
        made = make_checkpoint(model, work)
        checkpoint = checkpoint or str(made)
        for folder, problem in export_bundles(model, made, work):
            bundles.append(BundleOnDevices(folder, devices))
            if problem:
                failed[str(folder)] = problem
    if not bundles:
        raise RequestError("There is nothing to measure. Name a BUNDLE, or give --architecture.")
    threads = arguments.threads or usable_cores().count
    plan = ComparisonPlan(
        competitors=arguments.compare,
        threads=threads,
        checkpoint=checkpoint,
        bart=str(temporary / "bart"),
        optimum_python=arguments.optimum_python,
        notebook=str((arguments.work or temporary) / "openvino-notebook"),
        notebook_python=arguments.notebook_python,
        transformers_js=str((arguments.work or temporary) / "transformers.js"),
        node=_node(arguments),
    )
    systems = compared_systems(bundles, plan, failed)
    check_some_can_answer([bundle.folder for bundle in bundles], requested, failed)
    for system in systems:
        if system.kind == OPTIMUM:
            _write_bart(system, checkpoint, requested)
        if system.kind == NOTEBOOK:
            _write_request(system, checkpoint, requested)
        if system.kind == TRANSFORMERS_JS:
            _write_layout(system, checkpoint, requested, arguments.transformersjs_modules)
    rounds = Rounds(warmup=arguments.warmup, timed=arguments.rounds)
    return measure_speed(systems, requested, rounds, settings_of(arguments, threads), failed)


def _devices(arguments: argparse.Namespace) -> tuple[SystemDevice, ...]:
    precision = arguments.engine_precision
    devices = tuple(parse_device(text, precision=precision) for text in arguments.device)
    if precision is not None and not any(device.precision for device in devices):
        raise RequestError("--engine-precision is for openvino. Add it to --device.")
    return devices


def _workloads(arguments: argparse.Namespace, temporary: Path) -> list[Workload]:
    endless = bool(arguments.architecture)
    new_tokens = new_tokens_by_task(arguments.tasks, arguments.new_tokens, endless=endless)
    image = str(arguments.image or scene_picture(temporary))
    return workloads(arguments.tasks, arguments.beams, arguments.batch, new_tokens, image)


def _write_bart(system: System, checkpoint: str, requested: Sequence[Workload]) -> None:
    from ..systems.optimum.checkpoint import write_bart  # needs the export extra

    bundle = Path(system.bundle)
    folder = Path(system.checkpoint)
    write_bart(checkpoint or named_checkpoint(bundle), bundle, requested, folder)


def _write_request(system: System, checkpoint: str, requested: Sequence[Workload]) -> None:
    from ..systems.openvino_notebook.request import write_request  # needs the export extra

    bundle = Path(system.bundle)
    folder = Path(system.checkpoint)
    write_request(checkpoint or named_checkpoint(bundle), bundle, requested, folder)


def _node(arguments: argparse.Namespace) -> str:
    """Node's path, where transformers.js is given; empty otherwise."""
    if not arguments.transformersjs_modules:
        return ""
    from ..systems.transformers_js.request import find_node  # needs the export extra

    return find_node()


def _write_layout(
    system: System, checkpoint: str, requested: Sequence[Workload], modules: str
) -> None:
    from ..systems.transformers_js.request import write_request  # needs the export extra

    bundle = Path(system.bundle)
    model = checkpoint or named_checkpoint(bundle)
    write_request(model, bundle, requested, Path(system.checkpoint), modules)


def _by_beams(arguments: argparse.Namespace) -> list[GenerationOptions]:
    return [GenerationOptions(num_beams=beams) for beams in arguments.beams]


def _random_model(arguments: argparse.Namespace) -> RandomModel:
    return RandomModel(
        architecture=arguments.architecture,
        precisions=arguments.precision,
        target=arguments.target,
        seed=arguments.seed,
        image_size=arguments.image_size,
    )
