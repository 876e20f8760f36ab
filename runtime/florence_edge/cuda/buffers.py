"""Memory of the GPU, and memory that host and GPU share; each is freed once, whatever happens.

`close` frees at once. What is not closed is freed when nothing refers to it any more.
"""

import ctypes
import math
import threading
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from .api import COPY_DEFAULT, HOST_ALLOC_MAPPED, CudaCall

# Addresses that TensorRT gets are multiples of this, as those of cudaMalloc are.
ALIGNMENT = 256

ArrayShape: TypeAlias = "tuple[int, ...]"


@dataclass(frozen=True, slots=True)
class DeviceView:
    """An array in device memory that belongs to somebody else: its address, shape and dtype."""

    address: int
    shape: ArrayShape
    dtype: np.dtype[Any]

    @property
    def nbytes(self) -> int:
        """Bytes of all elements; they lie without gaps."""
        return math.prod(self.shape) * self.dtype.itemsize

    def __getitem__(self, index: int) -> "DeviceView":
        part = DeviceView(self.address, self.shape[1:], self.dtype)
        return DeviceView(self.address + index * part.nbytes, part.shape, part.dtype)


class DeviceArray:
    """An array in device memory, whose values are anything at first; `view` describes it."""

    def __init__(self, call: CudaCall, shape: ArrayShape, dtype: npt.DTypeLike) -> None:
        view = DeviceView(0, shape, np.dtype(dtype))
        address = call("cudaMalloc", max(view.nbytes, 1))
        self.view = DeviceView(address, view.shape, view.dtype)
        self._free = _finalizer(self, call, "cudaFree", address)

    def close(self) -> None:
        """Free the memory, if it has not been."""
        self._free()


class ArrayPool:
    """Device memory that is taken again and again, and given back when an array is dropped.

    Up to `most` blocks that nobody uses are kept: cudaMalloc and cudaFree wait for the whole GPU.
    """

    def __init__(self, call: CudaCall, most: int) -> None:
        self._call = call
        self._most = most
        self._free: list[tuple[int, int]] = []  # bytes and address, the newest last
        self._closed = False
        # Of several threads, or of one whose garbage collection drops an array in the midst of it.
        self._lock = threading.RLock()

    def array(self, shape: ArrayShape, dtype: npt.DTypeLike) -> "PooledArray":
        """An array, not filled: in memory of the same size that was given back, or in new."""
        size = max(DeviceView(0, shape, np.dtype(dtype)).nbytes, 1)
        with self._lock:
            fitting = [block for block in self._free if block[0] == size]
            if fitting:
                self._free.remove(fitting[-1])
        address = fitting[-1][1] if fitting else self._call("cudaMalloc", size)
        view = DeviceView(address, shape, np.dtype(dtype))
        return PooledArray(view, lambda: self._give_back(size, address))

    def close(self) -> None:
        """Free what nobody uses; arrays that somebody still has are freed when they are dropped."""
        with self._lock:
            self._closed = True
            blocks, self._free = self._free, []
        self._free_all(blocks)

    def _give_back(self, size: int, address: int) -> None:
        with self._lock:
            self._free.append((size, address))
            kept = 0 if self._closed else self._most
            from_here = max(len(self._free) - kept, 0)
            surplus, self._free = self._free[:from_here], self._free[from_here:]
        self._free_all(surplus)

    def _free_all(self, blocks: list[tuple[int, int]]) -> None:
        for _, address in blocks:
            self._call("cudaFree", address)


class PooledArray:
    """An array of an `ArrayPool`, whose memory goes back there when nobody has it any more."""

    def __init__(self, view: DeviceView, give_back: Callable[[], None]) -> None:
        self.view = view
        self._give_back = weakref.finalize(self, give_back)
        self._give_back.atexit = False


Fields: TypeAlias = "Mapping[str, tuple[ArrayShape, npt.DTypeLike]]"


class StagingBuffer:
    """Named arrays that the host and the device exchange, in one block and with one copy.

    The host's side (`host`) is pinned. On a discrete GPU the device has a block of its own
    (`device`). In a `mapped` buffer both sides are the same bytes, and nothing is ever copied: for
    integrated GPUs, which share the host's memory, and as an end of other copies.
    """

    def __init__(self, call: CudaCall, fields: Fields, *, mapped: bool) -> None:
        offsets, self.nbytes = _layout(fields)
        self._call = call
        address = call("cudaHostAlloc", self.nbytes, HOST_ALLOC_MAPPED)
        self._free_host = _finalizer(self, call, "cudaFreeHost", address)
        block = np.ctypeslib.as_array((ctypes.c_uint8 * self.nbytes).from_address(address))
        self.host: dict[str, npt.NDArray[Any]] = {}
        for name, (shape, dtype) in fields.items():
            self.host[name] = np.ndarray(shape, dtype, block.data, offsets[name])
        self._block: DeviceArray | None = None
        if mapped:
            base = call("cudaHostGetDevicePointer", address, 0)
        else:
            try:
                self._block = DeviceArray(call, (self.nbytes,), np.uint8)
            except BaseException:
                self._free_host()
                raise
            base = self._block.view.address
        self.device = {
            name: DeviceView(base + offsets[name], array.shape, array.dtype)
            for name, array in self.host.items()
        }
        self._addresses = address, base

    def send(self, stream: int) -> None:
        """Enqueue the copy to the device."""
        host, device = self._addresses
        self._copy(device, host, stream)

    def fetch(self, stream: int) -> None:
        """Enqueue the copy to the host, which may read it once the stream is synchronized."""
        host, device = self._addresses
        self._copy(host, device, stream)

    def close(self) -> None:
        """Free both sides; the arrays in `host` must not be used any more."""
        if self._block is not None:
            self._block.close()
        self._free_host()

    def _copy(self, target: int, source: int, stream: int) -> None:
        if self._block is not None:
            self._call("cudaMemcpyAsync", target, source, self.nbytes, COPY_DEFAULT, stream)


def _layout(fields: Fields) -> tuple[dict[str, int], int]:
    """Offset of each field, aligned, and the bytes of all."""
    offsets, end = {}, 0
    for name, (shape, dtype) in fields.items():
        offsets[name] = end
        size = DeviceView(0, shape, np.dtype(dtype)).nbytes
        end += -(-max(size, 1) // ALIGNMENT) * ALIGNMENT
    return offsets, end


def _finalizer(owner: object, call: CudaCall, function: str, address: int) -> Any:
    """Frees when called or when `owner` goes; at the end of the process, the driver does."""
    finalizer = weakref.finalize(owner, call, function, address)
    finalizer.atexit = False
    return finalizer
