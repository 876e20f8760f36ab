"""florence-export: a checkpoint becomes a bundle that runs without PyTorch."""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from florence_edge import __version__
from florence_edge.bundle import PRECISIONS
from florence_edge.command import parsed, plain, run_command
from florence_edge.errors import MissingPackageError, RequestError
from florence_edge.image_arguments import add_image_arguments, image_options_from, picture_path
from florence_edge_calibration.int8.range_selection import DEFAULT_METHOD, METHODS
from florence_edge_calibration.int8.recipe import TARGETS, FloatPrecision

from .checkpoint.loader import DEFAULT_MODEL, find_checkpoint


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        The exit status: 0, 1 where something failed, 2 for wrong usage, 128 + n when stopped by
        signal n.
    """
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    for package in ("florence_edge_export", "florence_edge_calibration"):
        logging.getLogger(package).setLevel(logging.INFO)
    return run_command(
        "florence-export",
        lambda: _run(parsed(_parser(), arguments)),
        explain=lambda error: f"{error}. Check the paths and the room there.",
        stopped="stopped; nothing was changed.",
    )


def _run(arguments: argparse.Namespace) -> None:
    try:  # here, because it takes a second, and Ctrl-C is already handled
        from .bundle_writer import check_target
        from .export import ExportOptions, check_options, export
        from .int8.export import Int8Options
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            f"Exporting needs {error.name}, which is not installed. Install florence-edge[export]."
        ) from error
    check_target(arguments.output, overwrite=arguments.overwrite)  # before a download
    int8 = Int8Options(
        target=arguments.target,
        images=arguments.calibration_images,
        samples=arguments.samples,
        method=arguments.method,
        kept=dict(map(_kept, arguments.keep)),
        budget=None if arguments.no_gate else arguments.budget,
        table=arguments.calibration,
        image_options=image_options_from(arguments),
    )
    if arguments.precision != "int8" and int8 != Int8Options():
        raise RequestError(
            f"There are options for int8, but the precision is {arguments.precision}. Add "
            "--precision int8, or leave them out."
        )
    options = ExportOptions(
        precision=arguments.precision,
        image_size=arguments.image_size,
        overwrite=arguments.overwrite,
        verify=arguments.verify,
        int8=int8,
        tensorrt_decoders=not arguments.portable_decoder,
    )
    check_options(arguments.model, options)
    folder = find_checkpoint(arguments.model, arguments.revision)
    export(arguments.model, folder, arguments.output, options)
    print(
        plain(f"{arguments.output} is ready. Try: florence-run {arguments.output} IMAGE --task OD")
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="florence-export",
        description="Export a Florence-2 checkpoint as a bundle of three ONNX graphs.",
    )
    parser.add_argument(
        "model",
        nargs="?",
        default=DEFAULT_MODEL,
        help=f"hub id (default: {DEFAULT_MODEL}), checkpoint folder, or 'miniature'",
    )
    parser.add_argument(
        "--revision",
        metavar="COMMIT",
        help="commit, tag or branch of a model on the hub (default: its main branch); the manifest "
        "records the commit",
    )
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="the bundle")
    parser.add_argument(
        "--precision", choices=PRECISIONS, default="fp32", help="default: fp32; fp16 is for GPUs"
    )
    parser.add_argument(
        "--image-size", type=int, metavar="N", help="side in pixels (default: the checkpoint's)"
    )
    parser.add_argument(
        "--verify",
        action="store_true",
        help="compare every graph and the answers to all tasks with transformers",
    )
    parser.add_argument(
        "--portable-decoder",
        action="store_true",
        help="leave out the decoders for TensorRT, which then copies its caches at each step (they "
        "take some 300 kB: the weights are shared)",
    )
    _add_int8_options(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace an existing bundle")
    parser.add_argument("--version", action="version", version=f"florence-edge {__version__}")
    return parser


def _add_int8_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("int8", "with --precision int8")
    add = group.add_argument
    add(
        "--target",
        choices=TARGETS,
        default="tensorrt",
        help="tensorrt (default) is for GPUs, with encoders in float16; cpu is fastest on ONNX "
        "Runtime's CPU, and runs only there; portable is for OpenVINO, and runs on any engine",
    )
    add(
        "--calibration-images",
        type=picture_path,
        metavar="DIR",
        help="pictures of the kind the model will get; the miniature has its own",
    )
    add("--calibration", type=Path, metavar="FILE", help="a table that florence-calibrate wrote")
    add("--samples", type=int, default=256, metavar="N", help="pictures to take (default: 256)")
    add("--method", choices=METHODS, default=DEFAULT_METHOD, help=f"default: {DEFAULT_METHOD}")
    add(
        "--keep",
        action="append",
        default=[],
        metavar="PATTERN=fp16|fp32",
        help="layers to leave in float, e.g. 'vision_encoder.blocks.3.*=fp16'; repeatable",
    )
    add(
        "--budget",
        type=float,
        default=0.01,
        metavar="SHARE",
        help="positions that any task may lose against float32 (default: 0.01)",
    )
    add("--no-gate", action="store_true", help="do not measure what int8 costs in accuracy")
    add_image_arguments(group)


def _kept(text: str) -> tuple[str, FloatPrecision]:
    pattern, _, floats = text.rpartition("=")
    if not pattern or floats not in ("fp16", "fp32"):
        raise RequestError(f"--keep {text!r} is not of the form PATTERN=fp16 or PATTERN=fp32.")
    return pattern, "fp16" if floats == "fp16" else "fp32"
