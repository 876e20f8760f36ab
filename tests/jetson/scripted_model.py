"""What the tests of robots share: a model whose answers are known beforehand, and frames."""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tokenizers

from florence_edge import Florence2
from florence_edge.bundle import TOKENIZER, Bundle
from florence_edge.search import Ints, Scores
from florence_edge.tokenizer import Tokenizer

Rgb = npt.NDArray[np.uint8]

SPOKEN = "<loc_100><loc_200><loc_299><loc_399><loc_500><loc_0><loc_999><loc_999>"
"""What the scripted model answers to everything: two regions, without labels."""
LOG_PROB = -0.25
WIDTH, HEIGHT = 40, 30
BOXES = [(4.0, 6.0, 11.0, 11.0), (20.0, 0.0, 39.0, 29.0)]
"""Those regions in a frame of this size, by transformers' rule."""
FIND_DEFECTS = {
    "token": "<FIND_DEFECTS>",
    "template": "Find the defects in the image.",
    "answer": "bboxes",
    "needs": "nothing",
}
"""A task of a bundle's own, as its manifest has it."""


class Reciter:
    """A decoder that says what it was given, token after token."""

    def __init__(self, ids: Sequence[int], images: int) -> None:
        self._ids = ids
        self._images = images
        self._steps = 0

    def step(self, tokens: Ints, parents: Ints) -> list[Scores]:
        token, self._steps = self._ids[min(self._steps, len(self._ids) - 1)], self._steps + 1
        rows = tokens.shape[1]
        top = np.tile([LOG_PROB, -9.0, -9.5, -10.0], (rows, 1)).astype(np.float32)
        others = [other for other in (4, 5, 6, 7) if other != token][:3]
        ids = np.tile([token, *others], (rows, 1))
        return [Scores(top, ids, -top[:, 0], lambda: self._full(top, ids))] * self._images

    def _full(self, top: npt.NDArray[np.float32], ids: Ints) -> npt.NDArray[np.float32]:
        full = np.full((len(top), 60_000), -30, dtype=np.float32)
        np.put_along_axis(full, ids, top, axis=1)
        return full


class ScriptedBackend:
    """An engine that sees nothing; `gate` holds it up, `mishap` is raised by its next encoding."""

    max_new_tokens: int | None = None
    max_batch: int | None = None

    def __init__(self, bundle: Bundle, spoken: str) -> None:
        tokenizer = tokenizers.Tokenizer.from_file(str(bundle.folder / TOKENIZER))
        self._ids = [0, *tokenizer.encode(spoken, add_special_tokens=False).ids, 2]
        self._size = bundle.size
        self.gate = threading.Event()
        self.gate.set()
        self.encoding = threading.Event()
        self.encoded: list[int] = []
        self.mishap: Exception | None = None

    def encode_image(self, pixels: Any) -> npt.NDArray[np.float32]:
        self.encoding.set()
        assert self.gate.wait(10)
        mishap, self.mishap = self.mishap, None
        if mishap is not None:
            raise mishap
        self.encoded.append(int(pixels[0, 0, 0, 0]))
        return np.zeros((len(pixels), self._size.image_tokens, 8), dtype=np.float32)

    def prefill(self, features: Any, input_ids: Ints, encoder_mask: Ints, *, beams: int) -> Reciter:
        return Reciter(self._ids, len(input_ids))

    def close(self) -> None: ...


def scripted_model(
    folder: Path, *, backend: ScriptedBackend | None = None
) -> tuple[Florence2, ScriptedBackend]:
    bundle = Bundle.load(folder)
    backend = backend or ScriptedBackend(bundle, SPOKEN)
    tokenizer = Tokenizer(bundle.folder / TOKENIZER, bundle.generation)
    return Florence2(bundle, backend, tokenizer), backend


def noise(seed: int = 0, *, height: int = HEIGHT, width: int = WIDTH) -> Rgb:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def grey(level: int) -> Rgb:
    return np.full((HEIGHT, WIDTH, 3), level, dtype=np.uint8)
