"""CUDA through PyCUDA: memory and streams are its own, in the device's primary context.

PyCUDA keeps a stack of contexts for each thread, and aborts the process where a thread ends with
one left on it. So the context is there only while PyCUDA works for us.

PyCUDA has no stream capture and no graphs; those are called through ctypes on its stream's handle,
which works because the runtime and PyCUDA share the primary context.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
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

    It frees what nobody refers to: here by address or handle, until it is given back.
    """

    def __init__(self, driver: Any) -> None:
        self._driver = driver
        self._contexts: dict[int, Any] = {}
        self._of_thread = threading.local()
        self._owned: dict[int, tuple[Any, Any]] = {}  # what there is, and its context

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
