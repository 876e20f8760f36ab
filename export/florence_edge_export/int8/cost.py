"""What a bundle costs beside another: bytes on disk, and the time to look and to read."""

import resource
import time
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from florence_edge import Florence2
from florence_edge.selftest import PROMPT_TOKENS

_RUNS = 3


@dataclass(frozen=True, slots=True)
class Cost:
    """A bundle's size on disk, and how many times as fast as the float one it encodes.

    `speed` is on this machine's CPU, for one picture and one prompt; the decoder is left out.
    """

    megabytes: float
    speed: float


def measure_cost(floats: Florence2, other: Florence2) -> Cost:
    """Size of a bundle, and its speed in turns with the float one."""
    ratios = [_encode(floats) / _encode(other) for _ in range(_RUNS + 1)][1:]
    size = sum(stored.bytes for stored in other.bundle.files.values())
    return Cost(megabytes=round(size / 1e6, 2), speed=round(median(ratios), 2))


def _encode(model: Florence2) -> float:
    """Seconds for a picture and a prompt."""
    size = model.bundle.size
    pixels = np.zeros((1, size.image_size, size.image_size, 3), dtype=np.uint8)
    input_ids = np.full((1, PROMPT_TOKENS), 4, dtype=np.int64)
    mask = np.ones((1, size.image_tokens + PROMPT_TOKENS), dtype=np.int64)
    backend: Any = model.backend
    started = time.perf_counter()
    backend.read(backend.look(pixels), input_ids, mask, beams=1)
    return time.perf_counter() - started


def peak_megabytes() -> int:
    """The most memory that this process has held so far (Linux counts in units of 1024 bytes)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 // 1_000_000
