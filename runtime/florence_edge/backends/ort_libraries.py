"""CUDA's libraries for ONNX Runtime: from the wheels of the extra `gpu`, or from the system.

The CUDA provider requires cuBLAS, cuRAND, cuDNN and the CUDA runtime by name. Wheels put them into
folders that no loader searches; ONNX Runtime can load them from there beforehand. Where there are
no such wheels, and on a Jetson always, the system's are the ones to use, and nothing is loaded.
"""

import ctypes
from pathlib import Path
from typing import Any

from ..engine_failures import engine_failure
from ..tensorrt.driver import L4T_RELEASE

_PROVIDER = "libonnxruntime_providers_cuda.so"
_SHARED = "libonnxruntime_providers_shared.so"  # what the provider's own symbols come from
_NOT_FOUND = ": cannot open shared object file: No such file or directory"  # glibc's dlopen
_CUDNN = "libcudnn.so.9"  # newer providers load it when a graph needs it: too late for an answer
_OLDEST_DRIVER = {"12": 525, "13": 580}  # of Linux, for each generation of CUDA


def preload(onnxruntime: Any) -> None:
    """Load CUDA's libraries from the wheels beside ONNX Runtime, if they are there.

    They are then the libraries of those names for whatever else in the process asks for them.
    """
    if _wheels(onnxruntime):
        onnxruntime.preload_dlls()


def missing_library(onnxruntime: Any) -> str:
    """What of CUDA the provider does not find: a file's name, or "" where nothing is missing.

    Only for a provider that ONNX Runtime has tried to open: loaded before, it lacks its host.

    Raises:
        BackendError: it does not load for another reason, which is the loader's.
    """
    folder = Path(onnxruntime.__file__).parent / "capi"
    if not (folder / _PROVIDER).exists():
        return ""
    try:
        ctypes.CDLL(str(folder / _SHARED), mode=ctypes.RTLD_GLOBAL)
        ctypes.CDLL(str(folder / _PROVIDER))
        if not L4T_RELEASE.exists():  # JetPack 6.0 has 8, and an onnxruntime for that
            ctypes.CDLL(_CUDNN)
    except OSError as error:
        missing, not_found, _ = str(error).partition(_NOT_FOUND)
        if not not_found:
            doing = f"ONNX Runtime {onnxruntime.__version__} cannot load its CUDA provider"
            raise engine_failure(doing, error, _remedy_for_damage(onnxruntime)) from error
        return missing
    return ""


def _remedy_for_damage(onnxruntime: Any) -> str:
    if L4T_RELEASE.exists():
        return (
            "On a Jetson install an onnxruntime-gpu that was built for this JetPack again; or use "
            "device='tensorrt'."
        )
    version = onnxruntime.__version__
    return (
        f"Install it again: pip install --force-reinstall 'onnxruntime-gpu[cuda,cudnn]=={version}'"
    )


def remedy_for(onnxruntime: Any, missing: str) -> str:
    """What to do about a missing library, as one sentence or two."""
    cuda = _generation(onnxruntime)
    if missing.startswith("libcuda.so"):
        driver = _OLDEST_DRIVER.get(cuda)
        newer = f", {driver} or newer," if driver else ""
        return (
            f"It comes with NVIDIA's driver: install that{newer} or in a container add --gpus all "
            "(on a Jetson --runtime nvidia)."
        )
    if L4T_RELEASE.exists():
        return (
            "On a Jetson CUDA is JetPack's: sudo apt install nvidia-jetpack-runtime, and an "
            "onnxruntime-gpu that was built for this JetPack; or use device='tensorrt'."
        )
    return (
        f"Run: pip install 'onnxruntime-gpu[cuda,cudnn]=={onnxruntime.__version__}', which brings "
        f"CUDA {cuda} and cuDNN."
    )


def _wheels(onnxruntime: Any) -> bool:
    if L4T_RELEASE.exists() or not hasattr(onnxruntime, "preload_dlls"):  # before 1.21
        return False
    beside = Path(onnxruntime.__file__).parents[1] / "nvidia"
    return any(beside.glob(f"*/lib/libcublasLt.so.{_generation(onnxruntime)}"))


def _generation(onnxruntime: Any) -> str:
    """The generation of CUDA that this ONNX Runtime was built for: "13"; "" for none."""
    return str(getattr(onnxruntime, "cuda_version", "") or "").partition(".")[0]
