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
from florence_edge.backends.ort import open_ort
from florence_edge.bundle import TOKENIZER, Bundle
from florence_edge.image import pixels
from florence_edge.text import Tokenizer

from .ranges import no_progress, open_session
from .recipe import Recipe, block_of, layer_names, quantize_graph
from .samples import Sample
from .table import CalibrationTable
from .targets import Floats
from .teacher import Agreement, Teacher, total

Array = npt.NDArray[Any]
Arrays = dict[str, Array]

_TIMED_RUNS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensitivity:
    """What a block costs in int8, alone.

    `error` is the root mean square error of its graph's outputs as a share of theirs. Where there
    was a teacher, `saved` is the share of the graph's time on this machine, `agreement` how the
    whole model follows.
    """

    graph: str
    block: str
    error: float
    saved: float | None = None
    agreement: Agreement | None = None


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
        teacher: the float model's answers, to be followed; without one only errors are found,
            which takes a few seconds a block, in place of minutes for a full-size model.
    """
    run = _Run(bundle, samples)
    for graph, blocks in blocks_of(bundle).items():
        for block in blocks:
            model = ir.load(bundle.graph_file(graph))
            alone = _only(block, model, recipe)
            if alone is None:
                continue
            quantize_graph(graph, model, table, alone)
            error, saved = run.compare(graph, model, timed=teacher is not None)
            followed = None if teacher is None else _follow(bundle, graph, model, teacher)
            yield Sensitivity(
                graph=graph, block=block, error=error, saved=saved, agreement=followed
            )


def _only(block: str, model: ir.Model, recipe: Recipe) -> Recipe | None:
    """The recipe for this block alone; None if it keeps the block in float anyway."""
    names = layer_names(model.graph)
    if not any(block_of(name) == block and recipe.kept_as(name) is None for name in names):
        return None
    others: dict[str, Floats] = {name: "fp32" for name in names if block_of(name) != block}
    return replace(recipe, kept={**recipe.kept, **others}, halve=False)


def _follow(bundle: Bundle, graph: str, model: ir.Model, teacher: Teacher) -> Agreement:
    with _variant(bundle, graph, model) as variant:
        return total(teacher.judge(variant, no_progress).values())


@contextmanager
def _variant(bundle: Bundle, graph: str, model: ir.Model) -> Iterator[Florence2]:
    """The model with one graph replaced; the other files are linked, not copied."""
    with tempfile.TemporaryDirectory(prefix=".variant-", dir=bundle.folder.parent) as name:
        folder = Path(name)
        for file in bundle.folder.iterdir():
            if file.is_file() and file.name != f"{graph}.onnx":
                _link(file, folder / file.name)
        ir.save(model, folder / f"{graph}.onnx")
        changed = replace(bundle, folder=folder)
        tokenizer = Tokenizer(folder / TOKENIZER, bundle.generation)
        yield Florence2(changed, open_ort(changed), tokenizer)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copyfile(source, target)


class _Run:
    """The float graphs' inputs and outputs for a few pictures; a graph is run by itself."""

    def __init__(self, bundle: Bundle, samples: Sequence[Sample]) -> None:
        self._bundle = bundle
        self._feeds: dict[str, Arrays] = {}
        self._expected: dict[str, Array] = {}
        tokenizer = Tokenizer(bundle.folder / TOKENIZER, bundle.generation)
        size = bundle.size
        prompts = [tokenizer.prompt_ids(sample.questions[0].prompt) for sample in samples]
        input_ids = np.array(prompts, dtype=np.int64)  # the first task takes no text: equally long
        mask = np.ones((len(samples), size.image_tokens + input_ids.shape[1]), dtype=np.int64)
        squares = np.stack([pixels(sample.read(), size.image_size) for sample in samples])

        (features,) = self._keep(contract.VISION_ENCODER, {"pixels": squares})
        prompt = {"input_ids": input_ids, "encoder_mask": mask}
        caches = self._keep(contract.TEXT_ENCODER, {"image_features": features, **prompt})
        of_decoder = contract.graphs(size, bundle.floats)[contract.DECODER]
        names = [tensor.name for tensor in of_decoder.inputs if tensor.name.startswith("cross_")]
        self._keep(contract.DECODER, self._first_step(mask) | dict(zip(names, caches, strict=True)))

    def compare(self, graph: str, model: ir.Model, *, timed: bool) -> tuple[float, float | None]:
        """Error of a changed graph, and the share of time it saves, measured in turns."""
        session = open_session(model, self._bundle.folder)
        found, expected = _joined(self._run(graph, session)), self._expected[graph]
        error = float(np.sqrt(np.mean((found - expected) ** 2) / np.mean(expected**2)))
        if not timed:
            return error, None
        original = open_session(ir.load(self._bundle.graph_file(graph)), self._bundle.folder)
        seconds: dict[bool, list[float]] = {True: [], False: []}
        for _ in range(_TIMED_RUNS):
            for changed, each in ((False, original), (True, session)):
                started = time.perf_counter()
                self._run(graph, each)
                seconds[changed].append(time.perf_counter() - started)
        return error, 1 - min(seconds[True]) / min(seconds[False])

    def _keep(self, graph: str, feeds: Arrays) -> list[Array]:
        """Run a float graph, and remember what went in and came out."""
        self._feeds[graph] = feeds
        model = ir.load(self._bundle.graph_file(graph))
        outputs = self._run(graph, open_session(model, self._bundle.folder))
        self._expected[graph] = _joined(outputs)
        return outputs

    def _run(self, graph: str, session: Any) -> list[Array]:
        outputs: list[Array] = session.run(self._outputs(graph), dict(self._feeds[graph]))
        return outputs

    def _outputs(self, graph: str) -> list[str]:
        if graph == contract.DECODER:
            return ["log_probs"]
        signature = contract.graphs(self._bundle.size, self._bundle.floats)[graph]
        return [tensor.name for tensor in signature.outputs]

    def _first_step(self, mask: Array) -> Arrays:
        """The decoder's inputs but for the cross caches: its start token, nothing cached yet."""
        size, images = self._bundle.size, len(mask)
        empty = (images, size.decoder_heads, contract.MIN_CACHE_CAPACITY, size.head_dim)
        start = self._bundle.generation.decoder_start_token_id
        caches = {
            contract.self_cache(layer, part): np.zeros(empty, dtype=np.float32)
            for layer in range(size.decoder_layers)
            for part in contract.PARTS
        }
        return {
            "token_ids": np.full((images, 1), start, dtype=np.int64),
            "position": np.zeros(1, dtype=np.int64),
            "encoder_mask": mask,
            **caches,
        }


def _joined(arrays: Sequence[Array]) -> Array:
    return np.concatenate([np.ravel(array) for array in arrays]).astype(np.float64)
