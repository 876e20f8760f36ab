"""By which package CUDA is called, and which one comes next where one does not work."""

import ctypes
import subprocess
import sys
import threading
import types
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from florence_edge import BackendError, MissingPackageError, RequestError
from florence_edge.cuda import api, providers
from florence_edge.cuda.device import open_cuda
from florence_edge.cuda.providers import open_libraries, open_provider


def test_cuda_bindings_without_a_driver_is_one_error(
    cuda_bindings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    status, _ = cuda_bindings.runtime.cudaGetDeviceCount()
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
    """A shared object with some functions of the runtime, called as ctypes calls them."""

    def __init__(self, status: int = 0) -> None:
        self.last_error = 0
        self.cudaGetDeviceCount = Function(lambda count: self._told(status))
        self.cudaGetLastError = Function(self._forget)
        self.cudaGetErrorName = Function(lambda status: b"cudaErrorMemoryAllocation")
        self.cudaMalloc = Function(self._malloc)
        self.cudaMemGetInfo = Function(self._info)
        self.nvrtcCompileProgram = Function(self._compile)
        self.nvrtcGetErrorString = Function(lambda status: b"NVRTC_ERROR_COMPILATION")
        self.options: list[bytes] = []

    def _malloc(self, address: Any, size: int) -> int:
        address._obj.value = 4096
        return self._told(2 if size > 1000 else 0)

    def _told(self, status: int) -> int:
        self.last_error = status or self.last_error
        return status

    def _forget(self) -> int:
        forgotten, self.last_error = self.last_error, 0
        return forgotten

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


def test_a_failure_is_forgotten_once_it_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engines have the same runtime, and would take it for a failure of their own kernels."""
    library = FakeLibrary()
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    with pytest.raises(BackendError, match="cudaErrorMemoryAllocation"):
        open_libraries()("cudaMalloc", 2000)
    assert library.last_error == 0


def test_a_failure_of_cuda_bindings_is_forgotten_too(
    cuda_bindings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    runtime = cuda_bindings.runtime
    full = runtime.cudaError_t.cudaErrorMemoryAllocation

    def last_error() -> Any:
        asked.append("asked")
        return (full,)

    monkeypatch.setattr(runtime, "cudaMalloc", lambda size: (full, 0))
    monkeypatch.setattr(runtime, "cudaGetLastError", last_error)
    with pytest.raises(BackendError, match="cudaErrorMemoryAllocation"):
        providers.open_bindings()("cudaMalloc", 256)
    assert asked == ["asked"]


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
    assert there["libcudart.so.13"].last_error == 0


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


def test_importing_the_runtime_loads_no_gpu_package() -> None:
    packages = ["cuda", "cuda.bindings", "pycuda", "tensorrt", "tensorrt_rtx", "cupy"]
    command = (
        f"import sys, florence_edge.cli.main; print([p for p in {packages} if p in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", command], check=True, capture_output=True)
    assert done.stdout.strip() == b"[]"
