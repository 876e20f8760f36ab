"""Engines behind one seam; `open_backend` picks one by name."""

import logging
import re

from ..bundle import Bundle
from ..errors import BackendError, RequestError
from .base import Backend, Decoder

__all__ = ["Backend", "Decoder", "open_backend"]

logger = logging.getLogger(__name__)

_ENGINES = ("cpu", "cuda", "cuda:N")


def open_backend(bundle: Bundle, device: str, *, threads: int | None = None) -> Backend:
    """Open the engine that `device` ("engine[:device]") names.

    Raises:
        BackendError: no such engine, its package is missing, it did not become active, or the
            bundle was made for another.
        RequestError: `threads` is no number of threads.
    """
    known = re.fullmatch(r"cpu|cuda(?::([0-9]+))?", device)
    if known is None:
        raise BackendError(
            f"There is no device {device!r}. The devices are: {', '.join(_ENGINES)}."
        )
    if threads is not None and threads < 1:
        raise RequestError(f"threads is {threads}; it must be 1 or more, or left out.")
    engine = device.partition(":")[0]
    bundle.check_engine(engine)
    if engine == "cpu" and bundle.precision == "fp16":
        logger.warning(
            "%s is fp16: on the CPU it runs through casts, slower than fp32.", bundle.folder
        )
    from .ort import OrtBackend  # imports onnxruntime, which `import florence_edge` must not

    return OrtBackend(
        bundle, cuda_device=int(known[1] or 0) if engine == "cuda" else None, threads=threads
    )
