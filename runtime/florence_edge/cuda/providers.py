"""CUDA's functions as a `CudaCall`, through the package or libraries that are there.

- cuda-bindings, NVIDIA's own package: the default where it is installed.
- ctypes on the libraries of the CUDA toolkit (or JetPack's): needs no package.
- PyCUDA, for programs that use it themselves: memory and streams are its own, in the device's
  primary context. It has no stream capture and no graphs; those are called through ctypes on its
  stream's handle, which works because the runtime and PyCUDA share the primary context.

The environment variable FLORENCE_CUDA (bindings, ctypes or pycuda) chooses. Without it,
cuda-bindings have to find a GPU; where they do not (JetPack 6: its driver is older than the runtime
that is built into them), the installed libraries are tried, and a warning says so.

A function of the runtime that fails leaves its error to the thread, for cudaGetLastError to give
and forget. With ctypes the engines may have the same runtime, and look there after each kernel that
they launch: a failure that was raised here would fail their next run, too, so it is forgotten.
"""

import ctypes
import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ..errors import BackendError, MissingPackageError, RequestError
from .api import FUNCTIONS, CudaCall, Enum, Out, failure, unpacked

logger = logging.getLogger(__name__)

CUDA_PROVIDER = "FLORENCE_CUDA"  # environment variable

# Newest first. The numbers are those of the shared objects, the generations of CUDA.
_LIBRARIES = {
    "cuda": ("libcudart.so.13", "libcudart.so.12"),
    "cu": ("libcuda.so.1",),
    "nvrtc": ("libnvrtc.so.13", "libnvrtc.so.12"),
}

_INSUFFICIENT_DRIVER = 35  # cudaErrorInsufficientDriver


def open_provider() -> CudaCall:
    """The provider that FLORENCE_CUDA names, or cuda-bindings that find a GPU, or else ctypes.

    Raises:
        BackendError: CUDA's libraries are not there, or no GPU.
        RequestError: FLORENCE_CUDA names no provider.
        MissingPackageError: the package that it names is not installed.
    """
    requested = os.environ.get(CUDA_PROVIDER, "")
    if requested == "pycuda":
        return open_pycuda()
    if requested == "bindings":
        return open_bindings()
    if requested == "ctypes":
        return open_libraries()
    if requested:
        raise RequestError(
            f"{CUDA_PROVIDER} is {requested!r}; expected bindings, ctypes or pycuda."
        )
    try:
        bindings = open_bindings()
    except MissingPackageError:
        return open_libraries()
    try:
        bindings("cudaGetDeviceCount")  # the first call of a runtime that the driver may refuse
    except BackendError as refused:
        return _libraries_instead(refused)
    return bindings


def _libraries_instead(refused: BackendError) -> CudaCall:
    """The installed libraries, where cuda-bindings are refused; the same error if they are, too."""
    libraries = open_libraries()
    try:
        libraries("cudaGetDeviceCount")
    except BackendError:
        raise refused from None
    logger.warning(
        "cuda-bindings find no GPU here, the installed CUDA does and is used instead, as with "
        "%s=ctypes. What cuda-bindings reported: %s",
        CUDA_PROVIDER,
        str(refused),  # a record may be kept: with the error, all that its frames hold
    )
    return libraries


def open_bindings() -> CudaCall:
    """A `CudaCall` over the package `cuda.bindings`.

    Raises:
        MissingPackageError: it is not installed.
    """
    try:
        from cuda.bindings import driver, nvrtc, runtime
    except ImportError as error:
        raise MissingPackageError(
            f"{CUDA_PROVIDER}=bindings, but cuda.bindings does not import ({error}). Run: pip "
            "install cuda-bindings, of the driver's CUDA generation."
        ) from error

    functions: dict[str, Any] = {}
    enumerations: dict[str, list[Any]] = {}
    for name, arguments in FUNCTIONS.items():
        module = nvrtc if name.startswith("nvrtc") else runtime
        if name.startswith("cu") and not name.startswith("cuda"):
            module = driver
        functions[name] = getattr(module, name)
        enumerations[name] = [
            getattr(module, kind.name) if isinstance(kind, Enum) else None
            for kind in arguments
            if not isinstance(kind, Out)
        ]

    def call(name: str, *arguments: Any) -> Any:
        converted = [
            value if enumeration is None else enumeration(value)
            for value, enumeration in zip(arguments, enumerations[name], strict=True)
        ]
        try:
            status, *values = functions[name](*converted)
        except RuntimeError as error:  # a library that the bindings open on first use is missing
            raise BackendError(
                f"CUDA failed in {name}: {error}. Install NVIDIA's driver and the CUDA runtime, "
                "or use device='cpu'."
            ) from error
        if int(status):
            if name.startswith("cuda"):
                runtime.cudaGetLastError()  # forgets it
            raise failure(name, status.name)
        return unpacked([int(value) for value in values])

    return call


def open_libraries() -> CudaCall:
    """A `CudaCall` over libcudart, libcuda and libnvrtc; each is opened when it is first needed."""
    libraries: dict[str, Any] = {}
    functions: dict[str, Any] = {}

    def library(prefix: str) -> Any:
        if prefix not in libraries:
            accepts = _driver_suffices if prefix == "cuda" else None
            libraries[prefix] = _open(_LIBRARIES[prefix], accepts)
        return libraries[prefix]

    def call(name: str, *arguments: Any) -> Any:
        prefix = _prefix(name)
        if name not in functions:
            functions[name] = getattr(library(prefix), name)
            functions[name].argtypes = [_c_type(kind) for kind in FUNCTIONS[name]]
        given, converted, returned = iter(arguments), [], []
        for kind in FUNCTIONS[name]:
            if isinstance(kind, Out):
                returned.append(kind.kind())
                converted.append(ctypes.byref(returned[-1]))
            else:
                converted.append(_c_value(next(given)))
        status = functions[name](*converted)
        if status:
            if prefix == "cuda":
                library(prefix).cudaGetLastError()  # forgets it
            raise failure(name, _error_name(library(prefix), prefix, status))
        return unpacked([value.value or 0 for value in returned])

    return call


def _prefix(name: str) -> str:
    return next(prefix for prefix in ("cuda", "cu", "nvrtc") if name.startswith(prefix))


def _c_type(kind: Any) -> Any:
    if isinstance(kind, Out):
        return ctypes.POINTER(kind.kind)
    return ctypes.c_int if isinstance(kind, Enum) else kind


def _c_value(value: Any) -> Any:
    """A list of texts as a C array, anything else as it is."""
    return (ctypes.c_char_p * len(value))(*value) if isinstance(value, list) else value


def _open(names: tuple[str, ...], accepts: Callable[[Any], bool] | None = None) -> Any:
    """The first library that loads and that `accepts`, or if it accepts none the first to load."""
    loaded = []
    for name in names:
        try:
            library = ctypes.CDLL(name)
        except OSError:  # the next one may be there
            continue
        if accepts is None or accepts(library):
            return library
        loaded.append(library)
    if loaded:
        return loaded[0]
    raise BackendError(
        f"CUDA's library is not here: {' and '.join(names)} do not load. Install the CUDA runtime "
        "(on a Jetson it comes with JetPack) or the package cuda-bindings, or use device='cpu'."
    )


def _driver_suffices(runtime: Any) -> bool:
    """Whether the driver takes this CUDA runtime; an older one may lie beside it."""
    count = ctypes.c_int()
    status = runtime.cudaGetDeviceCount(ctypes.byref(count))
    if status:
        runtime.cudaGetLastError()  # forgets it
    return bool(status != _INSUFFICIENT_DRIVER)


def _error_name(library: Any, prefix: str, status: int) -> str:
    if prefix == "cu":
        text = ctypes.c_char_p()
        library.cuGetErrorName(status, ctypes.byref(text))
        return (text.value or b"an unknown error").decode()
    name = library.cudaGetErrorName if prefix == "cuda" else library.nvrtcGetErrorString
    name.restype = ctypes.c_char_p
    return str(name(status).decode())


def open_pycuda() -> CudaCall:
    """A `CudaCall` over PyCUDA, with ctypes for what it lacks.

    Raises:
        MissingPackageError: PyCUDA is not installed.
    """
    try:
        from pycuda import driver
    except ImportError as error:
        raise MissingPackageError(
            f"{CUDA_PROVIDER}=pycuda, but PyCUDA is not installed. Run: pip install pycuda."
        ) from error
    pycuda, others = _PyCuda(driver), open_libraries()

    def call(name: str, *arguments: Any) -> Any:
        own = getattr(pycuda, name, None)
        if own is None:
            return others(name, *arguments)
        if name == "cudaSetDevice":  # the runtime's as well, and first: its errors come with advice
            others(name, *arguments)
        try:
            return own(*arguments)
        except driver.Error as error:
            raise BackendError(f"PyCUDA failed in {name}: {error}.") from error

    return call


class _PyCuda:
    """What PyCUDA does itself, under the runtime's names.

    It frees what nobody refers to: here by address or handle, until it is given back. PyCUDA keeps
    a stack of contexts for each thread, and aborts the process where a thread ends with one left on
    it; so the context is there only while PyCUDA works for us.
    """

    def __init__(self, driver: Any) -> None:
        self._driver = driver
        self._contexts: dict[int, Any] = {}
        self._of_thread = threading.local()
        self._owned: dict[int, tuple[Any, Any]] = {}  # by address or handle, with its context

    def cudaSetDevice(self, index: int) -> None:
        if index not in self._contexts:
            self._driver.init()
            self._contexts[index] = self._driver.Device(index).retain_primary_context()
        self._of_thread.context = self._contexts[index]

    def cudaMalloc(self, size: int) -> int:
        with self._within() as context:
            allocation = self._driver.mem_alloc(size)
            return self._keep(allocation, int(allocation), context)

    def cudaHostAlloc(self, size: int, flags: int) -> int:
        with self._within() as context:
            array = self._driver.pagelocked_empty(size, "uint8", mem_flags=flags)
            return self._keep(array, array.ctypes.data, context)

    def cudaStreamCreateWithFlags(self, flags: int) -> int:
        with self._within() as context:
            stream = self._driver.Stream(flags)
            return self._keep(stream, int(stream.handle), context)

    def cudaFree(self, address: int) -> None:
        value, context = self._owned.pop(address)
        with self._within(context):
            del value

    cudaFreeHost = cudaStreamDestroy = cudaFree

    @contextmanager
    def _within(self, context: Any = None) -> Iterator[Any]:
        context = context or self._of_thread.context
        context.push()
        try:
            yield context
        finally:
            context.pop()

    def _keep(self, value: Any, name: int, context: Any) -> int:
        self._owned[name] = value, context
        return name
