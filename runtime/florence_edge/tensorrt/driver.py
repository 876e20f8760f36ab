"""The GPU and its driver, as libcuda reports them: it comes with the driver itself."""

import ctypes
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import BackendError
from ..files import open_plain

L4T_RELEASE = Path("/etc/nv_tegra_release")  # "# R36 (release), REVISION: 4.3, GCID: ..."
_RELEASE = r"R([0-9]{1,9}) \(release\), REVISION: ([0-9]{1,9}(?:\.[0-9]{1,9}){0,3})\b"
_RELEASE_BYTES = 1 << 12

# CUdevice_attribute in cuda.h
_MULTIPROCESSORS, _MAJOR, _MINOR = 16, 75, 76


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuInfo:
    """A GPU as engines depend on it; boards of one chip differ in multiprocessors."""

    name: str  # "Orin" on every Orin
    compute_capability: str  # "8.7"
    multiprocessors: int
    driver: str  # the newest CUDA that the driver speaks, "12.6"


def find_gpu(index: int = 0) -> GpuInfo:
    """Ask the driver for GPU `index`; makes no CUDA context.

    Raises:
        BackendError: there is no driver, or no such GPU.
    """
    cuda = _open_driver()
    version, device = ctypes.c_int(), ctypes.c_int()
    _ask(cuda.cuInit, 0)
    _ask(cuda.cuDriverGetVersion, ctypes.byref(version))
    _ask(cuda.cuDeviceGet, ctypes.byref(device), index)
    name = ctypes.create_string_buffer(256)
    _ask(cuda.cuDeviceGetName, name, len(name), device)

    def attribute(number: int) -> int:
        value = ctypes.c_int()
        _ask(cuda.cuDeviceGetAttribute, ctypes.byref(value), number, device)
        return value.value

    return GpuInfo(
        name=name.value.decode(errors="replace"),
        compute_capability=f"{attribute(_MAJOR)}.{attribute(_MINOR)}",
        multiprocessors=attribute(_MULTIPROCESSORS),
        driver=f"{version.value // 1000}.{version.value % 1000 // 10}",
    )


def l4t_release(path: Path = L4T_RELEASE) -> str | None:
    """The release of Jetson Linux, e.g. "36.4.3"; None on other machines."""
    try:
        with open_plain(path) as file:
            text = file.read(_RELEASE_BYTES).decode("utf-8", errors="replace")
    except OSError:
        return None
    found = re.search(_RELEASE, text)
    return f"{found[1]}.{found[2]}" if found else None


def _open_driver() -> Any:
    try:
        return ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError as error:
        raise BackendError(
            "There is no NVIDIA driver here (libcuda does not load). Run where the GPU is; in a "
            "container, with --gpus all (on a Jetson --runtime nvidia)."
        ) from error


def _ask(function: Any, *arguments: Any) -> None:
    status = function(*arguments)
    if status != 0:  # CUDA_SUCCESS
        raise BackendError(
            f"The NVIDIA driver answered {function.__name__} with error {status}: there is no such "
            "GPU, or this process may not use it. Look at nvidia-smi, and CUDA_VISIBLE_DEVICES."
        )
