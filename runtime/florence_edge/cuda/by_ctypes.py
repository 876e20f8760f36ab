"""CUDA through ctypes: needs no package, only the libraries of the CUDA toolkit (or JetPack's)."""

import ctypes
from typing import Any

from ..errors import BackendError
from .calls import FUNCTIONS, Call, Enum, Out, failure, results

# Newest first. The numbers are those of the shared objects, the generations of CUDA.
_LIBRARIES = {
    "cuda": ("libcudart.so.13", "libcudart.so.12"),
    "cu": ("libcuda.so.1",),
    "nvrtc": ("libnvrtc.so.13", "libnvrtc.so.12"),
}


def open_libraries() -> Call:
    """A `Call` over libcudart, libcuda and libnvrtc; each is opened when it is first needed."""
    libraries: dict[str, Any] = {}
    functions: dict[str, Any] = {}

    def library(prefix: str) -> Any:
        if prefix not in libraries:
            libraries[prefix] = _open(_LIBRARIES[prefix])
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
            raise failure(name, _error_name(library(prefix), prefix, status))
        return results([value.value or 0 for value in returned])

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


def _open(names: tuple[str, ...]) -> Any:
    for name in names:
        try:
            return ctypes.CDLL(name)
        except OSError:  # the next one may be there
            continue
    raise BackendError(
        f"CUDA's library is not here: {' and '.join(names)} do not load. Install the CUDA runtime "
        "(on a Jetson it comes with JetPack) or the package cuda-bindings, or use device='cpu'."
    )


def _error_name(library: Any, prefix: str, status: int) -> str:
    if prefix == "cu":
        text = ctypes.c_char_p()
        library.cuGetErrorName(status, ctypes.byref(text))
        return (text.value or b"an unknown error").decode()
    name = library.cudaGetErrorName if prefix == "cuda" else library.nvrtcGetErrorString
    name.restype = ctypes.c_char_p
    return str(name(status).decode())
