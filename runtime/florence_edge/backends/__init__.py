"""Engines behind one seam; `open_backend` picks one by name, `within_engine` fits defaults."""

import logging
import re
from dataclasses import replace
from pathlib import Path

from ..bundle import Bundle
from ..errors import BackendError, RequestError
from .base import Backend, Decoder

__all__ = ["Backend", "Decoder", "open_backend", "within_engine"]

logger = logging.getLogger(__name__)

_DEVICES = (
    *("cpu", "cuda", "cuda:N", "tensorrt", "tensorrt:N", "tensorrt-rtx", "tensorrt-rtx:N"),
    *("openvino", "openvino:GPU.N"),
)
_DEVICE = re.compile(
    "cpu|(?P<engine>cuda|tensorrt|tensorrt-rtx)(:(?P<index>[0-9]+))?"
    r"|openvino(:(?P<openvino>[A-Z]+(\.[0-9]+)?))?"
)
PRECISIONS = ("fp32", "bf16")  # what OpenVINO may compute in; the others obey the graphs


def open_backend(
    bundle: Bundle,
    device: str,
    *,
    threads: int | None = None,
    engine_dir: str | Path | None = None,
    precision: str | None = None,
) -> Backend:
    """Open the engine that `device` ("engine[:device]") names.

    `engine_dir` is where TensorRT engines are, if not in the bundle; `precision` is what
    OpenVINO computes in (PRECISIONS; None is float32).

    Raises:
        BackendError: no such engine, its package is missing, it did not become active, or the
            bundle was made for another.
        RequestError: `threads` is no number of threads, or `precision` does not fit.
    """
    known = _DEVICE.fullmatch(device)
    if known is None:
        raise BackendError(
            f"There is no device {device!r}. The devices are: {', '.join(_DEVICES)}."
        )
    if threads is not None and threads < 1:
        raise RequestError(f"threads is {threads}; it must be 1 or more, or left out.")
    engine = known["engine"] or device.partition(":")[0]
    _check_precision(engine, precision)
    bundle.check_engine(engine.removesuffix("-rtx"))
    # Engines are imported here: `import florence_edge` must not.
    if engine == "openvino":
        from .openvino import open_openvino

        return open_openvino(
            bundle,
            device=known["openvino"] or "CPU",
            threads=threads,
            precision=precision or PRECISIONS[0],
        )
    if engine == "cpu":
        if bundle.precision == "fp16":
            logger.warning(
                "%s is fp16: on the CPU it runs through casts, slower than fp32.", bundle.folder
            )
        from .ort import open_ort

        return open_ort(bundle, threads=threads)
    index = int(known["index"] or 0)
    if engine == "cuda":
        from .ort_cuda import open_ort_cuda

        return open_ort_cuda(bundle, index=index)
    from .trt import open_tensorrt

    choice = "rtx" if engine == "tensorrt-rtx" else None
    engines = None if engine_dir is None else Path(engine_dir)
    return open_tensorrt(bundle, index=index, choice=choice, engine_dir=engines)


def within_engine(bundle: Bundle, backend: Backend) -> Bundle:
    """The bundle with its default `max_new_tokens` clamped to what the engine was built for.

    An answer that would be longer is cut off there, as one at the checkpoint's own limit. A number
    that a caller asks for is never changed: one that is too large stays an error.
    """
    most, usual = backend.most_new_tokens, bundle.generation.max_new_tokens
    if most is None or usual <= most:
        return bundle
    logger.warning(
        "The engines were built for answers of up to %d tokens: longer ones are cut off (status "
        "`truncated`). For more: florence-build %s --max-new-tokens %d",
        most,
        bundle.folder,
        usual,
    )
    return replace(bundle, generation=replace(bundle.generation, max_new_tokens=most))


def _check_precision(engine: str, precision: str | None) -> None:
    if precision is None:
        return
    if engine != "openvino":
        raise RequestError(
            f"--engine-precision (engine_precision) is for device='openvino'. On {engine}, a "
            "bundle is computed in its own precision: florence-export --precision."
        )
    if precision not in PRECISIONS:
        raise RequestError(
            f"engine_precision is {precision!r}; it must be {' or '.join(PRECISIONS)}."
        )
