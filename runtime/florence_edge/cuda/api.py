"""The CUDA functions that this project calls: each with its arguments, written once.

A provider (providers.py) turns this table into a `CudaCall`: `call("cudaMalloc", 256)` returns the
address, or raises a `BackendError` with CUDA's name for what went wrong. Functions of the runtime
start with `cuda`, of the driver with `cu`, of the run-time compiler with `nvrtc`. Handles and
addresses are ints.
"""

import ctypes
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from ..errors import BackendError

CudaCall: TypeAlias = Callable[..., Any]  # (name, *arguments) -> None, a result, or a tuple of them


@dataclass(frozen=True, slots=True)
class Out:
    """An argument through which the function returns a value of this C type."""

    kind: Any


@dataclass(frozen=True, slots=True)
class Enum:
    """An int to C; cuda.bindings wants its enumeration of this name."""

    name: str


_HANDLE, _SIZE, _INT, _UINT = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_uint
_TEXT, _ULONGLONG = ctypes.c_char_p, ctypes.c_ulonglong
_TEXTS = ctypes.POINTER(ctypes.c_char_p)
_COPY = Enum("cudaMemcpyKind")

FUNCTIONS: Mapping[str, tuple[Any, ...]] = {
    "cudaGetDeviceCount": (Out(_INT),),
    "cudaSetDevice": (_INT,),
    "cudaDeviceGetAttribute": (Out(_INT), Enum("cudaDeviceAttr"), _INT),
    "cudaMemGetInfo": (Out(_SIZE), Out(_SIZE)),
    "cudaMalloc": (Out(_HANDLE), _SIZE),
    "cudaFree": (_HANDLE,),
    "cudaHostAlloc": (Out(_HANDLE), _SIZE, _UINT),
    "cudaFreeHost": (_HANDLE,),
    "cudaHostGetDevicePointer": (Out(_HANDLE), _HANDLE, _UINT),
    "cudaStreamCreateWithFlags": (Out(_HANDLE), _UINT),
    "cudaStreamDestroy": (_HANDLE,),
    "cudaStreamSynchronize": (_HANDLE,),
    "cudaStreamWaitEvent": (_HANDLE, _HANDLE, _UINT),
    "cudaEventCreateWithFlags": (Out(_HANDLE), _UINT),
    "cudaEventRecord": (_HANDLE, _HANDLE),
    "cudaEventSynchronize": (_HANDLE,),
    "cudaEventDestroy": (_HANDLE,),
    "cudaMemcpyAsync": (_HANDLE, _HANDLE, _SIZE, _COPY, _HANDLE),
    "cudaMemcpy2DAsync": (_HANDLE, _SIZE, _HANDLE, _SIZE, _SIZE, _SIZE, _COPY, _HANDLE),
    "cudaMemsetAsync": (_HANDLE, _INT, _SIZE, _HANDLE),
    "cudaStreamBeginCapture": (_HANDLE, Enum("cudaStreamCaptureMode")),
    "cudaStreamEndCapture": (_HANDLE, Out(_HANDLE)),
    "cudaGraphInstantiate": (Out(_HANDLE), _HANDLE, _ULONGLONG),  # as of CUDA 12
    "cudaGraphLaunch": (_HANDLE, _HANDLE),
    "cudaGraphDestroy": (_HANDLE,),
    "cudaGraphExecDestroy": (_HANDLE,),
    "cuPointerGetAttribute": (Out(_INT), Enum("CUpointer_attribute"), _ULONGLONG),
    # Kernels go through the driver: the runtime loads cubins only as of CUDA 12.8.
    "cuModuleLoadData": (Out(_HANDLE), _TEXT),
    "cuModuleGetFunction": (Out(_HANDLE), _HANDLE, _TEXT),
    "cuModuleUnload": (_HANDLE,),
    "cuLaunchKernel": (_HANDLE, *(_UINT,) * 7, _HANDLE, _HANDLE, _HANDLE),
    "nvrtcCreateProgram": (Out(_HANDLE), _TEXT, _TEXT, _INT, _TEXTS, _TEXTS),
    "nvrtcCompileProgram": (_HANDLE, _INT, _TEXTS),
    "nvrtcGetProgramLogSize": (_HANDLE, Out(_SIZE)),
    "nvrtcGetProgramLog": (_HANDLE, _TEXT),
    "nvrtcGetCUBINSize": (_HANDLE, Out(_SIZE)),
    "nvrtcGetCUBIN": (_HANDLE, _TEXT),
    "nvrtcDestroyProgram": (_HANDLE,),  # takes the address of the handle
}

# cuda_runtime_api.h, driver_types.h, cuda.h
ATTRIBUTE_INTEGRATED = 18
ATTRIBUTE_MAJOR, ATTRIBUTE_MINOR = 75, 76
HOST_ALLOC_MAPPED = 2
STREAM_NON_BLOCKING = 1
EVENT_DISABLE_TIMING = 2
COPY_DEFAULT = 4  # the direction follows from the addresses
CAPTURE_THREAD_LOCAL = 1  # other threads of the process cannot spoil a capture
LEGACY_STREAM = 1  # handle of the default stream
POINTER_MEMORY_TYPE, POINTER_IS_MANAGED, POINTER_DEVICE = 2, 8, 9
MEMORY_OF_A_DEVICE = 2

_ADVICE = {
    "cudaErrorMemoryAllocation": "The GPU's memory is full. Close other programs, ask for fewer "
    "beams or smaller batches, or use an fp16 bundle.",
    "cudaErrorInsufficientDriver": "The driver is missing, or too old for this CUDA: 13 needs 580 "
    "or newer, 12 needs 525 (nvidia-smi shows it). Update it, or install the cuda-bindings of its "
    "CUDA generation, or set FLORENCE_CUDA=ctypes to use the CUDA that is installed.",
    "cudaErrorNoDevice": "No NVIDIA GPU is visible. Look at nvidia-smi and CUDA_VISIBLE_DEVICES; "
    "in a container, add --gpus all (on a Jetson --runtime nvidia).",
    "cudaErrorInvalidDevice": "There is no GPU of that number. nvidia-smi lists those there are.",
    "cudaErrorNoKernelImageForDevice": "This build of the engine has no code for this GPU. Install "
    "one that has, or use device='tensorrt'.",
}

# What CUDA calls the same errors in words (cudaGetErrorString), and other libraries by their own
# names: cuBLAS, cuDNN, and ONNX Runtime's arena of memory (bfc_arena.cc).
_OTHER_NAMES = {
    "cudaErrorMemoryAllocation": (
        *("out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED"),
        "DEVICE_ALLOCATION_FAILED",  # CUDNN_STATUS_INTERNAL_ERROR_..., as of cuDNN 9
        *("Failed to allocate memory for requested buffer", "is smaller than requested bytes"),
    ),
    "cudaErrorInsufficientDriver": ("driver version is insufficient for CUDA runtime version",),
    "cudaErrorNoDevice": ("no CUDA-capable device is detected",),
    "cudaErrorInvalidDevice": ("invalid device ordinal",),
    "cudaErrorNoKernelImageForDevice": ("no kernel image is available",),
}

_OTHER_ADVICE = "Load the model again; if it stays so, device='cpu' answers without the GPU."


def failure(function: str, error: str) -> BackendError:
    """The error for a CUDA function that returned the error of this name."""
    return BackendError(
        f"CUDA failed in {function} with {error}. {_ADVICE.get(error, _OTHER_ADVICE)}"
    )


def advice_on(said: str) -> str:
    """What to do about a failure on the GPU, by what an engine said of it; "" if not known."""
    for error, advice in _ADVICE.items():
        if any(name in said for name in (error, *_OTHER_NAMES[error])):
            return advice
    return ""


def unpacked(values: list[Any]) -> Any:
    """What a `CudaCall` returns: None, the one value, or a tuple of several."""
    if len(values) <= 1:
        return values[0] if values else None
    return tuple(values)
