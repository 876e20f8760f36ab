"""One GPU and one stream on it, in whose order everything happens."""

import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import MODEL_CLOSED, BackendError
from . import api
from .api import CudaCall
from .buffers import (
    ArrayPool,
    ArrayShape,
    DeviceArray,
    DeviceView,
    Fields,
    PooledArray,
    StagingBuffer,
)
from .providers import open_provider

_POOLED = 4  # blocks that nobody uses


def open_cuda(index: int = 0) -> "Cuda":
    """GPU number `index`, with a stream of its own.

    Raises:
        BackendError: there is no CUDA, no driver or no such GPU.
        MissingPackageError: FLORENCE_CUDA names a package that is not installed.
    """
    return Cuda(open_provider(), index)


class CudaGraph:
    """Work that was captured once and is launched as a whole."""

    def __init__(self, call: CudaCall, handle: int) -> None:
        self.handle = handle
        self._destroy = weakref.finalize(self, call, "cudaGraphExecDestroy", handle)
        self._destroy.atexit = False

    def close(self) -> None:
        """Destroy the graph, if it has not been."""
        self._destroy()


class CudaEvent:
    """A point in the order of the stream, which the host can wait for."""

    def __init__(self, call: CudaCall, stream: int) -> None:
        self._call = call
        self._stream = stream
        self._handle: int = call("cudaEventCreateWithFlags", api.EVENT_DISABLE_TIMING)
        self._destroy = weakref.finalize(self, call, "cudaEventDestroy", self._handle)
        self._destroy.atexit = False

    def record(self) -> None:
        """Put the point behind all that was enqueued so far."""
        self._call("cudaEventRecord", self._handle, self._stream)

    def wait(self) -> None:
        """Wait until what was enqueued before the point is done."""
        self._call("cudaEventSynchronize", self._handle)

    def close(self) -> None:
        """Destroy the event, if it has not been."""
        self._destroy()


class Cuda:
    """A GPU; copies, graphs and kernels are enqueued on its one stream and run in that order.

    Copies are between addresses of the device or of staging buffers, never pageable host memory.
    """

    def __init__(self, call: CudaCall, index: int) -> None:
        self.call = call
        self.index = index
        self._closed = False
        self.activate()
        self.integrated = bool(self._attribute(api.ATTRIBUTE_INTEGRATED))
        self.compute_capability = (
            self._attribute(api.ATTRIBUTE_MAJOR),
            self._attribute(api.ATTRIBUTE_MINOR),
        )
        with ExitStack() as owned:
            self.stream: int = call("cudaStreamCreateWithFlags", api.STREAM_NON_BLOCKING)
            owned.callback(call, "cudaStreamDestroy", self.stream)
            self._pool = ArrayPool(call, _POOLED)
            owned.callback(self._pool.close)
            self._owned = owned.pop_all()

    def close(self) -> None:
        """Destroy the stream."""
        self._closed = True
        self._owned.close()

    def activate(self) -> None:
        """Make this GPU the calling thread's; each thread has a current device of its own.

        Raises:
            BackendError: it was closed.
        """
        self.check_open()
        self.call("cudaSetDevice", self.index)

    def check_open(self) -> None:
        """Refuse a GPU that was closed: its stream is gone, and CUDA would not notice.

        Raises:
            BackendError: it was.
        """
        if self._closed:
            raise BackendError(MODEL_CLOSED)

    def memory(self) -> tuple[int, int]:
        """Bytes that are free, and bytes of all."""
        free, total = self.call("cudaMemGetInfo")
        return free, total

    def owner_of(self, address: int) -> int | None:
        """The number of the GPU in whose memory an address lies.

        None if all of them may read it (the host's memory, managed memory), or if CUDA knows
        nothing of it.
        """
        try:
            kind, managed, index = (
                self.call("cuPointerGetAttribute", attribute, address)
                for attribute in (
                    api.POINTER_MEMORY_TYPE,
                    api.POINTER_IS_MANAGED,
                    api.POINTER_DEVICE,
                )
            )
        except BackendError:
            return None
        return None if managed or kind != api.MEMORY_OF_A_DEVICE else int(index)

    def array(self, shape: ArrayShape, dtype: npt.DTypeLike) -> DeviceArray:
        """An array in device memory, not filled."""
        return DeviceArray(self.call, shape, dtype)

    def pooled_array(self, shape: ArrayShape, dtype: npt.DTypeLike) -> PooledArray:
        """The same for arrays that come and go: their memory is used again."""
        return self._pool.array(shape, dtype)

    def staging_buffer(self, fields: Fields) -> StagingBuffer:
        """Arrays for exchange with the host; on an integrated GPU mapped, so without copies."""
        return StagingBuffer(self.call, fields, mapped=self.integrated)

    def copy(self, target: DeviceView, source: DeviceView) -> None:
        """Enqueue a copy of all of `source`."""
        self.call(
            "cudaMemcpyAsync",
            target.address,
            source.address,
            source.nbytes,
            api.COPY_DEFAULT,
            self.stream,
        )

    def copy_rows(self, target: DeviceView, source: DeviceView) -> None:
        """Enqueue a copy of each row of `source` [..., n, d] to the front of one [..., m, d]."""
        pitch, width = (
            view.shape[-2] * view.shape[-1] * view.dtype.itemsize for view in (target, source)
        )
        self.call(
            "cudaMemcpy2DAsync",
            *(target.address, pitch, source.address, width, width, source.nbytes // width),
            api.COPY_DEFAULT,
            self.stream,
        )

    def zero(self, view: DeviceView) -> None:
        """Enqueue the clearing of an array."""
        self.call("cudaMemsetAsync", view.address, 0, view.nbytes, self.stream)

    def wait_for(self, stream: int) -> None:
        """Let what is enqueued from now on wait for what was enqueued on another stream."""
        event = self.call("cudaEventCreateWithFlags", api.EVENT_DISABLE_TIMING)
        try:
            self.call("cudaEventRecord", event, stream)
            self.call("cudaStreamWaitEvent", self.stream, event, 0)
        finally:
            self.call("cudaEventDestroy", event)  # CUDA keeps it until it has happened

    def event(self) -> CudaEvent:
        """An event of the stream, not recorded yet."""
        return CudaEvent(self.call, self.stream)

    def capture(self, enqueue: Callable[[], None]) -> CudaGraph:
        """What `enqueue` enqueues, as a graph; nothing of it runs now."""
        with _collections.paused():
            self.call("cudaStreamBeginCapture", self.stream, api.CAPTURE_THREAD_LOCAL)
            try:
                enqueue()
            except BaseException:
                with suppress(BackendError):  # a capture that failed is ended all the same
                    self.call("cudaGraphDestroy", self.call("cudaStreamEndCapture", self.stream))
                raise
            captured = self.call("cudaStreamEndCapture", self.stream)
        try:
            return CudaGraph(self.call, self.call("cudaGraphInstantiate", captured, 0))
        finally:
            self.call("cudaGraphDestroy", captured)

    def launch(self, graph: CudaGraph) -> None:
        """Enqueue a graph."""
        self.call("cudaGraphLaunch", graph.handle, self.stream)

    def synchronize(self) -> None:
        """Wait until everything that was enqueued is done."""
        self.call("cudaStreamSynchronize", self.stream)

    def download(self, view: DeviceView) -> npt.NDArray[Any]:
        """An array's values on the host, after all that was enqueued; slow."""
        staging = StagingBuffer(self.call, {"values": (view.shape, view.dtype)}, mapped=True)
        try:
            self.copy(staging.device["values"], view)
            self.synchronize()
            return np.array(staging.host["values"])
        finally:
            staging.close()

    def upload(self, view: DeviceView, values: npt.NDArray[Any]) -> None:
        """Put values into an array, after all that was enqueued; slow."""
        staging = StagingBuffer(self.call, {"values": (view.shape, view.dtype)}, mapped=True)
        try:
            staging.host["values"][...] = values
            self.copy(view, staging.device["values"])
            self.synchronize()
        finally:
            staging.close()

    def _attribute(self, number: int) -> int:
        value: int = self.call("cudaDeviceGetAttribute", number, self.index)
        return value


class _Collections:
    """Python's garbage collection, which is the whole process's.

    Freeing memory would spoil a capture, and a collection can free what a cycle kept alive.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._captures = 0  # of all threads, at this moment
        self._were_enabled = False

    @contextmanager
    def paused(self) -> Iterator[None]:
        """None from now on, until the last of those who asked for that is done."""
        with self._lock:
            if self._captures == 0:
                self._were_enabled = gc.isenabled()
                gc.disable()
            self._captures += 1
        try:
            yield
        finally:
            with self._lock:
                self._captures -= 1
                if self._captures == 0 and self._were_enabled:
                    gc.enable()


_collections = _Collections()
