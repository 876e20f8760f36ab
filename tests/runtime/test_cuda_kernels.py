"""kernels.cu: compiled by NVRTC, compiled for the host beside its double in numpy, on a GPU."""

import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from florence_edge import BackendError
from florence_edge.cuda import api
from florence_edge.cuda.device import Cuda, open_cuda
from florence_edge.cuda.kernels import PRECISION_BITS, Kernels, compile_kernels
from florence_edge.cuda.providers import open_bindings

from . import fake_kernels
from .fake_cuda import FakeCuda
from .host_kernels import Launch
from .on_gpu import require_gpu


@pytest.fixture
def fake() -> FakeCuda:
    return FakeCuda()


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


def need_nvrtc(cuda_bindings: Any) -> None:
    try:
        cuda_bindings.nvrtc.nvrtcVersion()
    except RuntimeError as error:
        pytest.skip(f"pip install nvidia-cuda-nvrtc: {error}")


def test_nvrtc_compiles_the_kernels_for_jetsons_and_servers(cuda_bindings: Any) -> None:
    need_nvrtc(cuda_bindings)
    for capability in ((8, 7), (9, 0), (11, 0), (12, 0)):
        cubin = compile_kernels(open_bindings(), capability)
        assert cubin.startswith(b"\x7fELF")
        assert all(name.encode() in cubin for name in fake_kernels.SIGNATURES)


def test_nvrtc_that_does_not_know_the_gpu_says_so(cuda_bindings: Any) -> None:
    need_nvrtc(cuda_bindings)
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


def test_no_kernel_needs_memory_of_its_threads(cuda_bindings: Any) -> None:
    """An array that is not unrolled into registers would lie there, and its loops wait for it."""
    need_nvrtc(cuda_bindings)
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


def test_the_kernels_travel_with_the_package() -> None:
    assert os.path.getsize(Path(api.__file__).with_name("kernels.cu")) > 0
