"""What the in-place decoder brings: steps of it and of the portable one, in turns.

    florence-export MODEL --precision fp16 --in-place-decoder 256 --output BUNDLE
    python tests/gpu/decoder_steps.py BUNDLE OUTPUT.json

Builds both engines, and times every step of an answer with the wait at its end, greedy and with 3
beams that part at every fourth. Not run on a GPU yet.
"""

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from florence_edge import Florence2
from florence_edge.tensorrt.install import find_tensorrt
from florence_edge.tensorrt.manifest import this_device
from florence_edge_export.tensorrt_build.cli import main as build

TOKENS = 200
ROUNDS = 6  # the first is not counted: it captures
TOKEN = 5  # which one is fed does not matter
DECODERS = {"in place": [], "portable": ["--portable-decoder"]}


def main(bundle: Path, output: Path) -> None:
    tensorrt = find_tensorrt()
    device = "tensorrt-rtx" if tensorrt.is_rtx else "tensorrt"
    with tempfile.TemporaryDirectory() as scratch:
        models = {}
        for name, flags in DECODERS.items():
            engines = Path(scratch) / name
            if build([str(bundle), "--engine-dir", str(engines), *flags]):
                raise SystemExit(f"There is no {name} decoder.")
            models[name] = Florence2.load(bundle, device, engine_dir=engines)
        found = {f"beams {beams}": in_turns(models, beams) for beams in (1, 3)}
    here = this_device(tensorrt)
    machine = {"gpu": here.gpu, "tensorrt": here.tensorrt, "flavour": here.flavour}
    described = {"bundle": str(bundle), "tokens": TOKENS, "rounds": ROUNDS - 1, **machine}
    text = json.dumps({**described, "milliseconds a step": found}, indent=2)
    output.write_text(text + "\n", encoding="utf-8")
    sys.stdout.write(text + "\n")


def in_turns(models: dict[str, Florence2], beams: int) -> dict[str, Any]:
    """Median and 90th percentile of a step of each decoder, and the median of their ratios."""
    taken: dict[str, list[list[float]]] = {name: [] for name in models}
    for turn in range(ROUNDS):
        for name in list(models)[:: -1 if turn % 2 else 1]:
            taken[name].append(steps(models[name], beams))
    counted = {name: rounds[1:] for name, rounds in taken.items()}
    medians = {name: [statistics.median(one) for one in rounds] for name, rounds in counted.items()}
    figures: dict[str, Any] = {}
    for name, rounds in counted.items():
        all_steps = [1e3 * step for one in rounds for step in one]
        p50, p90 = np.percentile(all_steps, [50, 90])
        figures[name] = {"p50": round(float(p50), 4), "p90": round(float(p90), 4)}
    ratios = [slow / fast for fast, slow in zip(*medians.values(), strict=True)]
    return {**figures, "portable / in place": round(statistics.median(ratios), 3)}


def steps(model: Florence2, beams: int) -> list[float]:
    """Seconds of each step of one answer."""
    size = model.bundle.size
    pixels = np.zeros((1, size.image_size, size.image_size, 3), dtype=np.uint8)
    ids = np.full((1, 8), TOKEN, dtype=np.int64)
    mask = np.ones((1, size.image_tokens + 8), dtype=np.int64)
    decoder = model.backend.prefill(model.backend.encode_image(pixels), ids, mask, beams=beams)
    tokens = np.full((1, beams), TOKEN, dtype=np.int64)
    seconds = []
    for step in range(TOKENS):
        own = np.arange(beams)[None]
        parents = np.zeros_like(own) if step == 0 else np.roll(own, 1) if step % 4 == 0 else own
        begun = time.perf_counter()
        decoder.step(tokens, parents)
        seconds.append(time.perf_counter() - begun)
    return seconds


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
