"""CUDA through PyCUDA: memory and streams are its own, in the device's primary context.

PyCUDA has no stream capture and no graphs; those are called through ctypes on its stream's handle,
which works because the runtime and PyCUDA share the primary context.
"""

from typing import Any

from ..errors import BackendError
from .by_ctypes import open_libraries
from .calls import Call


def open_pycuda() -> Call:
    """A `Call` over PyCUDA, with ctypes for what it lacks.

    Raises:
        BackendError: PyCUDA is not installed.
    """
    try:
        from pycuda import driver
    except ImportError as error:
        raise BackendError(
            "FLORENCE_CUDA=pycuda, but PyCUDA is not installed. Run: pip install pycuda."
        ) from error
    driver.init()
    pycuda, others = _PyCuda(driver), open_libraries()

    def call(name: str, *arguments: Any) -> Any:
        own = getattr(pycuda, name, None)
        try:
            result = others(name, *arguments) if own is None else own(*arguments)
        except driver.Error as error:
            raise BackendError(f"PyCUDA failed in {name}: {error}.") from error
        if name == "cudaSetDevice":  # the runtime has a current device, too
            others(name, *arguments)
        return result

    return call


class _PyCuda:
    """What PyCUDA does itself, under the runtime's names.

    It frees what nobody refers to: here by address or handle, until it is given back.
    """

    def __init__(self, driver: Any) -> None:
        self._driver = driver
        self._contexts: dict[int, Any] = {}
        self._owned: dict[int, Any] = {}

    def cudaSetDevice(self, index: int) -> None:
        if index not in self._contexts:
            self._contexts[index] = self._driver.Device(index).retain_primary_context()
            self._contexts[index].push()

    def cudaMalloc(self, size: int) -> int:
        allocation = self._driver.mem_alloc(size)
        return self._keep(allocation, int(allocation))

    def cudaHostAlloc(self, size: int, flags: int) -> int:
        array = self._driver.pagelocked_empty(size, "uint8", mem_flags=flags)
        return self._keep(array, array.ctypes.data)

    def cudaStreamCreateWithFlags(self, flags: int) -> int:
        stream = self._driver.Stream(flags)
        return self._keep(stream, int(stream.handle))

    def cudaFree(self, address: int) -> None:
        del self._owned[address]

    cudaFreeHost = cudaStreamDestroy = cudaFree

    def _keep(self, value: Any, name: int) -> int:
        self._owned[name] = value
        return name
