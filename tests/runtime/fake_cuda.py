"""A scripted CUDA: the functions of `cuda.api` over memory of the host.

It is stricter than a GPU. Work runs only when somebody waits for it, so that what is read too early
or written too soon shows. New memory holds NaNs. Addresses are checked against what is allocated.
In a capture nothing runs, and what a real capture forbids is refused.
"""

import ctypes
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from florence_edge.cuda import api
from florence_edge.cuda.api import FUNCTIONS, Out, failure

from . import fake_kernels

Operation = Callable[[], None]

CUBIN = b"\x7fcubin of the tests"
POISON = 0xFF  # bytes of NaNs

_IN_NO_CAPTURE = frozenset(
    ("cudaMalloc", "cudaFree", "cudaHostAlloc", "cudaFreeHost", "cudaStreamSynchronize")
)


def write(text: bytes, content: bytes) -> None:
    """Write into bytes, as NVRTC does."""
    buffer: Any = text
    ctypes.memmove(buffer, content, len(content))


@dataclass
class Block:
    """An allocation: `bytes` keeps it alive, aligned as cudaMalloc aligns."""

    kind: str
    address: int
    bytes: npt.NDArray[np.uint8]


@dataclass
class FakeCuda:
    """Answers calls; `fails_at` is the number of the call that fails, counted from 1."""

    integrated: bool = False
    fails_at: int | None = None
    calls: list[str] = field(default_factory=list)
    kernels: list[str] = field(default_factory=list)  # the names of those that ran
    blocks: dict[int, Block] = field(default_factory=dict)
    others: dict[int, Any] = field(default_factory=dict)  # streams, events, graphs, modules
    queue: list[Operation] = field(default_factory=list)
    captured: list[Operation] | None = None
    current: int = 0  # the GPU that was made current
    owners: dict[int, int] = field(default_factory=dict)  # the GPU of memory that is another's
    managed: set[int] = field(default_factory=set)  # memory that all of them may read
    compiled: Callable[..., None] | None = None  # kernels.cu for the host, instead of numpy
    _next: int = 1
    _recorded: dict[int, Operation] = field(default_factory=dict)
    _lock: Any = field(default_factory=threading.RLock)

    def __call__(self, name: str, *arguments: Any) -> Any:
        with self._lock:  # memory is freed by whichever thread drops it last, as a driver allows
            return self._call(name, *arguments)

    def _call(self, name: str, *arguments: Any) -> Any:
        assert len(arguments) == sum(not isinstance(kind, Out) for kind in FUNCTIONS[name]), name
        assert self.captured is None or name not in _IN_NO_CAPTURE, f"{name} during a capture"
        self.calls.append(name)
        if len(self.calls) == self.fails_at:
            if name == "cudaStreamEndCapture":
                self.captured = None  # a capture ends whatever comes of it
            raise failure(name, "cudaErrorMemoryAllocation")
        return getattr(self, name)(*arguments)

    @property
    def held(self) -> list[Any]:
        """Whatever has not been given back."""
        return [*self.blocks.values(), *self.others.values()]

    def enqueue(self, operation: Operation) -> None:
        """Work on the stream: for the capture, or for when somebody waits."""
        (self.queue if self.captured is None else self.captured).append(operation)

    def view(self, address: int, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """An array in allocated memory."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        for block in self.blocks.values():
            offset = address - block.address
            if offset >= 0 and offset + size <= len(block.bytes):
                return np.ndarray(shape, dtype, block.bytes.data, offset)
        raise AssertionError(f"{size} bytes at {address} are not allocated")

    # Devices.

    def cudaGetDeviceCount(self) -> int:
        return 2

    def cudaSetDevice(self, index: int) -> None:
        if index >= self.cudaGetDeviceCount():
            raise failure("cudaSetDevice", "cudaErrorInvalidDevice")
        self.current = index

    def cudaDeviceGetAttribute(self, number: int, index: int) -> int:
        return {
            api.ATTRIBUTE_INTEGRATED: int(self.integrated),
            api.ATTRIBUTE_MAJOR: 8,
            api.ATTRIBUTE_MINOR: 7,
        }[number]

    def cudaMemGetInfo(self) -> tuple[int, int]:
        return 6 << 30, 8 << 30

    # Memory.

    def cuPointerGetAttribute(self, attribute: int, address: int) -> int:
        return {
            api.POINTER_MEMORY_TYPE: api.MEMORY_OF_A_DEVICE,
            api.POINTER_IS_MANAGED: int(address in self.managed),
            api.POINTER_DEVICE: self.owners.get(address, self.current),
        }[attribute]

    def _allocate(self, kind: str, size: int) -> int:
        raw = np.full(size + 256, POISON, dtype=np.uint8)
        skipped = -raw.ctypes.data % 256
        aligned = raw[skipped : skipped + size]
        address = aligned.ctypes.data
        self.blocks[address] = Block(kind, address, aligned)
        return address

    def _free(self, kind: str, address: int) -> None:
        self.run()  # freeing waits for the device
        block = self.blocks.pop(address)
        assert block.kind == kind
        block.bytes[:] = POISON

    def cudaMalloc(self, size: int) -> int:
        return self._allocate("device", size)

    def cudaFree(self, address: int) -> None:
        self._free("device", address)

    def cudaHostAlloc(self, size: int, flags: int) -> int:
        assert flags == api.HOST_ALLOC_MAPPED
        return self._allocate("host", size)

    def cudaFreeHost(self, address: int) -> None:
        self._free("host", address)

    def cudaHostGetDevicePointer(self, address: int, flags: int) -> int:
        assert self.blocks[address].kind == "host"
        return address

    def cudaMemcpyAsync(self, target: int, source: int, size: int, kind: int, stream: int) -> None:
        assert kind == api.COPY_DEFAULT
        self.cudaMemcpy2DAsync(target, size, source, size, size, 1, kind, stream)

    def cudaMemcpy2DAsync(
        self,
        target: int,
        target_pitch: int,
        source: int,
        source_pitch: int,
        width: int,
        rows: int,
        kind: int,
        stream: int,
    ) -> None:
        self._check_stream(stream)
        assert width <= min(target_pitch, source_pitch)

        def copy() -> None:
            for row in range(rows):
                to = self.view(target + row * target_pitch, (width,), np.uint8)
                to[:] = self.view(source + row * source_pitch, (width,), np.uint8)

        self.enqueue(copy)

    def cudaMemsetAsync(self, address: int, value: int, size: int, stream: int) -> None:
        self._check_stream(stream)
        self.enqueue(lambda: self.view(address, (size,), np.uint8).fill(value))

    # Streams, events, graphs.

    def _keep(self, value: Any) -> int:
        self._next += 1000
        self.others[self._next] = value
        return self._next

    def _drop(self, handle: int, kind: str) -> None:
        assert self.others.pop(handle)[0] == kind

    def _check_stream(self, stream: int) -> None:
        assert stream == api.LEGACY_STREAM or self.others[stream][0] == "stream"

    def cudaStreamCreateWithFlags(self, flags: int) -> int:
        assert flags == api.STREAM_NON_BLOCKING
        return self._keep(("stream",))

    def cudaStreamDestroy(self, stream: int) -> None:
        self._drop(stream, "stream")

    def cudaStreamSynchronize(self, stream: int) -> None:
        self._check_stream(stream)
        self.run()

    def run(self) -> None:
        """Do what has been enqueued."""
        while self.queue:
            self.queue.pop(0)()

    def cudaEventCreateWithFlags(self, flags: int) -> int:
        return self._keep(("event",))

    def cudaEventRecord(self, event: int, stream: int) -> None:
        self._check_stream(stream)
        assert self.others[event] == ("event",)
        self._recorded[event] = marker = lambda: None
        self.enqueue(marker)

    def cudaEventSynchronize(self, event: int) -> None:
        """Do what was enqueued before the event, and nothing behind it."""
        assert self.others[event] == ("event",)
        marker = self._recorded.get(event)
        while any(operation is marker for operation in self.queue):
            self.queue.pop(0)()

    def cudaStreamWaitEvent(self, stream: int, event: int, flags: int) -> None:
        self._check_stream(stream)

    def cudaEventDestroy(self, event: int) -> None:
        self._drop(event, "event")

    def cudaStreamBeginCapture(self, stream: int, mode: int) -> None:
        assert mode == api.CAPTURE_THREAD_LOCAL
        self._check_stream(stream)
        assert self.captured is None
        self.captured = []

    def cudaStreamEndCapture(self, stream: int) -> int:
        assert self.captured is not None
        captured, self.captured = self.captured, None
        return self._keep(("graph", captured))

    def cudaGraphInstantiate(self, graph: int, flags: int) -> int:
        return self._keep(("executable", self.others[graph][1]))

    def cudaGraphDestroy(self, graph: int) -> None:
        self._drop(graph, "graph")

    def cudaGraphExecDestroy(self, graph: int) -> None:
        self._drop(graph, "executable")

    def cudaGraphLaunch(self, graph: int, stream: int) -> None:
        self._check_stream(stream)
        for operation in self.others[graph][1]:
            self.enqueue(operation)

    # Kernels.

    def nvrtcCreateProgram(self, source: bytes, name: bytes, *headers: Any) -> int:
        assert b"resample" in source
        assert headers == (0, None, None)
        return self._keep(("program",))

    def nvrtcCompileProgram(self, program: int, count: int, options: list[bytes]) -> None:
        assert b"--gpu-architecture=sm_87" in options
        assert count == len(options)

    def nvrtcGetCUBINSize(self, program: int) -> int:
        return len(CUBIN)

    def nvrtcGetCUBIN(self, program: int, text: bytes) -> None:
        write(text, CUBIN)

    def nvrtcGetProgramLogSize(self, program: int) -> int:
        return 10

    def nvrtcGetProgramLog(self, program: int, text: bytes) -> None:
        write(text, b"what is __"[: len(text)])

    def nvrtcDestroyProgram(self, address: int) -> None:
        self._drop(ctypes.c_void_p.from_address(address).value or 0, "program")

    def cuModuleLoadData(self, image: bytes) -> int:
        assert image == CUBIN
        return self._keep(("module",))

    def cuModuleUnload(self, module: int) -> None:
        self._drop(module, "module")

    def cuModuleGetFunction(self, module: int, name: bytes) -> int:
        assert self.others[module][0] == "module"
        return list(fake_kernels.SIGNATURES).index(name.decode()) + 7

    def cuLaunchKernel(self, function: int, *rest: Any) -> None:
        grid, block, (shared, stream, arguments, extra) = rest[:3], rest[3:6], rest[6:]
        self._check_stream(stream)
        assert (shared, extra, block[1:]) == (0, 0, (1, 1))
        name = list(fake_kernels.SIGNATURES)[function - 7]
        kinds = fake_kernels.SIGNATURES[name]
        addresses = (ctypes.c_void_p * len(kinds)).from_address(arguments)
        values = [
            kind.from_address(address).value for kind, address in zip(kinds, addresses, strict=True)
        ]
        threads = grid[0] * block[0], grid[1], grid[2]

        def run() -> None:
            self.kernels.append(name)
            if self.compiled is not None:
                self.compiled(name, threads, *values)
            else:
                getattr(fake_kernels, name)(self.view, threads, *values)

        self.enqueue(run)


class OnGpu:
    """An array in the memory of a scripted CUDA, as CuPy or PyCUDA would present it."""

    def __init__(self, fake: FakeCuda, values: npt.NDArray[np.uint8], **interface: Any) -> None:
        self._address = fake.cudaMalloc(values.nbytes)
        fake.view(self._address, values.shape, np.uint8)[:] = values
        self._interface = {"shape": values.shape, "stream": None} | interface

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "typestr": "|u1",
            "data": (self._address, False),
            "strides": None,
            "version": 3,
            **self._interface,
        }
