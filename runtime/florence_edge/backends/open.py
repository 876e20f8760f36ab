"""Opening the engine that a device names, and fitting the bundle's defaults to it."""

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

from ..bundle import Bundle
from ..devices import Device
from ..errors import BackendError, BundleError, RequestError
from .base import Backend

logger = logging.getLogger(__name__)

MAX_THREADS = 1024  # more than any CPU has cores; the system may not survive millions
ENGINE_PRECISIONS = ("fp32", "bf16")  # what OpenVINO may compute in; the others obey the graphs


def open_backend(
    bundle: Bundle,
    device: str | Device,
    *,
    threads: int | None = None,
    engine_dir: str | Path | None = None,
    precision: str | None = None,
    verify: bool = True,
) -> Backend:
    """Open the engine that `device` names (`florence_edge.devices.Device`).

    `threads`, 1 or more, is for the engines on the CPU. `engine_dir` is where TensorRT engines
    are, if not in the bundle; `precision` is what OpenVINO computes in (ENGINE_PRECISIONS; None is
    float32). With `verify`, the weights are compared with their hash meanwhile; for TensorRT, which
    reads engines instead, those.

    Raises:
        BackendError: the engine did not become active, or the bundle was made for another.
        BundleError: the weights are not what was exported.
        MissingPackageError: the engine's package is not installed.
        RequestError: there is no such device, or `threads` or `precision` does not fit.
    """
    device = Device.parse(device)
    if threads is not None and not 1 <= threads <= MAX_THREADS:
        raise RequestError(
            f"threads is {threads}; it must be 1 to {MAX_THREADS}, or left out for what is best."
        )
    _check_precision(device, precision)
    bundle.check_engine(device.family)
    _warn_of_int8(bundle, device)
    if device.family == "tensorrt":
        return _open_tensorrt(bundle, device, engine_dir, verify)
    opened = partial(_open_graphs, bundle, device, threads, precision)
    return _open_verified(bundle, opened) if verify else opened()


def _warn_of_int8(bundle: Bundle, device: Device) -> None:
    """Name the better export where int8 costs more than it saves."""
    if bundle.precision != "int8" or bundle.target != "any" or not device.on_nvidia:
        return
    better = {
        "cuda": "Without int8 it is faster: florence-export CHECKPOINT --precision fp16",
        "tensorrt": "florence-export CHECKPOINT --precision int8 --target tensorrt "
        "--calibration-images DIR",
    }
    logger.warning(
        "%s is int8 for CPUs (--target portable): on a GPU its encoders are slower than in fp16, "
        "because they round between their products. %s --output NEW.",
        bundle.folder,
        better[device.family],
    )


def _open_verified(bundle: Bundle, opened: Callable[[], Backend]) -> Backend:
    """Open an engine, and hash the weights in a thread beside it."""
    with ThreadPoolExecutor(1, thread_name_prefix="florence-edge-verify") as thread:
        try:
            verified = thread.submit(bundle.check_weights)
        except RuntimeError:  # the system gives no more threads: one after the other, then
            bundle.check_weights()
            return opened()
        try:
            backend = opened()
        except BackendError:
            verified.result()  # where the weights are damaged, that is the reason
            raise
    try:
        verified.result()
        bundle.check_unchanged()
    except BundleError:
        backend.close()
        raise
    return backend


def _open_graphs(
    bundle: Bundle, device: Device, threads: int | None, precision: str | None
) -> Backend:
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
        elif bundle.target == "gpu":
            logger.warning(
                "%s is int8 for GPUs: on the CPU it runs through casts. Faster there is "
                "florence-export CHECKPOINT --precision int8 --target cpu --calibration-images DIR "
                "--output NEW.",
                bundle.folder,
            )
        from .ort import open_ort

        return open_ort(bundle, threads=threads)
    from .ort_cuda import open_ort_cuda

    return open_ort_cuda(bundle, index=device.index)


def _open_tensorrt(
    bundle: Bundle, device: Device, engine_dir: str | Path | None, verify: bool
) -> Backend:
    from .trt import open_tensorrt

    choice = "rtx" if device.engine == "tensorrt-rtx" else None
    engines = None if engine_dir is None else Path(engine_dir)
    return open_tensorrt(
        bundle, index=device.index, choice=choice, engine_dir=engines, verify=verify
    )


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
