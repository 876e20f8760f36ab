"""One GPU and one stream on it, in whose order everything happens."""

import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import BackendError
from . import calls
from .calls import Call
from .memory import DeviceArray, Fields, Mailbox, Place, Shape


class Graph:
    """Work that was captured once and is launched as a whole."""

    def __init__(self, call: Call, handle: int) -> None:
        self.handle = handle
        self._destroy = weakref.finalize(self, call, "cudaGraphExecDestroy", handle)
        self._destroy.atexit = False

    def close(self) -> None:
        """Destroy the graph, if it has not been."""
        self._destroy()


class Cuda:
    """A GPU; copies, graphs and kernels are enqueued on its one stream and run in that order.

    Copies are between addresses of the device or of mailboxes, never pageable host memory.
    """

    def __init__(self, call: Call, index: int) -> None:
        self.call = call
        self.index = index
        self._closed = False
        self.activate()
        self.integrated = bool(self._attribute(calls.ATTRIBUTE_INTEGRATED))
        self.compute_capability = (
            self._attribute(calls.ATTRIBUTE_MAJOR),
            self._attribute(calls.ATTRIBUTE_MINOR),
        )
        with ExitStack() as owned:
            self.stream: int = call("cudaStreamCreateWithFlags", calls.STREAM_NON_BLOCKING)
            owned.callback(call, "cudaStreamDestroy", self.stream)
            self._owned = owned.pop_all()

    def close(self) -> None:
        """Destroy the stream."""
        self._closed = True
        self._owned.close()

    def activate(self) -> None:
        """Make this GPU the calling thread's; each thread has a current device of its own.

        Raises:
            BackendError: it was closed; its stream is gone, and CUDA would not notice.
        """
        if self._closed:
            raise BackendError(
                "This model was closed, and its memory on the GPU is gone. Load it again."
            )
        self.call("cudaSetDevice", self.index)

    def memory(self) -> tuple[int, int]:
        """Bytes that are free, and bytes of all."""
        free, total = self.call("cudaMemGetInfo")
        return free, total

    def array(self, shape: Shape, dtype: npt.DTypeLike) -> DeviceArray:
        """An array in device memory, not filled."""
        return DeviceArray(self.call, shape, dtype)

    def mailbox(self, fields: Fields) -> Mailbox:
        """Arrays for exchange with the host; on an integrated GPU mapped, so without copies."""
        return Mailbox(self.call, fields, mapped=self.integrated)

    def copy(self, target: Place, source: Place) -> None:
        """Enqueue a copy of all of `source`."""
        self.call(
            "cudaMemcpyAsync",
            target.address,
            source.address,
            source.nbytes,
            calls.COPY_DEFAULT,
            self.stream,
        )

    def copy_rows(self, target: Place, source: Place) -> None:
        """Enqueue a copy of each row of `source` [..., n, d] to the front of one [..., m, d]."""
        pitch, width = (
            place.shape[-2] * place.shape[-1] * place.dtype.itemsize for place in (target, source)
        )
        self.call(
            "cudaMemcpy2DAsync",
            *(target.address, pitch, source.address, width, width, source.nbytes // width),
            calls.COPY_DEFAULT,
            self.stream,
        )

    def zero(self, place: Place) -> None:
        """Enqueue the clearing of an array."""
        self.call("cudaMemsetAsync", place.address, 0, place.nbytes, self.stream)

    def wait_for(self, stream: int) -> None:
        """Let what is enqueued from now on wait for what was enqueued on another stream."""
        event = self.call("cudaEventCreateWithFlags", calls.EVENT_DISABLE_TIMING)
        try:
            self.call("cudaEventRecord", event, stream)
            self.call("cudaStreamWaitEvent", self.stream, event, 0)
        finally:
            self.call("cudaEventDestroy", event)  # CUDA keeps it until it has happened

    def capture(self, enqueue: Callable[[], None]) -> Graph:
        """What `enqueue` enqueues, as a graph; nothing of it runs now."""
        with _no_garbage_collection():
            self.call("cudaStreamBeginCapture", self.stream, calls.CAPTURE_THREAD_LOCAL)
            try:
                enqueue()
            except BaseException:
                with suppress(BackendError):  # a capture that failed is ended all the same
                    self.call("cudaGraphDestroy", self.call("cudaStreamEndCapture", self.stream))
                raise
            captured = self.call("cudaStreamEndCapture", self.stream)
        try:
            return Graph(self.call, self.call("cudaGraphInstantiate", captured, 0))
        finally:
            self.call("cudaGraphDestroy", captured)

    def launch(self, graph: Graph) -> None:
        """Enqueue a graph."""
        self.call("cudaGraphLaunch", graph.handle, self.stream)

    def synchronize(self) -> None:
        """Wait until everything that was enqueued is done."""
        self.call("cudaStreamSynchronize", self.stream)

    def download(self, place: Place) -> npt.NDArray[Any]:
        """An array's values on the host, after everything that was enqueued; for the occasion."""
        mailbox = Mailbox(self.call, {"values": (place.shape, place.dtype)}, mapped=True)
        try:
            self.copy(mailbox.places["values"], place)
            self.synchronize()
            return np.array(mailbox.host["values"])
        finally:
            mailbox.close()

    def upload(self, place: Place, values: npt.NDArray[Any]) -> None:
        """Put values into an array, after everything that was enqueued; for the occasion."""
        mailbox = Mailbox(self.call, {"values": (place.shape, place.dtype)}, mapped=True)
        try:
            mailbox.host["values"][...] = values
            self.copy(place, mailbox.places["values"])
            self.synchronize()
        finally:
            mailbox.close()

    def _attribute(self, number: int) -> int:
        value: int = self.call("cudaDeviceGetAttribute", number, self.index)
        return value


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Freeing memory would spoil a capture, and a collection can free what a cycle kept alive."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
