"""A bundle opened on a device for measuring below the public face: its steps and its looks.

Host time is what is left of a call without its waits for the GPU. Device time is what CUDA's own
profiler (CUPTI, through torch) says that kernels and copies took, whoever launched them.
"""

import json
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from florence_edge import Florence2
from florence_edge.backends.base import DecoderSession, Features
from florence_edge_benchmarks.timing import Calls, with_waits

Settings = Mapping[str, str]  # environment variables

TOKEN = 5  # which one is fed first does not matter
PROMPT = 8  # tokens
_ON_DEVICE = ("kernel", "gpu_memcpy", "gpu_memset")  # categories of the profiler's trace
_MOST_NAMES = 12


@dataclass(frozen=True, slots=True)
class Taken:
    """One call: its seconds, and those of them that the host did not wait."""

    seconds: float
    host: float


class Opened:
    """A loaded model whose waits are recorded; use it as a context manager."""

    def __init__(self, folder: Path, device: str, engine_dir: Path | None = None) -> None:
        self.device = device
        self._model = Florence2.load(folder, device, engine_dir=engine_dir)
        self._calls = Calls()
        self._backend = with_waits(self._model.backend, self._calls)
        self.size = self._model.bundle.size
        rng = np.random.default_rng(0)
        side = self.size.image_size
        self.pixels = rng.integers(0, 256, (1, side, side, 3), np.uint8)

    def __enter__(self) -> "Opened":
        return self

    def __exit__(self, *_: object) -> None:
        self._model.close()

    def encode(self) -> Features:
        """The vision encoder on noise."""
        return self._backend.encode_image(self.pixels)

    def prefill(self, features: Features, beams: int) -> DecoderSession:
        """The text encoder, and a decoder for an answer."""
        ids = np.full((1, PROMPT), TOKEN, dtype=np.int64)
        mask = np.ones((1, self.size.image_tokens + PROMPT), dtype=np.int64)
        return self._backend.prefill(features, ids, mask, beams=beams)

    def take(self, work: Callable[[], Any]) -> tuple[Taken, Any]:
        """Time a call into the backend."""
        self._calls.take()
        begun = perf_counter()
        result = work()
        seconds = perf_counter() - begun
        waits = sum(call.end - call.begin for call in self._calls.take() if call.kind == "wait")
        return Taken(seconds, seconds - waits), result


@dataclass(slots=True)
class Traced:
    """What ran on the GPU meanwhile."""

    microseconds: float = 0.0
    launches: int = 0
    by_name: Counter[str] | None = None

    def each(self, count: int) -> dict[str, Any]:
        """A share of one in `count` equal calls."""
        names = (self.by_name or Counter()).most_common(_MOST_NAMES)
        return {
            "device ms": round(self.microseconds / 1e3 / count, 4),
            "kernels and copies": round(self.launches / count, 1),
            "longest, us": {name[:80]: round(us / count, 2) for name, us in names},
        }


@contextmanager
def environment(settings: Settings) -> Iterator[None]:
    """These environment variables, for what is opened or started within."""
    before = dict(os.environ)
    os.environ.update(settings)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def traced(device: str) -> Iterator[Traced]:
    """Fill in what runs on the GPU within the block; on a CPU, that is nothing.

    Raises:
        RuntimeError: this torch finds no GPU to trace.
    """
    import torch
    from torch.profiler import ProfilerActivity, profile

    if device != "cpu" and not torch.cuda.is_available():
        raise RuntimeError(f"torch {torch.__version__} finds no GPU, so nothing was traced")
    found = Traced(by_name=Counter())
    activity = ProfilerActivity.CPU if device == "cpu" else ProfilerActivity.CUDA
    with profile(activities=[activity]) as profiler:
        yield found
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]
    for event in events:
        if event.get("cat") in _ON_DEVICE:
            found.launches += 1
            found.microseconds += event["dur"]
            found.by_name[event["name"]] += event["dur"]  # type: ignore[index]
