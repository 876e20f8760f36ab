"""Engines behind one seam; `open_backend` picks one by name."""

from ..bundle import Bundle
from ..errors import BackendError
from .base import Backend, Decoder

__all__ = ["Backend", "Decoder", "open_backend"]

_ENGINES = ("cpu", "cuda", "cuda:N")


def open_backend(bundle: Bundle, device: str, *, threads: int | None = None) -> Backend:
    """Open the engine that `device` ("engine[:device]") names.

    Raises:
        BackendError: no such engine, its package is missing, it did not become active, or the
            bundle was made for another.
    """
    engine, _, index = device.partition(":")
    if engine not in ("cpu", "cuda") or (index and not index.isdigit()) or device == "cpu:":
        raise BackendError(
            f"There is no device {device!r}. The devices are: {', '.join(_ENGINES)}."
        )
    bundle.check_engine(engine)
    from .ort import OrtBackend  # imports onnxruntime, which `import florence_edge` must not

    return OrtBackend(
        bundle, cuda_device=int(index or 0) if engine == "cuda" else None, threads=threads
    )
