"""Looks: how long the vision encoder takes, on the host and on the GPU.

    python -m gpu.looks --figures FILE --work DIR [--device cpu] [--precision fp16]

In float16 on CUDA also that of the plain graph, and that of convolutions with channels last, which
ONNX Runtime offers: fewer transpositions, by cuDNN's other kernels. Which is faster is to be seen.
"""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from florence_edge import contract
from florence_edge.backends import ort_cuda
from florence_edge.backends.gpu import FUSED_GRAPHS
from florence_edge.backends.ort import open_session
from florence_edge.bundle import Bundle

from .backends import Opened, Settings, environment, traced
from .figures import Figures, milliseconds, seconds_of
from .models import measure_asked

LOOKS = 30
PROFILED = 3
PLAIN: Settings = {FUSED_GRAPHS: "0"}  # vision_encoder.onnx, where another runs otherwise


def main() -> int:
    return measure_asked(__doc__, "looks", measure_bundle)


def measure_bundle(
    figures: Figures, name: str, folder: Path, device: str, engine_dir: Path | None = None
) -> None:
    """All figures of a bundle on a device; `engine_dir` has TensorRT's engines for it."""
    measure(figures, name, folder, device, engine_dir)
    if device != "cuda" or not (folder / f"{contract.VISION_CUDA}.onnx").exists():
        return
    with figures.attempt(f"{name} plain graph"), environment(PLAIN):
        measure(figures, f"{name} plain graph", folder, device)
    with figures.attempt(f"{name} channels last"), channels_last():
        measure(figures, f"{name} channels last", folder, device)


@contextmanager
def channels_last() -> Iterator[None]:
    """The CUDA provider's `prefer_nhwc`."""

    def preferring(bundle: Bundle, name: str, provider: tuple[str, Mapping[str, str]]) -> Any:
        return open_session(bundle, name, (provider[0], {**provider[1], "prefer_nhwc": "1"}))

    with patch.object(ort_cuda, "open_session", preferring):
        yield


def measure(
    figures: Figures, name: str, folder: Path, device: str, engine_dir: Path | None = None
) -> None:
    """Looks of one way."""
    with Opened(folder, device, engine_dir) as model:
        figures.put(f"{name}, first look s", round(seconds_of(model.encode), 3))
        looks = [model.take(model.encode)[0] for _ in range(LOOKS)]
        figures.put(f"{name}, look ms", milliseconds([one.seconds for one in looks]))
        host = milliseconds([one.host for one in looks])["p50"]
        figures.put(f"{name}, of that host ms", host)
        with figures.attempt(f"{name}, device"):
            with traced(device) as found:
                for _ in range(PROFILED):
                    model.encode()
            figures.put(f"{name}, device", found.each(PROFILED))


if __name__ == "__main__":
    sys.exit(main())
