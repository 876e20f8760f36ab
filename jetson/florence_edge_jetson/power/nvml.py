"""Power of a desktop GPU, through NVIDIA's management library (package nvidia-ml-py)."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from florence_edge.errors import BackendError, MissingPackageError
from florence_edge.extras import pip_install

# NVML reasons for lowered clocks that mean throttling (nvml.h, nvmlClocksEventReason*).
_REASONS = {
    0x04: "power limit",
    0x08: "hardware slowdown",
    0x20: "heat, by the driver",
    0x40: "heat, by the hardware",
    0x80: "power brake",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class NvmlGpu:
    """One GPU: its name, watts now, joules since some moment (None if not counted), throttling."""

    name: str
    watts: Callable[[], float | None]
    joules: Callable[[], float] | None
    alerts: Callable[[], frozenset[str]]
    close: Callable[[], None]


def open_gpu(index: int = 0, nvml: Any = None) -> NvmlGpu:
    """Open a GPU; `nvml` stands in for the module pynvml in tests.

    Raises:
        MissingPackageError: nvidia-ml-py is not installed.
        BackendError: there is no such GPU, or it does not measure its power.
    """
    nvml = _import() if nvml is None else nvml
    try:
        nvml.nvmlInit()
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        name = nvml.nvmlDeviceGetName(handle)
        nvml.nvmlDeviceGetPowerUsage(handle)  # some GPUs do not measure it
    except nvml.NVMLError as error:
        raise BackendError(f"NVML cannot measure the power of GPU {index}: {error}.") from error

    def watts() -> float | None:
        try:
            return float(nvml.nvmlDeviceGetPowerUsage(handle)) / 1000
        except nvml.NVMLError:
            return None

    def joules() -> float:
        try:
            return float(nvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1000
        except nvml.NVMLError as error:
            raise BackendError(f"NVML stopped counting energy: {error}.") from error

    def alerts() -> frozenset[str]:
        try:
            bits = int(nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle))
        except nvml.NVMLError:
            return frozenset()
        return frozenset(name for bit, name in _REASONS.items() if bits & bit)

    return NvmlGpu(
        name=name.decode() if isinstance(name, bytes) else str(name),
        watts=watts,
        joules=joules if _counts_energy(nvml, handle) else None,
        alerts=alerts,
        close=nvml.nvmlShutdown,
    )


def _import() -> Any:
    try:
        return importlib.import_module("pynvml")
    except ImportError as error:
        raise MissingPackageError(
            "There is no power sensor in sysfs and no tegrastats. For the power of a desktop GPU "
            f"run: {pip_install('nvml')}"
        ) from error


def _counts_energy(nvml: Any, handle: Any) -> bool:
    """Whether the GPU adds up its energy (Volta and later)."""
    try:
        nvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except nvml.NVMLError:
        return False
    return True
