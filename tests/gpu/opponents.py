"""transformers, eager and compiled, in one process: how long whole answers and steps take.

    python -m gpu.opponents --figures FILE --work DIR [--device cpu]

Needs the checkpoint and nothing of ONNX Runtime. First eager, then compiled twice, the decoder by
torch.compile's default and then by `reduce-overhead`, which is CUDA graphs where torch can: a
figure is there before the next is risked. A compiled decoder has a static cache. The picture, the
prompt, the beams and the number of tokens are those of the whole answers that come later.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

from florence_edge.bundle import Bundle
from florence_edge_benchmarks.systems.system import Variant
from florence_edge_benchmarks.systems.transformers import (
    TransformersSystem,
    compile_parts,
    load_model,
)
from florence_edge_benchmarks.systems.workload import Workload, scene_picture, workloads
from florence_edge_benchmarks.timing import Steps, Timing, torch_cuda
from florence_edge_export.checkpoint.config import model_size
from florence_edge_export.checkpoint.defaults import read_generation, read_image_processing
from florence_edge_export.checkpoint.loader import read_checkpoint

from .figures import Figures, milliseconds, seconds_of
from .models import NEW_TOKENS, arguments, checkpoint

TASK = "CAPTION"
BEAMS = (3, 1)  # what the goals are about comes first
WARMUP = 3
ROUNDS = 10
MODES = {"compiled": None, "compiled, reduce-overhead": "reduce-overhead"}


def asked(work: Path) -> list[Workload]:
    """What is answered, in the order in which it is measured."""
    image = str(scene_picture(work))
    return workloads([TASK], BEAMS, [1], {TASK: None}, image)


def as_bundle(folder: Path) -> Bundle:
    """Of the checkpoint, what a compared system asks a bundle for: nothing was exported."""
    read = read_checkpoint(folder)
    return Bundle(
        folder=folder,
        model=folder.name,
        checkpoint="",
        precision="fp32",
        target="any",
        floats="float32",
        size=model_size(read.config, read_image_processing(folder).size),
        generation=read_generation(folder, read.config).generation,
        files={},
    )


class Opponents:
    """One loaded model, which is compiled when its eager figures are known."""

    def __init__(self, folder: Path, device: str) -> None:
        import torch

        self._torch = torch
        on_gpu = device != "cpu"
        self.variant = Variant("float16" if on_gpu else "float32")
        self._folder, self._bundle = folder, as_bundle(folder)
        model, _ = load_model(folder, self.variant)
        self._cuda = torch_cuda(0) if on_gpu else None
        self._model: Any = model.to("cuda:0" if on_gpu else "cpu")

    def system(self, *, compiled: bool, mode: str | None = None) -> TransformersSystem:
        """The model as a compared system."""
        if compiled:
            self._torch._dynamo.reset()  # the ways share code, whose recompilations are limited
            compile_parts(self._model, mode)
        for hooks in (self._model._forward_hooks, self._model._forward_pre_hooks):
            hooks.clear()  # of the system before, which would go on noting steps
        steps = Steps(perf_counter, self._cuda)
        image = read_image_processing(self._folder)
        return TransformersSystem(self._bundle, self._model, image, steps, static_cache=compiled)


def measure(figures: Figures, name: str, system: TransformersSystem, work: Path) -> None:
    """Whole answers of every workload: one figure each."""
    for workload in asked(work):
        first = seconds_of(partial(system.answer, workload))
        for _ in range(WARMUP - 1):
            system.answer(workload)
        timings = [system.answer(workload) for _ in range(ROUNDS)]
        figures.put(f"{name}, beams {workload.beams}", summary(timings, first))


def summary(timings: Sequence[Timing], first: float) -> dict[str, Any]:
    """Whole answers and what they are made of."""
    stages = timings[0].stages
    return {
        "first s": round(first, 2),
        "answer ms": milliseconds([one.seconds for one in timings]),
        "step ms": milliseconds([step for one in timings for step in one.steps[1:]]),
        **{
            f"{stage} ms": milliseconds([one.stages[stage] for one in timings])["p50"]
            for stage in stages
        },
        "tokens": timings[0].tokens,
    }


def main() -> int:
    parser: argparse.ArgumentParser = arguments(__doc__)
    parser.add_argument("--no-compile", action="store_true", help="eager alone: seconds")
    told = parser.parse_args()
    figures = Figures(told.figures, "transformers")
    with figures.attempt("eager"), quiet():
        opponents = Opponents(checkpoint(told.architecture, told.work), told.device)
        figures.put("of", described(opponents, told.architecture, compiles=not told.no_compile))
        measure(figures, "eager", opponents.system(compiled=False), told.work)
        for name, mode in {} if told.no_compile else MODES.items():
            with figures.attempt(name):
                measure(figures, name, opponents.system(compiled=True, mode=mode), told.work)
    return figures.exit_status


def described(opponents: Opponents, architecture: str, *, compiles: bool) -> dict[str, Any]:
    """What the figures are figures of."""
    import torch
    import transformers

    return {
        "model": f"{architecture}, random weights, {opponents.variant.dtype}",
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "task": f"{TASK}, {NEW_TOKENS} tokens",
        "cache": "static where compiled; dynamic where eager" if compiles else "dynamic",
    }


@contextmanager
def quiet() -> Iterator[None]:
    """transformers' notes about a checkpoint of random weights are nobody's concern here."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


if __name__ == "__main__":
    sys.exit(main())
