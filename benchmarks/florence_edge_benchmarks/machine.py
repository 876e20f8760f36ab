"""Where a figure was measured: processor, memory, power mode and versions. Only reads."""

import datetime
import os
import platform
import shutil
import subprocess
from collections.abc import Mapping
from typing import TypedDict

from florence_edge import __version__
from florence_edge.backends.auto import installed_versions
from florence_edge.cpu import usable_cores
from florence_edge_jetson.machine.clocks import cpu_governors, nvpmodel_query
from florence_edge_jetson.machine.system import (
    LIVE,
    Tree,
    cpu_flags,
    cpu_name,
    read_memory,
)

_BOARD = "/proc/device-tree/model"  # a PC has none, and is named by its processor

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
    """The machine of a result: at least what every report names it by."""

    core_limits: str
    """What `cores` comes from: affinity and cgroups."""
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


def describe_machine(tree: Tree = LIVE) -> Machine:
    """The machine as plain JSON, as `Machine` names its fields.

    Args:
        tree: where the system's files are found; another one in tests.
    """
    memory, cores = read_memory(tree), usable_cores()
    return {
        "date": datetime.date.today().isoformat(),
        "processor": cpu_name(tree),
        "cores": cores.count,
        "core_limits": str(cores),
        "features": cpu_features(tree),
        "memory_bytes": None if memory is None else memory.total,
        "board": tree.text(_BOARD) or None,
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "load_average": round(os.getloadavg()[0], 2),
        "governors": cpu_governors(tree),
        "power_mode": _in_one_line(nvpmodel_query()),
        "gpu": _in_one_line(_nvidia_smi()),
        "python": platform.python_version(),
        "versions": {"florence-edge": __version__, **installed_versions(_PACKAGES)},
    }


def cpu_features(tree: Tree = LIVE) -> tuple[str, ...]:
    """What the processor has of the instructions that decide how fast a model runs."""
    flags = cpu_flags(tree)
    return tuple(name for name in _FEATURES if name in flags)


def _nvidia_smi() -> str | None:
    """Names and driver of NVIDIA's GPUs; None where there is no driver."""
    command = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    if shutil.which(command[0]) is None:
        return None
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout


def _in_one_line(text: str | None) -> str | None:
    lines = (line.strip() for line in (text or "").splitlines())
    return "; ".join(filter(None, lines)) or None
