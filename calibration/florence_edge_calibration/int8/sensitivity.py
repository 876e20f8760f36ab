"""One block at a time in int8, all others float: which blocks cost accuracy, and what they save."""

import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from florence_edge import Florence2, contract
from florence_edge.backends.ort import OrtBackend
from florence_edge.bundle import TOKENIZER, Bundle
from florence_edge.image import pixels
from florence_edge.text import Tokenizer

from .ranges import no_progress
from .recipe import Recipe, block_of, layer_names, quantize_graph
from .samples import Sample
from .table import CalibrationTable
from .targets import Floats
from .teacher import Agreement, Teacher, total

Array = npt.NDArray[Any]

_TIMED_RUNS = 3
_STEPS = 4  # of the decoder, whatever tokens they bring


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensitivity:
    """What a block costs in int8, alone.

    `error` is the root mean square error of its graph's outputs as a share of theirs; `saved` the
    share of the graph's time on this machine. `agreement` is with a teacher, if there was one.
    """

    graph: str
    block: str
    error: float
    saved: float
    agreement: Agreement | None


def blocks_of(bundle: Bundle) -> dict[str, list[str]]:
    """The blocks of each graph that can be quantized, in order."""
    found: dict[str, list[str]] = {}
    for name in contract.GRAPHS:
        names = layer_names(ir.load(bundle.graph_file(name)).graph)
        found[name] = list(dict.fromkeys(map(block_of, names)))
    return found


def sweep(
    bundle: Bundle,
    table: CalibrationTable,
    recipe: Recipe,
    samples: Sequence[Sample],
    teacher: Teacher | None = None,
) -> Iterator[Sensitivity]:
    """Quantize one block after the other.

    Args:
        bundle: the float model.
        table: what its activations are like.
        recipe: target and method; what it keeps in float is not asked about.
        samples: a few pictures to measure errors with.
        teacher: the float model's answers, to be followed; that takes a while for each block.
    """
    run = _Run(bundle, samples)
    for graph, blocks in blocks_of(bundle).items():
        for block in blocks:
            model = ir.load(bundle.graph_file(graph))
            alone = _only(block, model, recipe)
            if alone is None:
                continue
            quantize_graph(graph, model, table, alone)
            with _variant(bundle, graph, model) as variant:
                error, saved = run.compare(graph, variant)
                followed = teacher.judge(variant, no_progress) if teacher else {}
            yield Sensitivity(
                graph=graph,
                block=block,
                error=error,
                saved=saved,
                agreement=total(followed.values()) if followed else None,
            )


def _only(block: str, model: ir.Model, recipe: Recipe) -> Recipe | None:
    """The recipe for this block alone; None if it keeps the block in float anyway."""
    names = layer_names(model.graph)
    if not any(block_of(name) == block and recipe.kept_as(name) is None for name in names):
        return None
    others: dict[str, Floats] = {name: "fp32" for name in names if block_of(name) != block}
    return replace(recipe, kept={**recipe.kept, **others}, halve=False)


@contextmanager
def _variant(bundle: Bundle, graph: str, model: ir.Model) -> Iterator[Florence2]:
    """The model with one graph replaced; the other files are linked, not copied."""
    with tempfile.TemporaryDirectory(prefix=".variant-", dir=bundle.folder.parent) as name:
        folder = Path(name)
        for file in bundle.folder.iterdir():
            if file.is_file() and file.name != f"{graph}.onnx":
                _link(file, folder / file.name)
        ir.save(model, folder / f"{graph}.onnx")
        yield _open(replace(bundle, folder=folder))


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copyfile(source, target)


def _open(bundle: Bundle) -> Florence2:
    tokenizer = Tokenizer(bundle.folder / TOKENIZER, bundle.generation)
    return Florence2(bundle, OrtBackend(bundle), tokenizer)


class _Run:
    """The float model's inputs and outputs of each graph for a few pictures."""

    def __init__(self, bundle: Bundle, samples: Sequence[Sample]) -> None:
        self._model = _open(bundle)
        side = bundle.size.image_size
        self._squares = np.stack([pixels(sample.read(), side) for sample in samples])
        self._prompts = self._model.encode_prompts([sample.questions[0] for sample in samples])
        self._features = self._model.backend.look(self._squares)
        self._expected = {name: self._outputs(self._model, name) for name in contract.GRAPHS}

    def compare(self, graph: str, variant: Florence2) -> tuple[float, float]:
        """Error of the variant's graph, and the share of time it saves, measured in turns."""
        found = self._outputs(variant, graph)
        seconds: dict[bool, list[float]] = {True: [], False: []}
        for _ in range(_TIMED_RUNS):
            for is_variant, model in ((False, self._model), (True, variant)):
                started = time.perf_counter()
                self._outputs(model, graph)
                seconds[is_variant].append(time.perf_counter() - started)
        expected = self._expected[graph]
        error = np.sqrt(np.mean((found - expected) ** 2) / np.mean(expected**2))
        return float(error), 1 - min(seconds[True]) / min(seconds[False])

    def _outputs(self, model: Florence2, graph: str) -> Array:
        backend: Any = model.backend
        if graph == contract.VISION_ENCODER:
            return np.asarray(backend.look(self._squares), dtype=np.float64)
        if graph == contract.TEXT_ENCODER:
            caches = backend.cross_caches(self._features, *self._prompts)
            return np.concatenate([np.ravel(cache) for cache in caches.values()]).astype(np.float64)
        decoder = backend.read(self._features, *self._prompts, beams=1)
        parents = np.zeros((len(self._squares), 1), dtype=np.int64)
        rows = []
        for token in range(_STEPS):
            scores = decoder.step(np.full_like(parents, token), parents)
            rows += [image.full().copy() for image in scores]
        return np.array(rows, dtype=np.float64)
