import ctypes
import os
import re
import struct
import subprocess
import sys
import threading
import types
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from florence_edge import BackendError, MissingPackageError, RequestError
from florence_edge.cuda import api, providers
from florence_edge.cuda.api import FUNCTIONS, Enum, Out
from florence_edge.cuda.buffers import DeviceView, StagingBuffer
from florence_edge.cuda.device import Cuda, open_cuda
from florence_edge.cuda.kernels import PRECISION_BITS, Kernels, compile_kernels
from florence_edge.cuda.providers import open_bindings, open_libraries, open_provider

from . import fake_kernels
from .fake_cuda import FakeCuda
from .host_kernels import Launch
from .on_gpu import require_gpu

# The table of functions.


def module_of(bindings: Any, name: str) -> Any:
    if name.startswith("cuda"):
        return bindings.runtime
    return bindings.nvrtc if name.startswith("nvrtc") else bindings.driver


@pytest.fixture(scope="module")
def bindings() -> Any:
    package = pytest.importorskip("cuda.bindings", reason="pip install cuda-bindings")
    for name in ("driver", "nvrtc", "runtime"):
        pytest.importorskip(f"cuda.bindings.{name}")
    return package


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_exists_in_cuda_bindings_with_as_many_arguments(
    bindings: Any, name: str
) -> None:
    signature = getattr(module_of(bindings, name), name).__doc__.splitlines()[0]
    matched = re.fullmatch(rf"{name}\((.*)\)", signature)
    assert matched
    listed = re.sub(r"\[.*?\]", "", matched[1])  # Optional[tuple[bytes] | ...]
    given = [kind for kind in FUNCTIONS[name] if not isinstance(kind, Out)]
    assert len([part for part in listed.split(",") if part.strip()]) == len(given)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_an_enumeration_is_where_cuda_bindings_want_one(bindings: Any, name: str) -> None:
    signature = getattr(module_of(bindings, name), name).__doc__.splitlines()[0]
    wanted = set(re.findall(r": (cuda\w+)", signature))
    assert wanted == {kind.name for kind in FUNCTIONS[name] if isinstance(kind, Enum)}


def test_the_numbers_are_those_of_cuda(bindings: Any) -> None:
    runtime = bindings.runtime
    attributes = runtime.cudaDeviceAttr
    assert attributes.cudaDevAttrIntegrated == api.ATTRIBUTE_INTEGRATED
    assert attributes.cudaDevAttrComputeCapabilityMajor == api.ATTRIBUTE_MAJOR
    assert attributes.cudaDevAttrComputeCapabilityMinor == api.ATTRIBUTE_MINOR
    assert runtime.cudaHostAllocMapped == api.HOST_ALLOC_MAPPED
    assert runtime.cudaStreamNonBlocking == api.STREAM_NON_BLOCKING
    assert runtime.cudaEventDisableTiming == api.EVENT_DISABLE_TIMING
    assert runtime.cudaMemcpyKind.cudaMemcpyDefault == api.COPY_DEFAULT
    capture = runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
    assert capture == api.CAPTURE_THREAD_LOCAL
    assert int(runtime.cudaStreamLegacy) == api.LEGACY_STREAM


def test_every_error_that_has_advice_is_one_of_cuda(bindings: Any) -> None:
    names = {error.name for error in bindings.runtime.cudaError_t}
    assert set(api._ADVICE) <= names


def test_an_error_names_the_function_the_error_and_what_to_do() -> None:
    error = api.failure("cudaMalloc", "cudaErrorMemoryAllocation")
    assert "cudaMalloc with cudaErrorMemoryAllocation" in str(error)
    assert "fewer beams" in str(error)
    assert "device='cpu'" in str(api.failure("cudaFree", "cudaErrorUnknown"))


# Providers.


def test_cuda_bindings_without_a_driver_is_one_error(
    bindings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    status, _ = bindings.runtime.cudaGetDeviceCount()
    if not int(status):
        pytest.skip("there is a GPU")
    monkeypatch.setenv("FLORENCE_CUDA", "bindings")
    with pytest.raises(BackendError, match="nvidia-smi"):
        open_cuda()
    with pytest.raises(BackendError, match="cuLaunchKernel"):
        open_provider()("cuLaunchKernel", *[0] * 11)


def test_an_unknown_provider_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLORENCE_CUDA", "opencl")
    with pytest.raises(RequestError, match="bindings, ctypes or pycuda"):
        open_cuda()


def test_pycuda_that_is_not_installed_says_what_to_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycuda", None)
    monkeypatch.setenv("FLORENCE_CUDA", "pycuda")
    with pytest.raises(MissingPackageError, match="pip install pycuda"):
        open_cuda()


class FakePyCuda:
    """`pycuda.driver` as far as it is used: what is kept is alive, what is forgotten is gone."""

    class Error(Exception):
        """PyCUDA's base of errors."""

    class Kept:
        """An allocation, array or stream; `handle` and int() are what CUDA calls it."""

        def __init__(self, handle: int) -> None:
            self.handle = handle

        def __int__(self) -> int:
            return self.handle

    def __init__(self) -> None:
        self._made: list[weakref.ref[Any]] = []
        self.stack: list[int] = []
        self.within: list[int] = []  # the context in which each thing was made

    @property
    def alive(self) -> int:
        return sum(made() is not None for made in self._made)

    def init(self) -> None:
        pass

    def Device(self, index: int) -> Any:
        context = types.SimpleNamespace(push=lambda: self.stack.append(index), pop=self.stack.pop)
        return types.SimpleNamespace(retain_primary_context=lambda: context)

    def mem_alloc(self, size: int) -> Any:
        if size > 1000:
            raise self.Error("cuMemAlloc failed: out of memory")
        return self._kept(4096)

    def Stream(self, flags: int) -> Any:
        assert flags == api.STREAM_NON_BLOCKING
        return self._kept(77)

    def pagelocked_empty(self, size: int, dtype: str, mem_flags: int) -> Any:
        assert mem_flags == api.HOST_ALLOC_MAPPED
        return self._noted(np.empty(size, dtype))

    def _kept(self, handle: int) -> Any:
        return self._noted(self.Kept(handle))

    def _noted(self, made: Any) -> Any:
        self.within.append(self.stack[-1])
        self._made.append(weakref.ref(made, lambda _: self.stack[-1]))  # freed in a context, too
        return made


def test_pycuda_owns_memory_and_streams_and_ctypes_does_the_rest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    driver, rest = FakePyCuda(), []
    monkeypatch.setitem(sys.modules, "pycuda", types.SimpleNamespace(driver=driver))
    monkeypatch.setattr(providers, "open_libraries", lambda: lambda *call: rest.append(call))
    call = providers.open_pycuda()
    call("cudaSetDevice", 1)
    call("cudaSetDevice", 1)
    assert call("cudaMalloc", 256) == 4096
    assert call("cudaStreamCreateWithFlags", api.STREAM_NON_BLOCKING) == 77
    pinned = call("cudaHostAlloc", 64, api.HOST_ALLOC_MAPPED)
    assert driver.alive == 3
    assert driver.within == [1, 1, 1]
    assert driver.stack == []  # or PyCUDA aborts where the thread ends
    call("cudaStreamBeginCapture", 77, api.CAPTURE_THREAD_LOCAL)
    assert rest == [
        ("cudaSetDevice", 1),
        ("cudaSetDevice", 1),
        ("cudaStreamBeginCapture", 77, api.CAPTURE_THREAD_LOCAL),
    ]
    call("cudaFree", 4096)
    call("cudaStreamDestroy", 77)
    call("cudaFreeHost", pinned)
    assert not driver.alive
    with pytest.raises(BackendError, match="out of memory"):
        call("cudaMalloc", 2000)
    assert driver.stack == []


def test_a_gpu_that_pycuda_does_not_have_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = FakePyCuda()

    def refuse(index: int) -> Any:
        raise FakePyCuda.Error("cuDeviceGet failed: invalid device ordinal")

    monkeypatch.setattr(driver, "Device", refuse)
    monkeypatch.setitem(sys.modules, "pycuda", types.SimpleNamespace(driver=driver))
    monkeypatch.setattr(providers, "open_libraries", lambda: lambda *call: None)
    with pytest.raises(BackendError, match="invalid device ordinal"):
        providers.open_pycuda()("cudaSetDevice", 7)


def test_pycuda_serves_each_thread_the_gpu_that_it_chose(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = FakePyCuda()
    monkeypatch.setitem(sys.modules, "pycuda", types.SimpleNamespace(driver=driver))
    monkeypatch.setattr(providers, "open_libraries", lambda: lambda *call: None)
    call = providers.open_pycuda()

    def use(index: int) -> None:
        call("cudaSetDevice", index)
        call("cudaMalloc", 256)

    use(0)
    thread = threading.Thread(target=use, args=(1,))
    thread.start()
    thread.join()
    address = call("cudaMalloc", 256)
    assert driver.within == [0, 1, 0]
    call("cudaFree", address)


class FakeLibrary:
    """A shared object with three functions of the runtime, called as ctypes calls them."""

    def __init__(self, status: int = 0) -> None:
        self.cudaGetDeviceCount = Function(lambda count: status)
        self.cudaGetErrorName = Function(lambda status: b"cudaErrorMemoryAllocation")
        self.cudaMalloc = Function(self._malloc)
        self.cudaMemGetInfo = Function(self._info)
        self.nvrtcCompileProgram = Function(self._compile)
        self.nvrtcGetErrorString = Function(lambda status: b"NVRTC_ERROR_COMPILATION")
        self.options: list[bytes] = []

    def _malloc(self, address: Any, size: int) -> int:
        address._obj.value = 4096
        return 2 if size > 1000 else 0

    def _info(self, free: Any, total: Any) -> int:
        free._obj.value, total._obj.value = 3, 8
        return 0

    def _compile(self, program: int, count: int, options: Any) -> int:
        self.options = list(options)
        return 6


class Function:
    """A function of a library: ctypes hangs types onto it."""

    argtypes: Any = None
    restype: Any = None

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)


def test_ctypes_returns_what_comes_through_pointers(monkeypatch: pytest.MonkeyPatch) -> None:
    library = FakeLibrary()
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    call = open_libraries()
    assert call("cudaMalloc", 256) == 4096
    assert call("cudaMemGetInfo") == (3, 8)
    assert library.cudaMalloc.argtypes == [ctypes.POINTER(ctypes.c_void_p), ctypes.c_size_t]
    with pytest.raises(BackendError, match="cudaErrorMemoryAllocation"):
        call("cudaMalloc", 2000)
    with pytest.raises(BackendError, match="NVRTC_ERROR_COMPILATION"):
        call("nvrtcCompileProgram", 1, 2, [b"-a", b"-b"])
    assert library.options == [b"-a", b"-b"]


def test_libraries_that_are_missing_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> Any:
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", refuse)
    monkeypatch.setenv("FLORENCE_CUDA", "ctypes")
    with pytest.raises(BackendError, match=r"libcudart\.so\.13 and .* do not load"):
        open_cuda()


INSUFFICIENT_DRIVER, NO_DEVICE = 35, 100


def test_a_runtime_that_the_driver_is_too_old_for_gives_way_to_an_older_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """CUDA 13 from somewhere on the library path, over the driver of a CUDA 12."""
    there = {
        "libcudart.so.13": FakeLibrary(INSUFFICIENT_DRIVER),
        "libcudart.so.12": FakeLibrary(),
    }
    monkeypatch.setattr(ctypes, "CDLL", there.__getitem__)
    assert open_libraries()("cudaMalloc", 256) == 4096
    assert there["libcudart.so.12"].cudaMalloc.argtypes is not None
    assert there["libcudart.so.13"].cudaMalloc.argtypes is None


def test_a_driver_that_is_too_old_for_every_runtime_is_reported_by_the_newest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    there = {f"libcudart.so.{cuda}": FakeLibrary(INSUFFICIENT_DRIVER) for cuda in (12, 13)}
    there["libcudart.so.13"].cudaGetErrorName = Function(
        lambda status: b"cudaErrorInsufficientDriver"
    )
    monkeypatch.setattr(ctypes, "CDLL", there.__getitem__)
    with pytest.raises(BackendError, match="13 needs 580 or newer, 12 needs 525"):
        open_libraries()("cudaGetDeviceCount")


def scripted_bindings(monkeypatch: pytest.MonkeyPatch, answer: Callable[[str], Any]) -> Any:
    """cuda.bindings that answer every call so."""

    def call(name: str, *arguments: Any) -> Any:
        return answer(name)

    monkeypatch.setattr(providers, "open_bindings", lambda: call)
    monkeypatch.delenv("FLORENCE_CUDA", raising=False)
    return call


@pytest.mark.parametrize(
    "refusal",
    [
        "cudaErrorInsufficientDriver",  # JetPack 6: bindings of 12.9 over a driver of 12.6
        "cudaErrorSystemDriverMismatch",
        "cudaErrorCompatNotSupportedOnDevice",
        "cudaErrorNoDevice",
    ],
)
def test_bindings_that_the_driver_refuses_give_way_to_the_installed_cuda(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, refusal: str
) -> None:
    def answer(name: str) -> Any:
        raise api.failure(name, refusal)

    scripted_bindings(monkeypatch, answer)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: FakeLibrary())
    assert open_provider()("cudaMalloc", 256) == 4096
    (note,) = caplog.records
    assert refusal in note.getMessage()
    assert "FLORENCE_CUDA=ctypes" in note.getMessage()


def test_bindings_that_find_a_gpu_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    call = scripted_bindings(monkeypatch, lambda name: 1)
    assert open_provider() is call


@pytest.mark.parametrize("libraries", ["absent", "refused"])
def test_bindings_are_reported_where_the_installed_cuda_does_not_work_either(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, libraries: str
) -> None:
    def answer(name: str) -> Any:
        raise api.failure(name, "cudaErrorInsufficientDriver")

    def load(name: str) -> FakeLibrary:
        if libraries == "absent":
            raise OSError(name)
        return FakeLibrary(NO_DEVICE)

    scripted_bindings(monkeypatch, answer)
    monkeypatch.setattr(ctypes, "CDLL", load)
    with pytest.raises(BackendError, match="cudaErrorInsufficientDriver"):
        open_provider()
    assert caplog.records == []


def test_bindings_that_were_asked_for_do_not_give_way(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(name: str) -> Any:
        raise api.failure(name, "cudaErrorInsufficientDriver")

    call = scripted_bindings(monkeypatch, answer)
    monkeypatch.setenv("FLORENCE_CUDA", "bindings")
    assert open_provider() is call


# Memory, the stream, graphs.


@pytest.fixture
def fake() -> FakeCuda:
    return FakeCuda()


def test_a_mailbox_carries_values_there_and_back(fake: FakeCuda) -> None:
    gpu = Cuda(fake, 0)
    box = gpu.staging_buffer({"a": ((2, 3), np.float32), "b": ((5,), np.int64)})
    assert all(view.address % 256 == 0 for view in box.device.values())
    box.host["a"][:] = np.arange(6).reshape(2, 3)
    box.host["b"][:] = 7
    box.send(gpu.stream)
    box_device = fake.view(box.device["b"].address, (5,), np.int64)
    assert not (box_device == 7).any()  # nothing has run yet
    gpu.synchronize()
    assert (box_device == 7).all()
    box_device[:] = 9
    box.fetch(gpu.stream)
    gpu.synchronize()
    assert (box.host["b"] == 9).all()
    np.testing.assert_array_equal(gpu.download(box.device["a"]), box.host["a"])


def test_on_an_integrated_gpu_a_mailbox_is_one_memory_and_never_copied() -> None:
    fake = FakeCuda(integrated=True)
    gpu = Cuda(fake, 0)
    box = gpu.staging_buffer({"a": ((4,), np.int64)})
    box.host["a"][:] = 3
    box.send(gpu.stream)
    box.fetch(gpu.stream)
    assert (fake.view(box.device["a"].address, (4,), np.int64) == 3).all()
    assert "cudaMalloc" not in fake.calls
    assert "cudaMemcpyAsync" not in fake.calls


def test_rows_move_to_the_front_of_longer_ones(fake: FakeCuda) -> None:
    gpu = Cuda(fake, 0)
    short, long = gpu.array((3, 2, 4), np.float32), gpu.array((3, 5, 4), np.float32)
    values = np.arange(24, dtype=np.float32).reshape(3, 2, 4)
    gpu.upload(short.view, values)
    gpu.zero(long.view)
    gpu.copy_rows(long.view, short.view)
    found = gpu.download(long.view)
    np.testing.assert_array_equal(found[:, :2], values)
    assert not found[:, 2:].any()


def test_a_capture_runs_nothing_until_it_is_launched(fake: FakeCuda) -> None:
    gpu = Cuda(fake, 0)
    array = gpu.array((4,), np.int32)
    graph = gpu.capture(lambda: gpu.zero(array.view))
    gpu.synchronize()
    assert (gpu.download(array.view) == -1).all()  # the poison
    gpu.launch(graph)
    assert not gpu.download(array.view).any()


def test_a_capture_that_fails_ends_and_the_stream_goes_on(fake: FakeCuda) -> None:
    gpu = Cuda(fake, 0)
    held = len(fake.held)

    def fail() -> None:
        raise BackendError("no")

    with pytest.raises(BackendError, match="no"):
        gpu.capture(fail)
    assert fake.captured is None
    assert len(fake.held) == held


def test_memory_is_freed_once_by_close_or_when_nobody_has_it(fake: FakeCuda) -> None:
    gpu = Cuda(fake, 0)
    array = gpu.array((4,), np.int32)
    array.close()
    array.close()
    del array
    box = StagingBuffer(fake, {"a": ((4,), np.int32)}, mapped=False)
    del box
    assert not fake.blocks
    gpu.close()
    assert not fake.held


def test_memory_that_was_given_back_is_taken_again(fake: FakeCuda) -> None:
    gpu = Cuda(fake, 0)
    first, other = gpu.pooled_array((4, 5), np.float16), gpu.pooled_array((4, 5), np.float16)
    addresses = {first.view.address, other.view.address}
    assert len(addresses) == 2
    del first, other
    again = [gpu.pooled_array((40,), np.uint8), gpu.pooled_array((5, 4), np.float16)]
    assert {array.view.address for array in again} == addresses
    assert [array.view.shape for array in again] == [(40,), (5, 4)]
    assert fake.calls.count("cudaMalloc") == 2
    gpu.pooled_array((41,), np.uint8)
    assert fake.calls.count("cudaMalloc") == 3


def test_of_memory_that_nobody_uses_only_so_much_is_kept(fake: FakeCuda) -> None:
    gpu = Cuda(fake, 0)
    arrays = [gpu.pooled_array((n + 1,), np.int64) for n in range(7)]
    sizes = [len(block.bytes) for block in fake.blocks.values()]
    arrays.clear()
    assert sorted(len(block.bytes) for block in fake.blocks.values()) == sorted(sizes)[:4]


def test_what_somebody_still_has_outlives_the_pool(fake: FakeCuda) -> None:
    gpu = Cuda(fake, 0)
    kept, dropped = gpu.pooled_array((3,), np.int64), gpu.pooled_array((3,), np.int64)
    del dropped
    gpu.close()
    assert list(fake.blocks) == [kept.view.address]
    del kept
    assert fake.held == []


def test_arrays_of_a_pool_are_each_ones_own_in_many_threads(fake: FakeCuda) -> None:
    gpu, wrong = Cuda(fake, 0), []

    def use(number: int) -> None:
        for _ in range(200):
            array = gpu.pooled_array((8,), np.int64)
            values = fake.view(array.view.address, (8,), np.int64)
            values[:] = number
            if not (values == number).all():
                wrong.append(number)

    threads = [threading.Thread(target=use, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    gpu.close()
    assert fake.held == []


def test_an_event_waits_for_what_came_before_it(fake: FakeCuda) -> None:
    gpu = Cuda(fake, 0)
    event, done = gpu.event(), []
    fake.enqueue(lambda: done.append("before"))
    event.record()
    fake.enqueue(lambda: done.append("behind"))
    event.wait()
    assert done == ["before"]
    event.wait()
    event.record()
    event.wait()
    assert done == ["before", "behind"]
    event.close()
    gpu.close()
    assert fake.held == []


def test_a_mailbox_whose_second_half_fails_frees_the_first(fake: FakeCuda) -> None:
    fake.fails_at = 2
    with pytest.raises(BackendError, match="cudaMalloc"):
        StagingBuffer(fake, {"a": ((4,), np.int32)}, mapped=False)
    assert not fake.held


def test_kernels_are_compiled_for_the_gpu_and_unloaded(fake: FakeCuda) -> None:
    gpu = Cuda(fake, 0)
    Kernels(gpu).close()
    assert fake.calls.count("nvrtcCompileProgram") == 1
    gpu.close()
    assert not fake.held


def test_a_kernel_that_does_not_compile_says_why(
    fake: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any) -> None:
        raise api.failure("nvrtcCompileProgram", "NVRTC_ERROR_COMPILATION")

    monkeypatch.setattr(fake, "nvrtcCompileProgram", refuse)
    gpu = Cuda(fake, 0)
    with pytest.raises(BackendError, match=r"what is __.*nvidia-cuda-nvrtc"):
        Kernels(gpu)
    gpu.close()
    assert not fake.held


def test_nvrtc_compiles_the_kernels_for_jetsons_and_servers(bindings: Any) -> None:
    try:
        bindings.nvrtc.nvrtcVersion()
    except RuntimeError as error:
        pytest.skip(f"pip install nvidia-cuda-nvrtc: {error}")
    for capability in ((8, 7), (9, 0), (11, 0), (12, 0)):
        cubin = compile_kernels(open_bindings(), capability)
        assert cubin.startswith(b"\x7fELF")
        assert all(name.encode() in cubin for name in fake_kernels.SIGNATURES)


def test_nvrtc_that_does_not_know_the_gpu_says_so(bindings: Any) -> None:
    try:
        bindings.nvrtc.nvrtcVersion()
    except RuntimeError as error:
        pytest.skip(f"pip install nvidia-cuda-nvrtc: {error}")
    with pytest.raises(BackendError, match="NVRTC cannot compile for this GPU"):
        compile_kernels(open_bindings(), (99, 9))


# kernels.cu, compiled for the host, beside its double in numpy.


@pytest.fixture
def launch(compiled_kernels: Launch) -> Launch:
    return compiled_kernels


class Memory:
    """Arrays by address, as `fake_kernels` wants to see them."""

    def __init__(self, *arrays: npt.NDArray[Any]) -> None:
        self._arrays = arrays

    def __call__(self, address: int, shape: tuple[int, ...], dtype: Any) -> npt.NDArray[Any]:
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        for array in self._arrays:
            offset = address - array.ctypes.data
            if offset >= 0 and offset + size <= array.nbytes:
                flat = array.reshape(-1).view(np.uint8)
                return flat[offset : offset + size].view(dtype).reshape(shape)
        raise AssertionError(f"{size} bytes at {address} are not there")


def test_rows_are_placed_as_numpy_places_them(launch: Callable[..., None]) -> None:
    rng = np.random.default_rng(0)
    caches = rng.integers(0, 1 << 31, (4, 6, 16, 8)).astype(np.uint32)  # cache, row, position, word
    rows = rng.integers(0, 1 << 31, (4, 6 * 8 + 16)).astype(np.uint32)  # with a gap
    position = np.array([5], dtype=np.int64)
    expected = caches.copy()
    expected[:, :, 5] = rows[:, : 6 * 8].reshape(4, 6, 8)
    for run in (launch, None):
        found = caches.copy()
        arrays = (found, rows, position)
        numbers = (6, 8, 16, rows.shape[1])
        addresses = [array.ctypes.data for array in arrays]
        if run:
            run("place_rows", (6 * 8, 4, 1), *addresses, *numbers)
        else:
            fake_kernels.place_rows(Memory(*arrays), (6 * 8, 4, 1), *addresses, *numbers)
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("beams", [1, 3, 8])
def test_beams_follow_their_parents_all_at_once(launch: Callable[..., None], beams: int) -> None:
    rng = np.random.default_rng(beams)
    shape = (2, 3, beams, 2, 16, 4)  # cache, image, beam, head, position, word
    caches = rng.integers(0, 1 << 31, shape).astype(np.uint32)
    parents = rng.integers(0, beams, (3, beams))
    first, position, held = np.array([2, 7, 11]), np.array([11]), np.array([0])
    expected = caches.copy()
    for image, since in enumerate(first):
        expected[:, image, :, :, since:11] = caches[:, image, parents[image], :, since:11]
    for run in (launch, None):
        found = caches.copy()
        arrays = (found, parents, first, position, held)
        addresses = [array.ctypes.data for array in arrays]
        numbers = (3, beams, 16, 4)
        if run:
            run("follow", (16 * 4, 2, 2 * 3), *addresses, *numbers)
        else:
            fake_kernels.follow(Memory(*arrays), (16 * 4, 2, 2 * 3), *addresses, *numbers)
        np.testing.assert_array_equal(found, expected)


def test_where_the_search_held_nobody_follows(launch: Launch) -> None:
    caches = np.arange(2 * 16 * 4, dtype=np.uint32)
    parents, first = np.array([[1, 1]]), np.array([0])
    position, held = np.array([11]), np.array([1])
    for run in (launch, None):
        found = caches.copy()
        arrays = (found, parents, first, position, held)
        addresses = [array.ctypes.data for array in arrays]
        if run:
            run("follow", (16 * 4, 1, 1), *addresses, 1, 2, 16, 4)
        else:
            fake_kernels.follow(Memory(*arrays), (16 * 4, 1, 1), *addresses, 1, 2, 16, 4)
        np.testing.assert_array_equal(found, caches)


def test_no_kernel_needs_memory_of_its_threads(bindings: Any) -> None:
    """An array that is not unrolled into registers would lie there, and its loops wait for it."""
    try:
        bindings.nvrtc.nvrtcVersion()
    except RuntimeError as error:
        pytest.skip(f"pip install nvidia-cuda-nvrtc: {error}")
    for capability in ((8, 7), (9, 0)):
        frames = frame_sizes(compile_kernels(open_bindings(), capability))
        assert {name: frames[name] for name in fake_kernels.SIGNATURES} == dict.fromkeys(
            fake_kernels.SIGNATURES, 0
        )


def frame_sizes(cubin: bytes) -> dict[str, int]:
    """Bytes of the stack frame of each function: EIATTR_FRAME_SIZE in the section .nv.info."""
    (sections_at,) = struct.unpack_from("<Q", cubin, 0x28)  # ELF's header, 64 bits
    size, count, names = struct.unpack_from("<HHH", cubin, 0x3A)
    sections = [
        struct.unpack_from("<IIQQQQIIQQ", cubin, sections_at + i * size) for i in range(count)
    ]

    def text(at: int) -> str:
        return cubin[at : cubin.index(b"\0", at)].decode()

    symbols = next(section for section in sections if section[1] == 2)
    symbol_names = sections[symbols[6]][4]
    info = next(each for each in sections if text(sections[names][4] + each[0]) == ".nv.info")
    at, frames = info[4], {}
    while at < info[4] + info[5]:
        form, attribute, length = struct.unpack_from("<BBH", cubin, at)
        if (form, attribute) == (4, 0x11):
            symbol, frame = struct.unpack_from("<II", cubin, at + 4)
            (name,) = struct.unpack_from("<I", cubin, symbols[4] + symbol * 24)
            frames[text(symbol_names + name)] = frame
        at += 4 + (length if form == 4 else 0)
    return frames


def test_the_precision_is_what_the_sums_need() -> None:
    """255 times the weights of one output, which may overshoot, stays within 31 bits."""
    assert 255 * 1.5 * (1 << PRECISION_BITS) < 2**31


def test_a_place_steps_over_whole_rows() -> None:
    view = DeviceView(1000, (3, 4, 5), np.dtype(np.float16))
    assert view[2] == DeviceView(1000 + 2 * 40, (4, 5), np.dtype(np.float16))
    assert view.nbytes == 120


@pytest.mark.gpu
@pytest.mark.parametrize("provider", ["bindings", "ctypes"])
def test_a_gpu_computes_what_the_scripted_one_does(
    monkeypatch: pytest.MonkeyPatch, provider: str
) -> None:
    require_gpu()
    monkeypatch.setenv("FLORENCE_CUDA", provider)
    gpu = open_cuda()
    kernels = Kernels(gpu)
    rng = np.random.default_rng(0)
    caches = gpu.array((4, 6, 2, 16, 8), np.float32)  # caches, rows, heads, capacity, width
    values = rng.standard_normal(caches.view.shape).astype(np.float32)
    new = rng.standard_normal((4, 6, 2, 1, 8)).astype(np.float32)
    rows = gpu.array(new.shape, np.float32)
    gpu.upload(caches.view, values)
    gpu.upload(rows.view, new)
    box = gpu.staging_buffer(
        {
            "parents": ((2, 3), np.int64),
            **{name: ((n,), np.int64) for name, n in (("first", 2), ("position", 1), ("held", 1))},
        }
    )

    def step() -> None:
        box.send(gpu.stream)
        kernels.follow(caches.view, box.device, caches.view.shape[3])
        kernels.place_rows(caches.view, [rows.view[i] for i in range(4)], box.device["position"])

    box.host["parents"][:] = [[2, 0, 0], [1, 0, 2]]
    box.host["first"][:], box.host["position"][0], box.host["held"][0] = 3, 9, 0
    gpu.launch(gpu.capture(step))
    expected = values.copy()
    order = [2, 0, 0, 4, 3, 5]
    expected[:, :, :, 3:9] = values[:, order][:, :, :, 3:9]
    expected[:, :, :, 9] = new[:, :, :, 0]
    np.testing.assert_array_equal(gpu.download(caches.view), expected)
    gpu.close()


def test_importing_the_runtime_loads_no_gpu_package() -> None:
    packages = ["cuda", "cuda.bindings", "pycuda", "tensorrt", "tensorrt_rtx", "cupy"]
    command = (
        f"import sys, florence_edge.cli.main; print([p for p in {packages} if p in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", command], check=True, capture_output=True)
    assert done.stdout.strip() == b"[]"


def test_the_kernels_travel_with_the_package() -> None:
    assert os.path.getsize(Path(api.__file__).with_name("kernels.cu")) > 0
