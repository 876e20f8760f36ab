"""Sensitivity: one block at a time quantized, all others float; its cost and its saving."""

import os
import shutil
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
from florence_edge.backends.base import NamedArrays
from florence_edge.backends.ort import open_ort
from florence_edge.bundle import TOKENIZER, Bundle
from florence_edge.files import folder_beside
from florence_edge.image import pixels
from florence_edge.tokenizer import Tokenizer

from .. import Float64s
from .agreement import Agreement, TeacherForcing, total
from .calibration_table import CalibrationTable
from .dataset import CalibrationSample, no_progress
from .observer import open_session
from .quantize import layer_names, quantize_graph
from .recipe import KeptPrecision, Recipe, block_of

_TIMED_RUNS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensitivity:
    """What a block costs in int8 or int4, alone.

    `error` is the root mean square error of its graph's outputs as a share of theirs. With teacher
    forcing, `saved` is the share of the graph's time on this machine that it saves, `agreement`
    that of the whole model with the float one.
    """

    graph: str
    block: str
    error: float
    saved: float | None = None
    agreement: Agreement | None = None


def blocks_of(bundle: Bundle, recipe: Recipe) -> dict[str, list[str]]:
    """The blocks of each graph that a recipe quantizes, in order."""
    found: dict[str, list[str]] = {}
    for graph in contract.GRAPHS:
        names = layer_names(ir.load(bundle.graph_file(graph)).graph)
        wanted = [name for name in names if recipe.kept_as(name) is None]
        found[graph] = list(dict.fromkeys(map(block_of, wanted)))
    return found


def sweep(
    bundle: Bundle,
    table: CalibrationTable,
    recipe: Recipe,
    samples: Sequence[CalibrationSample],
    teacher_forcing: TeacherForcing | None = None,
) -> Iterator[Sensitivity]:
    """Quantize one block after the other.

    Args:
        bundle: the float model.
        table: the histograms of its activations.
        recipe: target and method; what it keeps in float is left out.
        samples: a few pictures to measure errors with.
        teacher_forcing: the float model's answers; without them only errors are found, which takes
            a few seconds a block, in place of minutes for a full-size model.
    """
    graphs = _FloatGraphs(bundle, samples)
    for graph, blocks in blocks_of(bundle, recipe).items():
        for block in blocks:
            model = ir.load(bundle.graph_file(graph))
            quantize_graph(graph, model, table, _only(block, model, recipe))
            error, saved = graphs.compare(graph, model, timed=teacher_forcing is not None)
            agreement = None
            if teacher_forcing is not None:
                with variant(bundle, graph, model) as student:
                    agreement = total(teacher_forcing.judge(student, no_progress).values())
            yield Sensitivity(
                graph=graph, block=block, error=error, saved=saved, agreement=agreement
            )


def _only(block: str, model: ir.Model, recipe: Recipe) -> Recipe:
    """The recipe for this block alone."""
    names = layer_names(model.graph)
    others: dict[str, KeptPrecision] = {name: "fp32" for name in names if block_of(name) != block}
    return replace(recipe, kept={**others, **recipe.kept}, float16=False)


@contextmanager
def variant(bundle: Bundle, graph: str, changed_graph: ir.Model) -> Iterator[Florence2]:
    """The model with one graph replaced; the other files are linked, not copied."""
    beside = bundle.folder.resolve()
    with folder_beside(beside.with_name(f"{beside.name}-variant")) as folder:
        for file in bundle.folder.iterdir():
            if file.is_file() and file.name != f"{graph}.onnx":
                _link(file, folder / file.name)
        ir.save(changed_graph, folder / f"{graph}.onnx")
        changed = replace(bundle, folder=folder)
        tokenizer = Tokenizer(folder / TOKENIZER, bundle.generation)
        with Florence2(changed, open_ort(changed), tokenizer) as model:
            yield model


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copyfile(source, target)


class _FloatGraphs:
    """The float graphs' inputs and outputs for a few pictures; a graph is run by itself."""

    def __init__(self, bundle: Bundle, samples: Sequence[CalibrationSample]) -> None:
        self._bundle = bundle
        self._feeds: dict[str, NamedArrays] = {}
        self._expected: dict[str, Float64s] = {}
        tokenizer = Tokenizer(bundle.folder / TOKENIZER, bundle.generation)
        size = bundle.size
        input_ids = _prompts(tokenizer, samples)
        mask = np.ones((len(samples), size.image_tokens + input_ids.shape[1]), dtype=np.int64)
        squares = np.stack([pixels(sample.read(), size.image_size) for sample in samples])

        (features,) = self._remember(contract.VISION_ENCODER, {"pixels": squares})
        prompt = {"input_ids": input_ids, "encoder_mask": mask}
        caches = self._remember(contract.TEXT_ENCODER, {"image_features": features, **prompt})
        of_decoder = contract.graphs(size, bundle.floats)[contract.DECODER]
        names = [tensor.name for tensor in of_decoder.inputs if tensor.name.startswith("cross_")]
        rows = input_ids.shape[1]  # for each picture, one a token
        caches = [np.repeat(cache, rows, axis=0) for cache in caches]
        step = self._first_step(input_ids.reshape(-1, 1), np.repeat(mask, rows, axis=0))
        self._remember(contract.DECODER, step | dict(zip(names, caches, strict=True)))

    def compare(self, graph: str, model: ir.Model, *, timed: bool) -> tuple[float, float | None]:
        """Error of a changed graph, and the share of time it saves, measured in turns."""
        session = open_session(model, self._bundle.folder)
        found, expected = _joined(self._run(graph, session)), self._expected[graph]
        error = relative_error(found, expected)
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

    def _remember(self, graph: str, feeds: NamedArrays) -> list[npt.NDArray[Any]]:
        """Run a float graph, and remember what went in and came out."""
        self._feeds[graph] = feeds
        model = ir.load(self._bundle.graph_file(graph))
        outputs = self._run(graph, open_session(model, self._bundle.folder))
        self._expected[graph] = _joined(outputs)
        return outputs

    def _run(self, graph: str, session: Any) -> list[npt.NDArray[Any]]:
        outputs: list[npt.NDArray[Any]] = session.run(
            self._outputs(graph), dict(self._feeds[graph])
        )
        return [_log_softmax(outputs[0])] if graph == contract.DECODER else outputs

    def _outputs(self, graph: str) -> list[str]:
        if graph == contract.DECODER:
            return ["logits"]
        signature = contract.graphs(self._bundle.size, self._bundle.floats)[graph]
        return [tensor.name for tensor in signature.outputs]

    def _first_step(
        self, token_ids: npt.NDArray[np.int64], mask: npt.NDArray[np.int64]
    ) -> dict[str, npt.NDArray[Any]]:
        """The decoder's inputs but for the cross caches: tokens [rows, 1], nothing cached yet."""
        size = self._bundle.size
        empty = (len(mask), size.decoder_heads, contract.MIN_CACHE_CAPACITY, size.head_dim)
        caches = {
            contract.self_cache(layer, part): np.zeros(empty, dtype=np.float32)
            for layer in range(size.decoder_layers)
            for part in contract.PARTS
        }
        return {
            "token_ids": token_ids,
            "position": np.zeros(1, dtype=np.int64),
            "encoder_mask": mask,
            **caches,
        }


def _prompts(tokenizer: Tokenizer, samples: Sequence[CalibrationSample]) -> npt.NDArray[np.int64]:
    """Token ids [samples, tokens] of a prompt about a region, which has all kinds of tokens.

    What a model rounds badly may be rare: `<s>` and location tokens can have activations a hundred
    times as large as words.
    """
    wordings = [prompt.wording for prompt in samples[0].prompts]
    place = next((index for index, each in enumerate(wordings) if "<loc_" in each), 0)
    ids = [tokenizer.prompt_ids(sample.prompts[place].wording) for sample in samples]
    return np.array(ids, dtype=np.int64)  # a location is one token: equally long


def _log_softmax(logits: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Log-probabilities: what all logits of a row are off by changes no answer."""
    logits = logits - logits.max(axis=-1, keepdims=True)
    log_probs: npt.NDArray[Any] = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    return log_probs


def relative_error(found: Float64s, expected: Float64s) -> float:
    """Root mean square error as a share of what was expected; infinite where one is not finite."""
    if not (np.isfinite(found).all() and np.isfinite(expected).all()):
        return float("inf")
    return float(np.sqrt(np.mean((found - expected) ** 2) / max(np.mean(expected**2), 1e-300)))


def _joined(arrays: Sequence[npt.NDArray[Any]]) -> Float64s:
    return np.concatenate([np.ravel(array) for array in arrays]).astype(np.float64)
