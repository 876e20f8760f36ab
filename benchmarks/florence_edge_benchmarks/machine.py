"""Where a figure was measured: processor, memory, power mode and versions. Only reads."""

import datetime
import os
import platform
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TypedDict

from florence_edge import __version__

_CPU_INFO = "proc/cpuinfo"
_GOVERNORS = "sys/devices/system/cpu"
_BOARD = "proc/device-tree/model"  # a Jetson's name ends with a NUL

# What decides how fast integers and short floats are.
_FEATURES = (
    *("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni"),
    *("amx_tile", "amx_int8", "amx_bf16", "asimddp", "i8mm", "bf16", "sve"),
)
_PACKAGES = (
    *("onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt"),
    *("torch", "transformers", "numpy", "pillow", "tokenizers"),
)


class _Always(TypedDict):
    date: str
    processor: str
    cores: int


class Machine(_Always, total=False):
    """What a result says of its machine: at least what every report names it by."""

    features: tuple[str, ...]
    memory_bytes: int | None
    board: str | None
    system: str
    load_average: float
    governors: tuple[str, ...]
    power_mode: str | None
    gpu: str | None
    python: str
    versions: Mapping[str, str]


def describe_machine(root: Path = Path("/")) -> Machine:
    """The machine as plain JSON, as `Machine` names its fields.

    Args:
        root: where `proc` and `sys` are found; another one in tests.
    """
    return {
        "date": datetime.date.today().isoformat(),
        "processor": processor(root),
        "cores": usable_cores(),
        "features": tuple(name for name in _FEATURES if name in _flags(root)),
        "memory_bytes": _memory(root),
        "board": _read(root / _BOARD).rstrip("\0\n") or None,
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "load_average": round(os.getloadavg()[0], 2),
        "governors": governors(root),
        "power_mode": _told(["nvpmodel", "-q"]),
        "gpu": _told(["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]),
        "python": platform.python_version(),
        "versions": {"florence-edge": __version__, **dict(_versions(_PACKAGES))},
    }


def usable_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def processor(root: Path = Path("/")) -> str:
    """Linux knows the model's name on x86; elsewhere `platform` says the architecture."""
    names = _fields(root, "model name")
    return names[0] if names else platform.processor() or platform.machine()


def governors(root: Path = Path("/")) -> tuple[str, ...]:
    """The frequency governors that are set, one if all cores have the same."""
    files = (root / _GOVERNORS).glob("cpu[0-9]*/cpufreq/scaling_governor")
    return tuple(sorted({_read(file).strip() for file in files} - {""}))


def _flags(root: Path) -> set[str]:
    return {word for name in ("flags", "Features") for line in _fields(root, name)[:1]
            for word in line.split()}  # fmt: skip


def _fields(root: Path, name: str) -> list[str]:
    lines = _read(root / _CPU_INFO).splitlines()
    pairs = (line.partition(":") for line in lines)
    return [value.strip() for key, _, value in pairs if key.strip() == name]


def _memory(root: Path) -> int | None:
    for line in _read(root / "proc/meminfo").splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024
    return None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _told(command: list[str]) -> str | None:
    """What a command prints, in one line; None where it is not there or fails."""
    if shutil.which(command[0]) is None:
        return None
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return "; ".join(line.strip() for line in done.stdout.splitlines() if line.strip()) or None


def _versions(packages: Iterable[str]) -> Iterable[tuple[str, str]]:
    for package in packages:
        try:
            yield package, version(package)
        except PackageNotFoundError:
            continue
