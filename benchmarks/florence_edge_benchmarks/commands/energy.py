"""florence-bench energy: joules per image and per token, on the rails of this board."""

import argparse
import tempfile
from contextlib import closing
from pathlib import Path

from florence_edge import Florence2, GenerationOptions, Needs
from florence_edge.image_arguments import add_image_arguments, picture_path
from florence_edge.task_arguments import tasks_by_needs
from florence_edge_jetson.power.energy import MeasurementPlan
from florence_edge_jetson.power.meter import open_meter

from ..energy import answer_repeatedly, measure_energy
from ..report.markdown import markdown_of
from ..results_io import check_writable, write_result
from ..systems.system import parse_device
from ..systems.workload import scene_picture
from .arguments import count, names, positive, whole

HELP = "joules per image and per token"
DESCRIPTION = (
    "Measure power at rest, then under answers one after the other. Reads the board's sensors "
    "(INA3221, INA238), else tegrastats, else NVML. It sets no clocks: jetson/power-mode.sh does."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    plan = MeasurementPlan()
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="exported folder")
    parser.add_argument(
        "--task",
        default="OD",
        help=f"default: OD. {tasks_by_needs(Needs.NOTHING, Needs.TEXT)}",
    )
    parser.add_argument("--text", help="what the task takes beside the picture")
    parser.add_argument(
        "--image", type=picture_path, metavar="FILE", help="default: a generated scene"
    )
    add_image_arguments(parser)
    parser.add_argument("--beams", type=count, metavar="N", help="default: the model's")
    parser.add_argument("--max-new-tokens", type=count, metavar="N", help="longest answer")
    parser.add_argument("--device", default="cpu", help="engine (default cpu)")
    parser.add_argument("--threads", type=count, metavar="N", help="threads of the CPU engine")
    for name, default, unit in (
        ("idle", plan.idle_seconds, "S"),
        ("load", plan.load_seconds, "S"),
        ("hertz", plan.hertz, "HZ"),
    ):
        parser.add_argument(
            f"--{name}", type=positive, default=default, metavar=unit, help=f"default {default:g}"
        )
    parser.add_argument("--rails", type=names, default=[], metavar="A,B", help="rails to sum")
    parser.add_argument(
        "--gpu", type=whole, default=0, metavar="N", help="GPU for NVML (default 0)"
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="results as JSON")


def run(arguments: argparse.Namespace) -> str:
    """Measure, write the result and give its table."""
    check_writable(arguments.output)
    plan = MeasurementPlan(
        idle_seconds=arguments.idle, load_seconds=arguments.load, hertz=arguments.hertz
    )
    options = GenerationOptions(num_beams=arguments.beams, max_new_tokens=arguments.max_new_tokens)
    device = parse_device(arguments.device)
    model = Florence2.load(
        arguments.bundle,
        device.device,
        threads=arguments.threads,
        engine_precision=device.precision or None,
        max_pixels=arguments.max_pixels,
        deep_range=arguments.deep_range,
    )
    settings = {
        "model": model.bundle.model,
        "precision": model.bundle.precision,
        "device": device.name,
        "task": arguments.task,
        "beams": model.generation_config(options).num_beams,
        "picture": str(arguments.image or "a generated scene"),
    }
    with model, tempfile.TemporaryDirectory(prefix="florence-bench-") as temporary:
        picture = arguments.image or scene_picture(Path(temporary))
        answer = answer_repeatedly(model, picture, arguments.task, arguments.text, options)
        answer()  # a request that cannot be answered fails before a meter is looked for
        with closing(open_meter(rails=arguments.rails, gpu=arguments.gpu)) as meter:
            result = measure_energy(answer, meter, plan, settings)
    if arguments.output:
        write_result(arguments.output, result)
    return markdown_of([result])
