"""What is run: checkpoints of random weights and their bundles, made where they are needed.

    python -m gpu.models --figures FILE --work DIR [--architecture base]

Base in float16 has 460 MB, which no call could carry: it is made there, from a seed.
"""

import argparse
import json
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from florence_edge_benchmarks.speed.random_models import (
    RandomModel,
    export_bundles,
    make_checkpoint,
)
from florence_edge_export.checkpoint.loader import MINIATURE, find_checkpoint
from florence_edge_export.export import ExportOptions, export
from florence_edge_export.quantization.export import QuantizationOptions

from .figures import Figures, seconds_of

PRECISIONS = ("fp16", "int8")
NEW_TOKENS = 20  # of a caption; random weights name the end token once in thousands of steps
_SIZES = {"tiny": 64}  # pixels, of an architecture that is for trying the programs


def arguments(description: str | None) -> argparse.ArgumentParser:
    """What all programs of a visit are told."""
    parser = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    parser.add_argument("--figures", type=Path, required=True, help="the JSON file of the visit")
    parser.add_argument("--work", type=Path, required=True, help="checkpoints and bundles")
    parser.add_argument("--device", default="cuda", help="cuda; cpu tries the program without")
    parser.add_argument("--architecture", default="base", choices=("base", "large", "tiny"))
    return parser


def measure_asked(
    description: str | None, section: str, measure: Callable[[Figures, str, Path, str], None]
) -> int:
    """The main of a program that measures one bundle; gives its exit status."""
    parser = arguments(description)
    parser.add_argument("--precision", default="fp16")
    parser.add_argument("--section", default=section)
    told = parser.parse_args()
    figures = Figures(told.figures, told.section)
    name = f"{told.architecture} {told.precision}"
    with figures.attempt(name):
        folder = bundle(told.architecture, told.precision, told.work)
        measure(figures, name, folder, told.device)
    return figures.exit_status


def random_model(architecture: str, *precisions: str) -> RandomModel:
    """The model of the visit; int8 is what is made for GPUs."""
    return RandomModel(
        architecture=architecture,
        precisions=precisions,
        target="tensorrt",
        image_size=_SIZES.get(architecture, 768),
    )


def checkpoint(architecture: str, work: Path) -> Path:
    """The checkpoint, made if need be.

    Its own settings say how long an answer is, and no rule keeps it from ending: such a rule would
    leave the search on the GPU unused (`device_search.rules_of`).
    """
    folder = make_checkpoint(random_model(architecture), work)
    settings = folder / "generation_config.json"
    stated = json.loads(settings.read_text(encoding="utf-8"))
    settings.write_text(json.dumps({**stated, "max_new_tokens": NEW_TOKENS}), encoding="utf-8")
    return folder


def bundle(architecture: str, precision: str, work: Path) -> Path:
    """The bundle in this precision, exported if need be.

    Raises:
        RuntimeError: why it could not be exported.
    """
    model = random_model(architecture, precision)
    folder = _bundle_folder(architecture, precision, work)
    if not folder.exists():
        of = checkpoint(architecture, work)
        for made, problem in export_bundles(model, of, folder.parent):
            if problem or made != folder:
                raise RuntimeError(f"{made} was not exported: {problem}")
    return folder


def miniature(precision: str, work: Path) -> Path:
    """The miniature, whose answers mean something; int8 is not judged here."""
    folder = _miniature_folder(precision, work)
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        options = ExportOptions(
            precision=precision, quantization=QuantizationOptions(target="tensorrt", budget=None)
        )
        export(MINIATURE, find_checkpoint(MINIATURE), folder, options)
    return folder


def _bundle_folder(architecture: str, precision: str, work: Path) -> Path:
    target = random_model(architecture, precision).target
    return work / architecture / (f"int8-{target}" if precision == "int8" else precision)


def _miniature_folder(precision: str, work: Path) -> Path:
    return work / "miniature" / precision


def _to_make(architecture: str, work: Path) -> dict[str, Callable[[], object]]:
    """What the later stages need, and an earlier call has not made."""
    made: dict[str, Callable[[], object]] = {}
    for each in PRECISIONS:
        if not _bundle_folder(architecture, each, work).exists():
            made[each] = partial(bundle, architecture, each, work)
    for each in ("fp32", *PRECISIONS):
        if not _miniature_folder(each, work).exists():
            made[f"miniature {each}"] = partial(miniature, each, work)
    return made


def main() -> int:
    told = arguments(__doc__).parse_args()
    figures = Figures(told.figures, "models")
    to_make = _to_make(told.architecture, told.work)
    if not to_make:
        return figures.exit_status  # and the figures of that call stay
    figures.put("architecture", f"{told.architecture}, random weights")
    making = partial(checkpoint, told.architecture, told.work)
    figures.put("checkpoint s", round(seconds_of(making), 2))
    # Beside each other: much of an export is one thread's work.
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as processes:
        exports = {processes.submit(seconds_of, make): name for name, make in to_make.items()}
        for done in as_completed(exports):
            with figures.attempt(f"{exports[done]} s"):
                figures.put(f"{exports[done]} s", round(done.result(), 2))
    return figures.exit_status


if __name__ == "__main__":
    sys.exit(main())
