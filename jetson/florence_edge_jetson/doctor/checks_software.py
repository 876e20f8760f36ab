"""Checks of what is installed: Python, driver, CUDA, TensorRT, ONNX Runtime, disk, cameras."""

import re
from collections.abc import Sequence
from typing import Any

from florence_edge.backends.provider_trial import ProviderTrial, try_provider
from florence_edge.errors import FlorenceEdgeError
from florence_edge.extras import pip_install
from florence_edge.tensorrt.driver import GpuInfo
from florence_edge.tensorrt.install import TensorRT

from ..machine.board import Board
from ..machine.system import GIB, Tree
from .findings import Finding, fail, ok, warn

_REMOTE = "AzureExecutionProvider"  # in every package from PyPI; sends work away, has no kernels


def try_providers(onnxruntime: Any) -> tuple[ProviderTrial, ...]:
    """Try each local provider of an `onnxruntime` module."""
    providers: Sequence[str] = onnxruntime.get_available_providers()
    return tuple(try_provider(onnxruntime, each) for each in providers if each != _REMOTE)


_JETSON_DRIVER = (
    "sudo apt install --reinstall nvidia-l4t-cuda; in a container: docker run --runtime nvidia "
    "--gpus all ..."
)
_APT = "sudo apt install python3-libnvinfer"
_TENSORRT_WHEELS = f"{pip_install('tensorrt-cu12')} (or tensorrt-cu13)"
_CUDA_OF_JETPACK = "sudo apt install nvidia-jetpack-runtime"
_LITTLE_DISK, _FULL_DISK = 5 * GIB, GIB // 2  # engines of the large model take 2 GiB


def check_python(version: tuple[int, int], board: Board) -> Finding:
    """TensorRT's module from apt is for the Python of the system, and for no other."""
    found = ".".join(map(str, version))
    if board.jetpack is not None and board.jetpack.usable and found != board.jetpack.python:
        python = f"/usr/bin/python{board.jetpack.python}"
        return warn(
            "python",
            f"{found}, but JetPack {board.jetpack.version} has TensorRT for {python}.",
            f"{python} -m venv --system-site-packages .venv",
        )
    return ok("python", found)


def check_gpu(gpu: GpuInfo | FlorenceEdgeError, board: Board, *, driver: bool = False) -> Finding:
    """Whether the driver shows a GPU; a machine without `driver` needs none for the CPU engine."""
    if isinstance(gpu, GpuInfo):
        cores = f"SM {gpu.compute_capability}, {gpu.multiprocessors} multiprocessors"
        return ok("gpu", f"{gpu.name} ({cores}), driver for CUDA {gpu.driver}")
    if board.is_jetson:
        return fail("gpu", str(gpu), _JETSON_DRIVER)
    if driver:
        return fail("gpu", str(gpu), "nvidia-smi; if that fails as well, restart the machine.")
    return ok("gpu", "none; the CPU engine needs none")


def cuda_version(tree: Tree) -> str | None:
    """The CUDA runtime that is installed, from its own file or its library's name."""
    version = re.search(
        r'"cuda"\s*:\s*\{[^}]*"version"\s*:\s*"([0-9.]+)"',
        tree.text("/usr/local/cuda/version.json") or "",
    )
    if version:
        return version[1]
    libraries = (
        tree.find("/usr/local/cuda/lib64/libcudart.so.*")
        + tree.find("/usr/local/cuda/targets/*/lib/libcudart.so.*")
        + tree.find("/usr/lib/*/libcudart.so.*")
    )
    return _longest_version(libraries)


def tensorrt_library(tree: Tree) -> str | None:
    """The version of libnvinfer that is on a recorded machine."""
    return _longest_version(tree.find("/usr/lib/*/libnvinfer.so.*"))


def check_cuda(version: str | None, gpu: bool, board: Board) -> Finding | None:
    """The CUDA runtime, where there is a GPU for it; TensorRT needs that of its JetPack."""
    if version is None:
        if board.is_jetson:
            return fail("cuda", "There is no CUDA runtime.", _CUDA_OF_JETPACK)
        missing = "No runtime in /usr/local/cuda or /usr/lib; TensorRT's wheels bring their own."
        return warn("cuda", missing, _TENSORRT_WHEELS) if gpu else None
    expected = board.jetpack.cuda if board.jetpack else version
    if version.split(".")[0] != expected.split(".")[0]:
        return warn(
            "cuda",
            f"{version}, but this JetPack's TensorRT is built for {expected}.",
            f"{_CUDA_OF_JETPACK} && sudo update-alternatives --set cuda /usr/local/cuda-{expected}",
        )
    return ok("cuda", version)


def check_tensorrt(found: TensorRT | FlorenceEdgeError, gpu: bool, board: Board) -> Finding:
    """TensorRT, where there is a GPU for it."""
    if isinstance(found, TensorRT):
        return ok("tensorrt", f"{found.version}{' (TensorRT-RTX)' if found.is_rtx else ''}")
    if gpu:
        return fail("tensorrt", str(found), _APT if board.is_jetson else _TENSORRT_WHEELS)
    return ok("tensorrt", "none; it needs an NVIDIA GPU")


def check_tensorrt_library(version: str | None, board: Board) -> Finding | None:
    """The same for a recorded board, whose Python cannot be asked."""
    if not board.is_jetson:
        return None
    if version is None:
        return fail("tensorrt", "There is no libnvinfer.", _APT)
    return ok("tensorrt", f"libnvinfer {version} (a recording: not imported)")


def check_onnxruntime(
    trials: Sequence[ProviderTrial] | FlorenceEdgeError, *, version: str, tensorrt: bool
) -> list[Finding]:
    """One finding a provider that was tried."""
    if isinstance(trials, FlorenceEdgeError):
        fix = pip_install("cpu")
        if tensorrt:
            return [warn("onnxruntime", f"{trials} TensorRT is there without it.", fix)]
        return [fail("onnxruntime", f"{trials} There is no engine.", fix)]
    findings = []
    for trial in trials:
        name = trial.provider.removesuffix("ExecutionProvider")
        if not trial.problem:
            findings.append(ok("onnxruntime", f"{version}: {name} ran a kernel"))
        elif name == "CPU":
            fix = "pip install --force-reinstall onnxruntime"
            findings.append(fail("onnxruntime", f"{version}: {name} failed: {trial.problem}", fix))
        else:
            findings.append(
                warn(
                    "onnxruntime",
                    f"{version} lists {name}, which does not run here: {trial.problem}",
                    trial.fix
                    or "Use --device tensorrt or cpu, or a package that is built for this GPU.",
                )
            )
    return findings


def check_disk(free: int, where: str) -> Finding:
    """Room for bundles and engines."""
    found = f"{free / GIB:.0f} GiB free at {where}"
    if free < _FULL_DISK:
        return fail("disk", found, "sudo apt clean; move bundles to another disk")
    if free < _LITTLE_DISK:
        return warn("disk", f"{found}; engines and their build need 5 GiB.", "sudo apt clean")
    return ok("disk", found)


def read_cameras(tree: Tree) -> dict[str, str]:
    """Video devices and their names: {"/dev/video0": "vi-output, imx219 9-0010"}."""
    folders = tree.find("/sys/class/video4linux/video*")
    return {
        f"/dev/{folder.rpartition('/')[2]}": tree.text(f"{folder}/name") or "" for folder in folders
    }


def check_cameras(cameras: dict[str, str], forbidden: Sequence[str] = ()) -> Finding:
    """Cameras; `forbidden` are those that this user may not open."""
    found = ", ".join(f"{device} ({name})" for device, name in cameras.items())
    if forbidden:
        return warn(
            "cameras",
            f"{found}; this user may not open {', '.join(forbidden)}.",
            "sudo usermod -aG video $USER, then log in again",
        )
    return ok("cameras", found or "none")


def _longest_version(libraries: Sequence[str]) -> str | None:
    """12.6.68 of libcudart.so.12 and libcudart.so.12.6.68."""
    versions = [library.rpartition(".so.")[2] for library in libraries]
    numbers = [version for version in versions if re.fullmatch(r"[0-9.]+", version)]
    return max(numbers, key=len, default=None)
