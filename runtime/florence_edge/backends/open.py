"""Opening the engine that a device names, and fitting the bundle's defaults to it."""

import logging
from dataclasses import replace
from pathlib import Path

from ..bundle import Bundle
from ..devices import Device
from ..errors import RequestError
from .base import Backend

logger = logging.getLogger(__name__)

ENGINE_PRECISIONS = ("fp32", "bf16")  # what OpenVINO may compute in; the others obey the graphs


def open_backend(
    bundle: Bundle,
    device: str | Device,
    *,
    threads: int | None = None,
    engine_dir: str | Path | None = None,
    precision: str | None = None,
) -> Backend:
    """Open the engine that `device` names (`florence_edge.devices.Device`).

    `threads`, 1 or more, is for the engines on the CPU. `engine_dir` is where TensorRT engines
    are, if not in the bundle; `precision` is what OpenVINO computes in (ENGINE_PRECISIONS; None is
    float32).

    Raises:
        BackendError: the engine did not become active, or the bundle was made for another.
        MissingPackageError: the engine's package is not installed.
        RequestError: there is no such device, or `threads` or `precision` does not fit.
    """
    device = Device.parse(device)
    if threads is not None and threads < 1:
        raise RequestError(f"threads is {threads}; it must be 1 or more, or left out.")
    _check_precision(device, precision)
    bundle.check_engine(device.family)
    # Engines are imported here: `import florence_edge` must not.
    if device.engine == "openvino":
        from .openvino import open_openvino

        return open_openvino(
            bundle,
            device=device.openvino_device,
            threads=threads,
            precision=precision or ENGINE_PRECISIONS[0],
        )
    if device.engine == "cpu":
        if bundle.precision == "fp16":
            logger.warning(
                "%s is fp16: on the CPU it runs through casts, slower than fp32.", bundle.folder
            )
        from .ort import open_ort

        return open_ort(bundle, threads=threads)
    if device.engine == "cuda":
        from .ort_cuda import open_ort_cuda

        return open_ort_cuda(bundle, index=device.index)
    from .trt import open_tensorrt

    choice = "rtx" if device.engine == "tensorrt-rtx" else None
    engines = None if engine_dir is None else Path(engine_dir)
    return open_tensorrt(bundle, index=device.index, choice=choice, engine_dir=engines)


def within_engine(bundle: Bundle, backend: Backend) -> Bundle:
    """The bundle with its default `max_new_tokens` clamped to what the engine was built for.

    An answer that would be longer is cut off there, as one at the checkpoint's own limit. A number
    that a caller asks for is never changed: one that is too large stays an error.
    """
    built_for, default = backend.max_new_tokens, bundle.generation.max_new_tokens
    if built_for is None or default <= built_for:
        return bundle
    logger.warning(
        "The engines were built for answers of up to %d tokens: longer ones are cut off (status "
        "`truncated`). For more: florence-build %s --max-new-tokens %d",
        built_for,
        bundle.folder,
        default,
    )
    return replace(bundle, generation=replace(bundle.generation, max_new_tokens=built_for))


def _check_precision(device: Device, precision: str | None) -> None:
    if precision is None:
        return
    if device.engine != "openvino":
        raise RequestError(
            "--engine-precision (engine_precision) is for device='openvino'. On "
            f"{device.engine}, a bundle is computed in its own precision: florence-export "
            "--precision."
        )
    if precision not in ENGINE_PRECISIONS:
        raise RequestError(
            f"engine_precision is {precision!r}; it must be {' or '.join(ENGINE_PRECISIONS)}."
        )
