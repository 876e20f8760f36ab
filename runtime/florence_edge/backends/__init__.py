"""Engines behind one seam; `open_backend` picks one by name."""

import logging
import re
from pathlib import Path

from ..bundle import Bundle
from ..errors import BackendError, RequestError
from .base import Backend, Decoder

__all__ = ["Backend", "Decoder", "open_backend"]

logger = logging.getLogger(__name__)

_ENGINES = ("cpu", "cuda", "cuda:N", "tensorrt", "tensorrt:N", "tensorrt-rtx", "tensorrt-rtx:N")


def open_backend(
    bundle: Bundle, device: str, *, threads: int | None = None, engine_dir: Path | None = None
) -> Backend:
    """Open the engine that `device` ("engine[:device]") names.

    `engine_dir` is where TensorRT engines are, if not in the bundle.

    Raises:
        BackendError: no such engine, its package is missing, it did not become active, or the
            bundle was made for another.
        RequestError: `threads` is no number of threads.
    """
    known = re.fullmatch(r"cpu|(cuda|tensorrt|tensorrt-rtx)(?::([0-9]+))?", device)
    if known is None:
        raise BackendError(
            f"There is no device {device!r}. The devices are: {', '.join(_ENGINES)}."
        )
    if threads is not None and threads < 1:
        raise RequestError(f"threads is {threads}; it must be 1 or more, or left out.")
    engine, index = known[1] or "cpu", int(known[2] or 0)
    bundle.check_engine(engine.removesuffix("-rtx"))
    # Engines are imported here: `import florence_edge` must not.
    if engine == "cpu":
        if bundle.precision == "fp16":
            logger.warning(
                "%s is fp16: on the CPU it runs through casts, slower than fp32.", bundle.folder
            )
        from .ort import OrtBackend

        return OrtBackend(bundle, threads=threads)
    if engine == "cuda":
        from .ort_cuda import open_ort_cuda

        return open_ort_cuda(bundle, index=index)
    from .trt import open_tensorrt

    choice = "rtx" if engine == "tensorrt-rtx" else None
    return open_tensorrt(bundle, index=index, choice=choice, engine_dir=engine_dir)
