"""Opening the engine that a device names, and fitting the bundle's defaults to it."""

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from ..bundle import Bundle
from ..cpu import usable_cores
from ..devices import Device, EngineSettings
from ..errors import BackendError, BundleError, RequestError
from .base import Backend

logger = logging.getLogger(__name__)

MAX_THREADS = 1024  # more than any CPU has cores; the system may not survive millions
ENGINE_PRECISIONS = ("fp32", "bf16")  # what OpenVINO may compute in; the others obey the graphs


@dataclass(frozen=True, slots=True)
class OpenedEngine:
    """An engine that is ready, and how it was set up."""

    backend: Backend
    settings: EngineSettings


def open_engine(  # noqa: PLR0913 - all but two are named by the caller
    bundle: Bundle,
    device: str | Device,
    *,
    threads: int | None = None,
    spinning: bool | None = None,
    engine_dir: str | Path | None = None,
    precision: str | None = None,
    verify: bool = True,
) -> OpenedEngine:
    """Open the engine that `device` names, set up as `engine_settings` says.

    With `verify`, the weights are compared with their hash meanwhile; for TensorRT, which reads
    engines instead, those.

    Raises:
        BackendError: the engine did not become active, or the bundle was made for another.
        BundleError: the weights are not what was exported.
        MissingPackageError: the engine's package is not installed.
        RequestError: there is no such device, or an argument does not fit it.
    """
    settings = engine_settings(
        bundle,
        device,
        threads=threads,
        spinning=spinning,
        engine_dir=engine_dir,
        precision=precision,
    )
    device = settings.device
    bundle.check_engine(device.family)
    _warn_of_int8(bundle, device)
    if device.family == "tensorrt":
        return OpenedEngine(_open_tensorrt(bundle, device, engine_dir, verify), settings)
    opened = partial(_open_graphs, bundle, settings)
    return OpenedEngine(_open_verified(bundle, opened) if verify else opened(), settings)


def engine_settings(
    bundle: Bundle,
    device: str | Device,
    *,
    threads: int | None = None,
    spinning: bool | None = None,
    engine_dir: str | Path | None = None,
    precision: str | None = None,
) -> EngineSettings:
    """What `device` means here (`florence_edge.devices.Device`), all that is left out filled in.

    `threads`, 1 or more, is for the engines on the CPU: else as many as the process has cores
    (`cpu.usable_cores`). `spinning` is for ONNX Runtime on the CPU: whether its threads wait
    busily for each other, which costs the CPU of others and was no faster where it was measured
    (results/devices/doctor_speed.json), so they do not by default. `engine_dir` is where
    TensorRT engines are, if not in the bundle; `precision` is what OpenVINO computes in
    (ENGINE_PRECISIONS; None is float32), and lets "auto" take an engine that rounds so.

    Raises:
        RequestError: there is no such device, or an argument does not fit it.
    """
    wanted = Device.parse(device)
    if threads is not None and not 1 <= threads <= MAX_THREADS:
        raise RequestError(
            f"threads is {threads}; it must be 1 to {MAX_THREADS}, or left out for what is best."
        )
    _check_precision(wanted, precision)
    if spinning is not None and wanted.engine not in ("cpu", "auto"):
        raise RequestError(
            "--spinning (spinning) is for device='cpu': it is about the threads of ONNX Runtime "
            f"there, and {wanted} has none of them."
        )
    chosen = EngineSettings(device=wanted)
    if wanted.engine == "auto":
        from .auto import choose  # here: `import florence_edge` must not

        folder = None if engine_dir is None else Path(engine_dir)
        chosen = choose(bundle, engine_dir=folder, may_round=precision == "bf16")
        precision = chosen.precision
    return _filled_in(chosen, threads, spinning, precision)


def _filled_in(
    chosen: EngineSettings, threads: int | None, spinning: bool | None, precision: str | None
) -> EngineSettings:
    """The settings with what was given, and defaults for what was not."""
    engine = chosen.device.engine
    if engine == "openvino":
        chosen = replace(chosen, precision=precision or ENGINE_PRECISIONS[0])
    if engine != "cpu" and str(chosen.device) != "openvino":
        return chosen
    cores = usable_cores()
    chosen = replace(chosen, threads=threads or chosen.threads or cores.count)
    if engine != "cpu":
        return chosen
    if spinning is None:
        spinning = bool(chosen.spinning)
    return replace(chosen, spinning=spinning and chosen.threads != 1)  # the only one has no wait


def _warn_of_int8(bundle: Bundle, device: Device) -> None:
    """Name the better export where int8 or int4 cost more than they save, or are less accurate."""
    if bundle.may_saturate() and not device.on_nvidia:
        _warn_of_saturation(bundle, device)
    if bundle.precision in ("int8", "int4") and device.family == "cuda":
        _warn_of_integers_on_cuda(bundle)
    if bundle.precision == "int8" and bundle.target == "any" and device.family == "tensorrt":
        logger.warning(
            "%s is int8 for CPUs (--target portable): on a GPU its encoders are slower than in "
            "fp16, because they round between their products. Faster: florence-export CHECKPOINT "
            "--precision int8 --target tensorrt --calibration-images DIR --output NEW",
            bundle.folder,
        )


def _warn_of_integers_on_cuda(bundle: Bundle) -> None:
    """Only float16 has graphs of the operators that ONNX Runtime's CUDA provider fuses."""
    unpacked = bundle.target != "onnxruntime"  # where 4-bit weights are multiplied as they are
    logger.warning(
        "%s is %s, which saves %s here, and no time: ONNX Runtime's CUDA has the graphs with fewer "
        "kernels in fp16 alone%s. Faster: florence-export CHECKPOINT --precision fp16 --output NEW",
        bundle.folder,
        bundle.precision,
        "disk" if unpacked else "disk and GPU memory",
        ", and makes float weights of these when it loads them" if unpacked else "",
    )


def _warn_of_saturation(bundle: Bundle, device: Device) -> None:
    """Name the export whose int8 products are exact on this processor, too."""
    if device.engine == "cpu":
        from .int8_products import int8_products_saturate  # imports no onnxruntime

        if not int8_products_saturate():
            return
        cost = "so it is computed in a slower way here"
    else:
        cost = "where OpenVINO's answers can be less accurate"
    target = "cpu" if bundle.target == "cpu" else "portable"
    logger.warning(
        "%s has int8 weights of an older export, whose products exceed 16 bits on x86-64 without "
        "VNNI, %s. Export it again: florence-export CHECKPOINT --precision int8 --target %s "
        "--calibration-images DIR --output NEW.",
        bundle.folder,
        cost,
        target,
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


def _open_graphs(bundle: Bundle, settings: EngineSettings) -> Backend:
    # Engines are imported here: `import florence_edge` must not.
    device, threads = settings.device, settings.threads
    if device.engine == "openvino":
        from .openvino import open_openvino

        return open_openvino(
            bundle,
            device=device.openvino_device,
            threads=threads,
            precision=settings.precision or ENGINE_PRECISIONS[0],
        )
    if device.engine == "cpu":
        if bundle.precision == "fp16":
            logger.warning(
                "%s is fp16: on the CPU it runs through casts, slower than fp32.", bundle.folder
            )
        elif bundle.target == "gpu":
            logger.warning(
                "%s is %s for GPUs: on the CPU it runs through casts. Faster there is "
                "florence-export CHECKPOINT --precision %s --target cpu --calibration-images DIR "
                "--output NEW.",
                bundle.folder,
                bundle.precision,
                bundle.precision,
            )
        from .ort import open_ort

        return open_ort(bundle, threads=threads, spinning=settings.spinning)
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
    if device.engine not in ("openvino", "auto"):
        raise RequestError(
            "--engine-precision (engine_precision) is for device='openvino' or 'auto'. On "
            f"{device.engine}, a bundle is computed in its own precision: florence-export "
            "--precision."
        )
    if precision not in ENGINE_PRECISIONS:
        raise RequestError(
            f"engine_precision is {precision!r}; it must be {' or '.join(ENGINE_PRECISIONS)}."
        )
