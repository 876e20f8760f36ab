from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from florence_edge import BackendError, Florence2, ImageError, RequestError
from florence_edge.cuda import api
from florence_edge.cuda import device as cuda_device
from florence_edge.cuda.device import Cuda, open_cuda
from florence_edge.cuda.frame import DeviceFrame, frame_of, is_on_gpu
from florence_edge.cuda.kernels import Kernels
from florence_edge.cuda.resize import Resizer, goes_down_first, taps_from_sizes
from florence_edge.image import load_pictures, pixels

from .fake_cuda import FakeCuda, OnGpu
from .host_kernels import compile_for_host
from .on_gpu import require_gpu

Bytes = npt.NDArray[np.uint8]

# A robot's camera, portrait, tiny, of the model's size, and shapes where Pillow turns the passes.
SIZES = [(640, 480), (480, 640), (5, 3), (64, 64), (1, 1), (130, 70), (100, 999), (65, 200)]


def noise(width: int, height: int, channels: int = 3) -> Bytes:
    rng = np.random.default_rng(width + height)
    return rng.integers(0, 256, (height, width, channels), dtype=np.uint8)


def resized(fake: FakeCuda, frame: DeviceFrame, side: int) -> Bytes:
    gpu = Cuda(fake, 0)
    square = gpu.array((side, side, 3), np.uint8)
    kernels = Kernels(gpu)
    resizer = Resizer(gpu, kernels, frame.size, side)
    resizer.resize(frame, square.view)
    found = gpu.download(square.view)
    resizer.close()
    kernels.close()
    return found


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("side", [64, 96])
def test_a_frame_is_resized_as_pillow_resizes_it(size: tuple[int, int], side: int) -> None:
    fake = FakeCuda()
    values = noise(*size)
    found = resized(fake, frame_of(OnGpu(fake, values)), side)
    np.testing.assert_array_equal(found, pixels(Image.fromarray(values), side))


def test_pixels_may_lie_apart() -> None:
    """Three of four channels, of the left part of a wider picture."""
    fake = FakeCuda()
    values = noise(100, 40, 4)
    on_gpu = OnGpu(fake, values, shape=(40, 70, 3), strides=(400, 4, 1))
    expected = pixels(Image.fromarray(np.ascontiguousarray(values[:, :70, :3])), 64)
    np.testing.assert_array_equal(resized(fake, frame_of(on_gpu), 64), expected)


@pytest.mark.parametrize(("source", "target"), [(640, 64), (63, 64), (64, 64), (1, 64), (999, 96)])
def test_the_weights_of_an_output_add_up_to_one(source: int, target: int) -> None:
    taps = taps_from_sizes(source, target)
    sums = taps.weights.sum(axis=1) / 2**22
    np.testing.assert_allclose(sums, 1, atol=1e-5)
    assert (taps.first >= 0).all()
    assert (taps.first + taps.count <= source).all()
    assert (taps.count <= taps.weights.shape[1]).all()


def test_older_pillows_always_begin_with_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("PIL.__version__", "12.2.0")
    assert not goes_down_first((100, 999), 64)
    monkeypatch.setattr("PIL.__version__", "13.0.0")
    assert goes_down_first((100, 999), 64)
    assert not goes_down_first((999, 100), 64)


@pytest.mark.parametrize("lines_first", [0, 1])
def test_the_kernel_adds_up_as_its_double_in_numpy(
    tmp_path_factory: pytest.TempPathFactory, lines_first: int
) -> None:
    """kernels.cu itself, compiled for the host."""
    launch: Callable[..., None] = compile_for_host(tmp_path_factory.mktemp("kernels"))
    values, side, lines = noise(90, 7), 64, 7
    taps = taps_from_sizes(90, side)
    found = np.zeros((lines, side, 3), dtype=np.uint8)
    launch(
        "resample",
        (lines, side, 1) if lines_first else (side, lines, 1),
        *(values.ctypes.data, 90 * 3, 3, found.ctypes.data, side * 3, 3),
        *(array.ctypes.data for array in (taps.first, taps.count, taps.weights)),
        *(taps.weights.shape[1], side, lines, lines_first),
    )
    expected = Image.fromarray(values).resize((side, lines), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(found, np.asarray(expected))


# What a frame says of itself.


class TensorOnCpu:
    """As torch has them: with the attribute, which raises."""

    @property
    def __cuda_array_interface__(self) -> Any:
        raise AttributeError("Can't get __cuda_array_interface__ on non-CUDA tensor.")


def test_arrays_on_the_gpu_are_recognised_and_others_are_not() -> None:
    fake = FakeCuda()
    assert is_on_gpu(OnGpu(fake, noise(4, 4)))
    assert not is_on_gpu(np.zeros((4, 4, 3)))
    assert not is_on_gpu("picture.png")
    assert not is_on_gpu(Image.new("RGB", (4, 4)))
    assert not is_on_gpu(TensorOnCpu())


@pytest.mark.parametrize(
    ("interface", "message"),
    [
        ({"typestr": "<f4"}, "HxWx3 uint8 RGB, got <f4"),
        ({"shape": (4, 4)}, r"got \|u1 \[4, 4\]"),
        ({"shape": (4, 4, 4)}, "HxWx3"),
        ({"shape": (0, 4, 3)}, "no pixels"),
        ({"strides": (1, 4, 16)}, "contiguous"),
        ({"strides": (-12, 3, 1)}, "contiguous"),
    ],
)
def test_other_arrays_are_refused(interface: dict[str, Any], message: str) -> None:
    with pytest.raises(ImageError, match=message):
        frame_of(OnGpu(FakeCuda(), noise(4, 4), **interface))


def test_a_frame_that_is_still_being_written_is_waited_for() -> None:
    fake = FakeCuda()
    assert frame_of(OnGpu(fake, noise(4, 4))).stream is None
    resized(fake, frame_of(OnGpu(fake, noise(4, 4))), 64)
    assert "cudaStreamWaitEvent" not in fake.calls
    stream = fake.cudaStreamCreateWithFlags(api.STREAM_NON_BLOCKING)
    resized(fake, frame_of(OnGpu(fake, noise(4, 4), stream=stream)), 64)
    assert "cudaStreamWaitEvent" in fake.calls


def test_a_frame_that_names_no_stream_may_be_under_way_on_the_default_one() -> None:
    on_gpu = OnGpu(FakeCuda(), noise(4, 4))
    del on_gpu._interface["stream"]
    assert frame_of(on_gpu).stream == api.LEGACY_STREAM


def test_a_frame_can_be_seen_on_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeCuda()
    monkeypatch.setattr(cuda_device, "open_provider", lambda: fake)
    values = noise(30, 20, 4)
    frame = frame_of(OnGpu(fake, values, shape=(20, 30, 3), strides=(120, 4, 1)))
    held = len(fake.held)
    np.testing.assert_array_equal(np.asarray(frame.to_image()), values[..., :3])
    assert len(fake.held) == held


def test_a_batch_is_on_one_side() -> None:
    fake = FakeCuda()
    with pytest.raises(RequestError, match="1 of 2 pictures are on the GPU"):
        load_pictures([OnGpu(fake, noise(4, 4)), noise(4, 4)])


def test_the_cpu_engine_refuses_frames(tiny_model: Florence2) -> None:
    with pytest.raises(BackendError, match="device='cuda' or 'tensorrt'"):
        tiny_model.encode(OnGpu(FakeCuda(), noise(4, 4)))


@pytest.mark.gpu
@pytest.mark.parametrize("size", [(640, 480), (480, 640), (100, 999), (1920, 1080)])
def test_a_gpu_resizes_as_pillow_does(size: tuple[int, int]) -> None:
    require_gpu()
    gpu, side = open_cuda(), 768
    values = noise(*size)
    source = gpu.array(values.shape, np.uint8)
    gpu.upload(source.view, values)
    frame = DeviceFrame(
        owner=source,
        address=source.view.address,
        size=size,
        line=size[0] * 3,
        step=3,
        stream=None,
    )
    square = gpu.array((side, side, 3), np.uint8)
    Resizer(gpu, Kernels(gpu), size, side).resize(frame, square.view)
    found = gpu.download(square.view)
    np.testing.assert_array_equal(found, pixels(Image.fromarray(values), side))
