"""A thin layer over CUDA: memory, one stream, graphs and small kernels.

`open_cuda` finds CUDA through cuda-bindings, or without any package through ctypes; the environment
variable FLORENCE_CUDA (bindings, ctypes or pycuda) chooses. Nothing here is imported by `import
florence_edge` beyond what describes a frame. What was written was tested over a scripted CUDA; none
of it has run on a GPU yet.
"""

import os

from ..errors import BackendError
from .calls import Call
from .device import Cuda, Graph
from .memory import DeviceArray, Mailbox, Place

__all__ = [
    "PROVIDER",
    "Cuda",
    "DeviceArray",
    "Graph",
    "Mailbox",
    "Place",
    "open_calls",
    "open_cuda",
]

PROVIDER = "FLORENCE_CUDA"


def open_cuda(index: int = 0) -> Cuda:
    """GPU number `index`, with a stream of its own.

    Raises:
        BackendError: there is no CUDA, no driver or no such GPU.
    """
    return Cuda(open_calls(), index)


def open_calls() -> Call:
    """The provider that FLORENCE_CUDA names, or cuda-bindings, or else ctypes.

    Raises:
        BackendError: the one that was asked for is not there.
    """
    asked = os.environ.get(PROVIDER, "")
    if asked == "pycuda":
        from .by_pycuda import open_pycuda

        return open_pycuda()
    if asked not in ("", "bindings", "ctypes"):
        raise BackendError(f"{PROVIDER} is {asked!r}; expected bindings, ctypes or pycuda.")
    if asked != "ctypes":
        from .by_bindings import open_bindings

        try:
            return open_bindings()
        except ImportError as error:
            if asked:
                raise BackendError(
                    f"{PROVIDER}=bindings, but cuda.bindings does not import ({error}). Run: pip "
                    "install cuda-bindings, of the driver's CUDA generation."
                ) from error
    from .by_ctypes import open_libraries

    return open_libraries()
