"""Steps of the decoder, call by call, as CUDA graphs, and of the plain one; host and device time.

    python -m gpu.decode_steps --figures FILE --work DIR [--device cpu] [--precision fp16]

A step is what a search waits for: tokens in, scores of the best out. All ways are fed the same
tokens, and must name the same best ones but for near ties, of which random weights have many. What
is read from memory at the least in a step is counted from the graph (`floor_bytes`); copy
bandwidth, measured later, makes a time of it.
"""

import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from florence_edge import contract
from florence_edge.backends.base import DecoderSession
from florence_edge.backends.gpu import CUDA_GRAPHS, FUSED_GRAPHS
from florence_edge.bundle import Bundle
from florence_edge.contract import ModelSize
from florence_edge.search import Ints

from .backends import TOKEN, Opened, Settings, Taken, environment, traced
from .figures import Figures, milliseconds
from .models import measure_asked

WAYS: Mapping[str, Settings] = {"eager": {CUDA_GRAPHS: "0"}, "graph": {}}
# decoder.onnx, where ONNX Runtime runs a decoder of its own operators otherwise.
PLAIN: Mapping[str, Settings] = {"plain graph": {FUSED_GRAPHS: "0"}}
BEAMS = (3, 1)
STEPS = 130  # into the third capacity of caches, each of which has graphs of its own
ANSWERS = 4  # the first two capture, and are not counted
PROFILED = 20
ALIKE = 0.95  # of the best tokens
WINDOWS = {"4 to 60": (4, 60), "68 to 124": (68, 124)}  # within one capacity each


def main() -> int:
    return measure_asked(__doc__, "steps", measure_bundle)


def measure_bundle(
    figures: Figures, name: str, folder: Path, device: str, engine_dir: Path | None = None
) -> None:
    """All figures of a bundle on a device; `engine_dir` has TensorRT's engines for it."""
    figures.put(f"{name} floor bytes", floor_bytes(folder))
    expected: dict[int, Ints] = {}
    fused = device == "cuda" and (folder / f"{contract.CUDA_DECODER}.onnx").exists()
    for way, settings in ({**WAYS, **PLAIN} if fused else WAYS).items():
        with figures.attempt(f"{name} {way}"), environment(settings):
            begun = perf_counter()
            opened = Opened(folder, device, engine_dir)
            figures.put(f"{name} {way} open s", round(perf_counter() - begun, 2))
            measure(figures, f"{name} {way}", opened, expected)


def measure(figures: Figures, name: str, opened: Opened, expected: dict[int, Ints]) -> None:
    """All figures of one way; `expected` are the best tokens of the first way, by beams."""
    with opened as model:
        for beams in BEAMS:
            prefills, steps, best = timed_answers(model, beams)
            figures.put(f"{name}, beams {beams}", summary(prefills, steps))
            alike = float((best == expected.setdefault(beams, best)).mean())
            figures.put(f"{name}, beams {beams}, best tokens as the first way", round(alike, 4))
            if alike < ALIKE:
                raise ValueError(f"{alike:.1%} of the best tokens are those of the first way")
        for beams in BEAMS:  # last: the profiler slows everything down
            with figures.attempt(f"{name}, beams {beams}, device"):
                found = profiled(model, beams)
                figures.put(f"{name}, beams {beams}, device", found)


def timed_answers(model: Opened, beams: int) -> tuple[list[Taken], list[list[Taken]], Ints]:
    """Prefills and steps of the answers that count, and the best tokens of the last."""
    features = model.encode()
    prefills, answers = [], []
    for _ in range(ANSWERS):
        prefill, decoder = model.take(lambda: model.prefill(features, beams))
        steps, best = walk(model, decoder, beams, STEPS)
        prefills.append(prefill)
        answers.append(steps)
    return prefills[2:], answers[2:], best


def walk(
    model: Opened, decoder: DecoderSession, beams: int, count: int
) -> tuple[list[Taken], Ints]:
    """Feed tokens that are always the same; beams part at every fourth step, as they do in answers.

    Returns:
        What each step took, and the best tokens [steps, beams].
    """
    fed = np.random.default_rng(beams).integers(5, model.size.vocab_size, (count, 1, beams))
    own = np.arange(beams)[None]
    taken, best = [], np.empty((count, beams), dtype=np.int64)
    for step, tokens in enumerate(fed):
        parents = np.zeros_like(own) if step == 0 else np.roll(own, 1) if step % 4 == 0 else own
        one, scores = model.take(partial(decoder.step, tokens, parents))
        taken.append(one)
        best[step] = scores[0].top_ids[:, 0]
    return taken, best


def summary(prefills: list[Taken], answers: list[list[Taken]]) -> dict[str, Any]:
    """Milliseconds of the steps in each window, whole and on the host."""
    found: dict[str, Any] = {"prefill ms": milliseconds([one.seconds for one in prefills])["p50"]}
    for name, (begin, end) in WINDOWS.items():
        steps = [one for answer in answers for one in answer[begin:end]]
        found[f"step ms, {name}"] = milliseconds([one.seconds for one in steps])
        found[f"of that host ms, {name}"] = milliseconds([one.host for one in steps])["p50"]
    return found


def profiled(model: Opened, beams: int) -> dict[str, Any]:
    """Device time and launches of a step, once everything is captured."""
    features = model.encode()
    decoder = model.prefill(features, beams)
    walk(model, decoder, beams, PROFILED)
    tokens, own = np.full((1, beams), TOKEN, dtype=np.int64), np.arange(beams)[None]
    with traced(model.device) as found:
        for _ in range(PROFILED):
            decoder.step(tokens, own)
    return found.each(PROFILED)


def floor_bytes(folder: Path) -> dict[str, int]:
    """What a step reads at the least: the decoder's weights and the cross caches, once each."""
    loaded = Bundle.load(folder)
    weights = weight_bytes(loaded.graph_file(contract.DECODER))
    return {"weights": weights, "cross caches": _cross_bytes(loaded.size, loaded.floats)}


def _cross_bytes(size: ModelSize, floats: str) -> int:
    positions = size.image_tokens + 8
    return 2 * size.decoder_layers * positions * size.d_model * np.dtype(floats).itemsize


def weight_bytes(graph: Path) -> int:
    """Bytes of all initializers but those from which Gather alone takes rows."""
    import onnx

    model = onnx.load(str(graph), load_external_data=False).graph
    readers: dict[str, set[str]] = {}
    for node in model.node:
        for place, name in enumerate(node.input):
            rows = node.op_type == "Gather" and place == 0
            readers.setdefault(name, set()).add("rows" if rows else "all")
    total = 0
    for tensor in model.initializer:
        if readers.get(tensor.name, set()) == {"rows"}:
            continue
        bits = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)).itemsize * 8
        if tensor.data_type in (onnx.TensorProto.INT4, onnx.TensorProto.UINT4):
            bits = 4
        total += int(np.prod(tensor.dims, dtype=np.int64)) * bits // 8
    return total


if __name__ == "__main__":
    sys.exit(main())
