"""Resizing a frame on the GPU exactly as image.py does on the host: Pillow's bicubic filter.

Pillow shrinks with a filter as wide as the pixels that fall on one, in two passes, along lines and
along columns, each rounded to bytes, with weights in fixed point. The tables are made here as
Pillow makes them (Resample.c); `resample` in kernels.cu adds up. One rounding more or less would
stay within a grey level; the passes in the other order would not.
"""

import ctypes
import math
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import PIL

from .buffers import DeviceArray, DeviceView
from .device import Cuda
from .frame import DeviceFrame
from .kernels import PRECISION_BITS, Kernels

_MAX_BLOCKS_ALONG_Y = 65_535  # blocks of a launch (CUDA programming guide, compute capabilities)
_SUPPORT = 2.0  # reach of the bicubic filter, in pixels
_A = -0.5  # its shape; Pillow's value

Int32s = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Taps:
    """For each output: its first source pixel, how many there are, and their weights."""

    first: Int32s  # [outputs]
    count: Int32s  # [outputs]
    weights: Int32s  # [outputs, max taps], in units of 2 ** -PRECISION_BITS, zero beyond count


def taps_from_sizes(source: int, target: int) -> Taps:
    """How to resize a line of `source` pixels to `target`."""
    scale = source / target
    stretch = max(scale, 1.0)
    reach = _SUPPORT * stretch
    centres = (np.arange(target) + 0.5) * scale
    first = np.maximum((centres - reach + 0.5).astype(np.int64), 0)
    end = np.minimum((centres + reach + 0.5).astype(np.int64), source)
    offsets = np.arange(math.ceil(reach) * 2 + 1)
    distances = (first[:, None] + offsets - centres[:, None] + 0.5) / stretch
    weights = np.where(offsets < (end - first)[:, None], _bicubic(distances), 0.0)
    weights /= weights.sum(axis=1, keepdims=True)
    fixed = np.trunc(weights * (1 << PRECISION_BITS) + np.copysign(0.5, weights))
    return Taps(*(values.astype(np.int32) for values in (first, end - first, fixed)))


def _bicubic(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    x = np.abs(x)
    near = ((_A + 2) * x - (_A + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * _A
    values: npt.NDArray[np.float64] = np.where(x < 1, near, np.where(x < 2, far, 0.0))
    return values


def goes_down_first(size: tuple[int, int], side: int) -> bool:
    """Whether Pillow resizes columns before lines: since 13.0, where that saves it work."""
    width, height = size
    saves = height > side and height - side > 2 * (width - side)
    return saves and int(PIL.__version__.partition(".")[0]) >= 13


class Resizer:
    """Resizes frames of one size to the square that the model takes."""

    def __init__(self, cuda: Cuda, kernels: Kernels, size: tuple[int, int], side: int) -> None:
        self.size = size
        self._cuda = cuda
        self._kernels = kernels
        self._side = side
        self._down_first = goes_down_first(size, side)
        width, height = size
        half_way = (side, width, 3) if self._down_first else (height, side, 3)
        with ExitStack() as owned:
            self._across = _DeviceTaps(cuda, taps_from_sizes(width, side), owned)
            self._down = _DeviceTaps(cuda, taps_from_sizes(height, side), owned)
            self._half_way = cuda.array(half_way, np.uint8)
            owned.callback(self._half_way.close)
            self._owned = owned.pop_all()

    def resize(self, frame: DeviceFrame, square: DeviceView) -> None:
        """Enqueue the resize of `frame` into `square` [side, side, 3]."""
        if frame.stream is not None:
            self._cuda.wait_for(frame.stream)
        source = _Pixels(frame.address, frame.line, frame.step)
        half_way, target = (
            _Pixels(view.address, view.shape[1] * 3, 3) for view in (self._half_way.view, square)
        )
        width, height = self.size
        if self._down_first:
            self._pass(source.turned(), half_way.turned(), self._down, width)
            self._pass(half_way, target, self._across, self._side)
        else:
            self._pass(source, half_way, self._across, height)
            self._pass(half_way.turned(), target.turned(), self._down, self._side)

    def close(self) -> None:
        """Free the tables and the picture between the passes."""
        self._owned.close()

    def _pass(self, source: "_Pixels", target: "_Pixels", taps: "_DeviceTaps", lines: int) -> None:
        """Resize each of `lines` to the side."""
        # Neighbouring threads write neighbouring bytes, but only x takes more than 65,535 of them.
        lines_first = target.line < target.step or lines > _MAX_BLOCKS_ALONG_Y
        threads = (lines, self._side, 1) if lines_first else (self._side, lines, 1)
        numbers = (taps.max_taps, self._side, lines, int(lines_first))
        arguments: list[Any] = [
            *source.arguments(),
            *target.arguments(),
            *(ctypes.c_void_p(array.view.address) for array in taps.arrays),
            *map(ctypes.c_int, numbers),
        ]
        self._kernels.launch("resample", threads, arguments)


@dataclass(frozen=True, slots=True)
class _Pixels:
    """Where pixels lie: bytes from a line to the next, and along a line."""

    address: int
    line: int
    step: int

    def turned(self) -> "_Pixels":
        """The same pixels with columns for lines."""
        return _Pixels(self.address, self.step, self.line)

    def arguments(self) -> list[Any]:
        """As the kernel takes them."""
        return [ctypes.c_void_p(self.address), *map(ctypes.c_longlong, (self.line, self.step))]


class _DeviceTaps:
    """`Taps` in device memory."""

    def __init__(self, cuda: Cuda, taps: Taps, owned: ExitStack) -> None:
        self.max_taps = taps.weights.shape[1]
        self.arrays: list[DeviceArray] = []
        for values in (taps.first, taps.count, taps.weights):
            array = cuda.array(values.shape, np.int32)
            owned.callback(array.close)
            self.arrays.append(array)
            cuda.upload(array.view, values)
