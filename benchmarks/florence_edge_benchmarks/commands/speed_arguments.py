"""The arguments of florence-bench speed."""

import argparse
from pathlib import Path

from florence_edge_calibration.int8.targets import TARGETS

from ..speed.entrants import COMPETITORS
from .arguments import batches, count, counts, names, tasks, whole

README = "benchmarks/README.md"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say which arguments the command takes."""
    parser.add_argument(
        "bundles", nargs="*", metavar="BUNDLE[@D,D]", help="exported folder, and devices for it"
    )
    _add_workload(parser)
    _add_rounds(parser)
    _add_systems(parser)
    _add_random_model(parser)
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="truth for columns of accuracy, as in `accuracy`"
    )
    parser.add_argument("--data-limit", type=count, metavar="N", help="its first N pictures by id")
    parser.add_argument("--output", type=Path, metavar="FILE", help="results as JSON")


def settings_of(arguments: argparse.Namespace, threads: int) -> dict[str, object]:
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


def _add_workload(parser: argparse.ArgumentParser) -> None:
    usual = ["CAPTION", "OD", "OCR_WITH_REGION"]
    parser.add_argument(
        "--tasks",
        type=tasks,
        default=usual,
        metavar="T,T",
        help=f"what is asked (default {','.join(usual)})",
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
        help="exactly so many tokens, whatever the model says: 50, or CAPTION:20,OD:100",
    )
    parser.add_argument("--image", type=Path, metavar="FILE", help="default: a generated scene")


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
        "--checkpoint",
        default="",
        metavar="MODEL",
        help="what to compare with; default: the bundle's own",
    )
    parser.add_argument(
        "--optimum-python",
        default="",
        metavar="PATH",
        help=f"the interpreter of optimum's environment; {README} says how to make it",
    )


def _add_random_model(parser: argparse.ArgumentParser) -> None:
    random = parser.add_argument_group("a model with random weights")
    random.add_argument("--architecture", choices=("tiny", "base", "large"), help="its size")
    random.add_argument(
        "--precision",
        type=names,
        default=["fp32"],
        metavar="P,P",
        help="fp32,fp16,int8 (default fp32)",
    )
    random.add_argument(
        "--target", choices=TARGETS, default="cpu", help="what int8 is made for (default cpu)"
    )
    random.add_argument(
        "--seed", type=whole, default=0, metavar="N", help="of the weights (default 0)"
    )
    random.add_argument(
        "--image-size", type=count, default=768, metavar="N", help="its input's side (default 768)"
    )
    random.add_argument("--work", type=Path, metavar="DIR", help="keep checkpoint and bundles here")
