"""florence-calibrate: a float bundle's calibration table, and what int8 and int4 cost by block."""

import argparse
import logging
import shlex
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from tokenizers import Tokenizer as TokenizerFile

from florence_edge import Florence2, __version__
from florence_edge.bundle import TOKENIZER, Bundle, sha256
from florence_edge.command import parsed, plain, run_command
from florence_edge.errors import FlorenceEdgeError, MissingPackageError, RequestError
from florence_edge.extras import pip_install
from florence_edge.image_arguments import add_image_arguments, image_options_from, picture_path

from .quantization.dataset import HOW_MANY, CalibrationSample, folder_samples, scene_samples, split
from .quantization.range_selection import DEFAULT_METHOD, METHODS
from .quantization.recipe import INTEGER_PRECISIONS, TARGETS, Recipe, locations_from, pattern_of

if TYPE_CHECKING:
    from .quantization.calibration_table import CalibrationTable

# The weights of the model that has scenes of its own.
_MINIATURE = Path(__file__).parent / "miniature" / "checkpoint" / "model.safetensors"
_JUDGED_PICTURES, _SWEPT_PICTURES = 4, 2  # teacher forcing runs over the one, errors over the other
_MAX_NEW_TOKENS = 32
_PACKAGES = ("onnx_ir", "ml_dtypes", "onnxruntime")  # imported when the work begins


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        The exit status: 0, 1 where something failed, 2 for wrong usage, 128 + n when stopped by
        signal n.
    """
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    return run_command(
        "florence-calibrate",
        lambda: _run(parsed(_parser(), arguments)),
        explain=lambda error: f"{error}. Check the paths and the room there.",
    )


def _run(arguments: argparse.Namespace) -> None:
    _check_packages()
    output: Path | None = arguments.output
    if output is None and not arguments.sensitivity:
        raise RequestError("There is nothing to do: pass --output FILE, --sensitivity, or both.")
    if output is not None and output.exists() and not arguments.overwrite:
        raise RequestError(f"{output} exists. Choose another --output, or pass --overwrite.")
    bundle = Bundle.load(arguments.bundle)
    bundle.check_unlinked()
    samples = _samples(bundle, arguments)
    table = _table(bundle, samples, arguments.calibration)
    if output is not None:
        _save(table, output)
        use = (
            "florence-export CHECKPOINT --precision int8 --target portable "
            f"--calibration {shlex.quote(str(output))} --calibration-images DIR --output NEW"
        )
        print(plain(f"{output} is ready. Use it: {use}"))
    if arguments.sensitivity:
        _print_sensitivity(bundle, table, samples, arguments)


def _save(table: "CalibrationTable", output: Path) -> None:
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        table.save(output)
    except OSError as error:
        raise FlorenceEdgeError(
            f"Cannot write {output}: {error}. Make room, or choose another --output."
        ) from error


def _check_packages() -> None:
    for package in _PACKAGES:
        if find_spec(package) is None:
            raise MissingPackageError(
                f"Calibrating needs {package}, which is not installed. Install "
                f"it with: {pip_install('cpu', 'export')}"
            )


def _samples(bundle: Bundle, arguments: argparse.Namespace) -> list[CalibrationSample]:
    images, count = arguments.images, arguments.samples
    if count < 1:
        raise RequestError(f"--samples is {count}; it must be 1 or more.")
    if images is not None:
        found = folder_samples(images, count, image_options_from(arguments))
        return split(found)[0]  # the rest is for the gate to judge by
    if bundle.checkpoint != sha256(_MINIATURE):
        raise RequestError(f"{bundle.model} needs pictures to calibrate with. {HOW_MANY}")
    return scene_samples(count, image_size=bundle.size.image_size)


def _table(
    bundle: Bundle, samples: Sequence[CalibrationSample], existing: Path | None
) -> "CalibrationTable":
    from .quantization.calibration_table import CalibrationTable
    from .quantization.observer import calibrate  # needs onnx_ir

    if existing is None:
        return calibrate(bundle, samples, _draw_progress)
    table = CalibrationTable.load(existing)
    table.check(bundle)
    return table


def _draw_progress(done: int, count: int) -> None:
    """One line on stderr, drawn over and over; on a terminal only, but for its end."""
    if done == count or sys.stderr.isatty():
        end = "\n" if done == count else ""
        print(f"\rCalibrating: {done} of {count} pictures", end=end, file=sys.stderr, flush=True)


def _print_sensitivity(
    bundle: Bundle,
    table: "CalibrationTable",
    samples: Sequence[CalibrationSample],
    arguments: argparse.Namespace,
) -> None:
    from .quantization.agreement import TeacherForcing
    from .quantization.dataset import no_progress
    from .quantization.sensitivity import sweep

    with Florence2.load(bundle.folder) as model:
        teacher_forcing = TeacherForcing(
            model, samples[:_JUDGED_PICTURES], no_progress, max_new_tokens=_MAX_NEW_TOKENS
        )
    tokenizer = TokenizerFile.from_file(str(bundle.folder / TOKENIZER))
    recipe = Recipe(
        target=arguments.target,
        precision=arguments.precision,
        method=arguments.method,
        locations_from=locations_from(tokenizer, bundle.size.vocab_size),
    )
    print(
        f"One block at a time in {recipe.precision}, all others float32. Error: of its graph's "
        "outputs, relative."
    )
    print(
        f"Loss: of {teacher_forcing.positions} positions along the float model's answers to all "
        "tasks."
    )
    print("Saved: time of its graph on this machine.\n")
    print(f"{'--keep pattern':62} {'error':>8} {'loss':>7} {'equal':>7} {'saved':>7}")
    for found in sweep(bundle, table, recipe, samples[:_SWEPT_PICTURES], teacher_forcing):
        agreement = found.agreement.as_json() if found.agreement else {}
        print(
            f"{pattern_of(found.block):62} {found.error:8.5f} {agreement['loss']:7.4f} "
            f"{agreement['top1_agreement']:7.4f} {found.saved:+7.1%}",
            flush=True,
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="florence-calibrate",
        description="Run a float32 bundle over pictures and all tasks, and write the calibration "
        "table: histograms of what its layers read, from which int8 scales are chosen.",
    )
    add = parser.add_argument
    add("bundle", type=Path, help="a float32 bundle")
    add(
        "images",
        type=picture_path,
        nargs="?",
        help="a folder of pictures; the miniature has its own",
    )
    add("--output", type=Path, metavar="FILE", help="where the table goes, e.g. calibration.json")
    add("--samples", type=int, default=256, metavar="N", help="pictures to take (default: 256)")
    add("--calibration", type=Path, metavar="FILE", help="use this table instead of making one")
    add(
        "--sensitivity", action="store_true", help="quantize one block at a time and print its cost"
    )
    add("--precision", choices=INTEGER_PRECISIONS, default="int8", help="of --sensitivity")
    add("--target", choices=TARGETS, default="tensorrt", help="of --sensitivity")
    add("--method", choices=METHODS, default=DEFAULT_METHOD, help="of --sensitivity")
    add_image_arguments(parser)
    add("--overwrite", action="store_true", help="replace an existing table")
    add("--version", action="version", version=f"florence-edge {__version__}")
    return parser
