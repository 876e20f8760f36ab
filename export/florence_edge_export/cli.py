"""florence-export: a checkpoint becomes a bundle that runs without PyTorch."""

import argparse
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from florence_edge import __version__
from florence_edge.bundle import PRECISIONS
from florence_edge.command import parsed, plain, run_command
from florence_edge.errors import MissingPackageError, RequestError
from florence_edge.extras import pip_install
from florence_edge.image_arguments import add_image_arguments, image_options_from, picture_path
from florence_edge_calibration.quantization.range_selection import DEFAULT_METHOD, METHODS
from florence_edge_calibration.quantization.recipe import (
    TARGETS,
    KeptPrecision,
    is_integer,
    may_be_kept,
)

from .checkpoint.adapters import WeightedAdapter, adapter_argument
from .checkpoint.loader import DEFAULT_MODEL, find_checkpoint


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        The exit status: 0, 1 where something failed, 2 for wrong usage, 128 + n when stopped by
        signal n.
    """
    return _as_command("florence-export", lambda: _run(parsed(_parser(), arguments)))


def export_parsed(command: str, arguments: argparse.Namespace) -> int:
    """Run what another command's parser has read: `model`, `output`, and those of `add_options`.

    Returns:
        The exit status, as `main`.
    """
    return _as_command(command, lambda: _run(arguments))


def _as_command(name: str, run: Callable[[], None]) -> int:
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    for package in ("florence_edge_export", "florence_edge_calibration"):
        logging.getLogger(package).setLevel(logging.INFO)
    return run_command(
        name,
        run,
        explain=lambda error: f"{error}. Check the paths and the room there.",
        stopped="stopped; nothing was changed.",
    )


def _run(arguments: argparse.Namespace) -> None:
    try:  # here, because it takes a second, and Ctrl-C is already handled
        from .bundle_writer import check_target
        from .checkpoint.task_file import read_tasks
        from .export import ExportOptions, check_options, export
        from .quantization.export import QuantizationOptions
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            f"Exporting needs {error.name}, which is not installed. Install it with: "
            f"{pip_install('export')}"
        ) from error
    check_target(arguments.output, overwrite=arguments.overwrite)  # before a download
    if arguments.layout is not None:
        _export_layout(arguments)
        return
    if arguments.dtypes is not None or arguments.with_decoder_model:
        raise RequestError(
            "--dtypes and --with-decoder-model are for other layouts: add --layout "
            "transformers.js. A bundle's precision is --precision."
        )
    quantization = QuantizationOptions(
        target=arguments.target,
        images=arguments.calibration_images,
        samples=arguments.samples,
        method=arguments.method,
        kept=dict(map(_kept, arguments.keep)),
        budget=None if arguments.no_gate else arguments.budget,
        table=arguments.calibration,
        image_options=image_options_from(arguments),
    )
    if not is_integer(arguments.precision) and quantization != QuantizationOptions():
        raise RequestError(
            f"There are options for int8 and int4, but the precision is {arguments.precision}. Add "
            "--precision int8 or int4, or leave them out."
        )
    options = ExportOptions(
        precision=arguments.precision,
        image_size=arguments.image_size,
        overwrite=arguments.overwrite,
        verify=arguments.verify,
        keep_failed=arguments.keep_failed,
        quantization=quantization,
        tensorrt_decoders=not arguments.portable_decoder,
        adapters=_found(arguments.adapter),
        tasks=() if arguments.task_file is None else read_tasks(arguments.task_file),
    )
    check_options(arguments.model, options)
    folder = find_checkpoint(arguments.model, arguments.revision)
    export(arguments.model, folder, arguments.output, options)
    print(
        plain(f"{arguments.output} is ready. Try: florence-run {arguments.output} IMAGE --task OD")
    )


def _export_layout(arguments: argparse.Namespace) -> None:
    from .checkpoint.task_file import read_tasks
    from .transformers_js.export import LayoutOptions, check_layout_options, export_layout
    from .transformers_js.layout import DTYPES

    usual = _parser().get_default
    of_quantization = ("target", "calibration", "samples", "method", "keep")
    for name in ("precision", *of_quantization, "portable_decoder", "verify", "keep_failed"):
        if getattr(arguments, name) != usual(name):
            raise RequestError(
                f"--{name.replace('_', '-')} is for bundles. With --layout transformers.js there "
                "are --dtypes, --calibration-images, --budget and --no-gate."
            )
    named = DTYPES if arguments.dtypes is None else arguments.dtypes
    options = LayoutOptions(
        dtypes=tuple(dict.fromkeys(named)),
        images=arguments.calibration_images,
        budget=None if arguments.no_gate else arguments.budget,
        image_options=image_options_from(arguments),
        image_size=arguments.image_size,
        first_step=arguments.with_decoder_model,
        overwrite=arguments.overwrite,
        adapters=_found(arguments.adapter),
        tasks=() if arguments.task_file is None else read_tasks(arguments.task_file),
    )
    check_layout_options(arguments.model, options)
    folder = find_checkpoint(arguments.model, arguments.revision)
    export_layout(arguments.model, folder, arguments.output, options)
    print(plain(f"{arguments.output} is ready. {arguments.output}/README.md says how to load it."))


def _found(adapters: Sequence[str]) -> tuple[WeightedAdapter, ...]:
    """Adapters by their folders; those on the hub are downloaded."""
    named = [adapter_argument(text) for text in adapters]
    return tuple(WeightedAdapter(name, find_checkpoint(name), weight) for name, weight in named)


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="florence-export",
        usage="%(prog)s [MODEL] --output DIR [options]",
        description="Export a Florence-2 checkpoint as a bundle of three ONNX graphs.",
    )
    parser.add_argument(
        "model",
        nargs="?",
        default=DEFAULT_MODEL,
        help=f"hub id (default: {DEFAULT_MODEL}), checkpoint folder, or 'miniature'",
    )
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="the bundle")
    add_options(parser)
    parser.add_argument("--version", action="version", version=f"florence-edge {__version__}")
    return parser


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what may be said beside the model and where it goes."""
    parser.add_argument(
        "--adapter",
        action="append",
        default=[],
        metavar="ADAPTER[=WEIGHT]",
        help="a LoRA adapter as peft saves it, folder or hub id, to merge into the model; "
        "repeatable, and 0.7 of it with =0.7",
    )
    parser.add_argument(
        "--revision",
        metavar="COMMIT",
        help="commit, tag or branch of a model on the hub (default: its main branch); the manifest "
        "records the commit",
    )
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="fp32",
        help="default: fp32; fp16 is for GPUs; int8 is smaller and faster; int4 (in the text "
        "models, vision in int8) is the smallest, for memory and not for speed",
    )
    parser.add_argument(
        "--image-size", type=int, metavar="N", help="side in pixels (default: the checkpoint's)"
    )
    parser.add_argument(
        "--task-file",
        type=Path,
        metavar="FILE",
        help="a fine-tune's own tasks, which the bundle then has beside the 15",
    )
    parser.add_argument(
        "--verify",
        action="store_true",
        help="compare every graph and the answers to all tasks with transformers",
    )
    parser.add_argument(
        "--keep-failed",
        action="store_true",
        help="keep a bundle that --verify refuses, as OUTPUT.failed",
    )
    parser.add_argument(
        "--portable-decoder",
        action="store_true",
        help="leave out the decoders for TensorRT, which then copies its caches at each step, and "
        "for CUDA (they take some 400 kB: the weights are shared)",
    )
    _add_quantization_options(parser)
    _add_layout_options(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace an existing bundle")


def _add_quantization_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("int8 and int4", "with --precision int8 or int4")
    add = group.add_argument
    add(
        "--target",
        choices=TARGETS,
        default="tensorrt",
        help="tensorrt (default) is for GPUs, in int8 with encoders in float16; cpu is fastest on "
        "ONNX Runtime's CPU, and runs only there; portable is for OpenVINO, and runs on any engine "
        "(in int4 on any but TensorRT, and it is what ONNX Runtime's CUDA takes)",
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
        metavar="PATTERN=fp16|fp32|int8",
        help="layers to leave in float, e.g. 'vision_encoder.blocks.3.*=fp16', or in int4 in "
        "int8; repeatable",
    )
    add(
        "--budget",
        type=float,
        default=0.01,
        metavar="SHARE",
        help="positions that any task may lose against float32 (default: 0.01)",
    )
    add("--no-gate", action="store_true", help="do not measure what rounding costs in accuracy")
    add_image_arguments(group)


def _add_layout_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("other layouts").add_argument
    add(
        "--layout",
        choices=("transformers.js",),
        help="write the files that transformers.js and others load under onnx-community's names, "
        "in place of a bundle",
    )
    add(
        "--dtypes",
        type=_names,
        metavar="NAME,NAME",
        help="of fp32, fp16, q8, q4 and q4f16 (default: all); those with q are judged as int8 and "
        "int4 are, by --calibration-images and --budget, or not with --no-gate",
    )
    add(
        "--with-decoder-model",
        action="store_true",
        help="write decoder_model, too: an answer's first step, which usls opens",
    )


def _kept(text: str) -> tuple[str, KeptPrecision]:
    pattern, _, kept = text.rpartition("=")
    if not pattern or not may_be_kept(kept):
        raise RequestError(
            f"--keep {text!r} is not of the form PATTERN=fp16, PATTERN=fp32 or, in an int4 bundle, "
            "PATTERN=int8."
        )
    return pattern, kept
