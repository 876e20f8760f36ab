"""int8 weights with a scale per output channel, and the error that int8 adds to a linear.

Where int8 weights are multiplied by uint8 activations, x86-64 processors without VNNI add two
neighbouring products in 16 bits, where they saturate (vpmaddubsw; AMD before Zen 4, Intel before
Cascade Lake, most Atoms). Such weights get steps that leave no pair room for it, so that every
processor computes the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .. import Float32s, Float64s
from ..fp16 import fits_half
from .histogram import ChannelHistogram, mean_squares, rounding_errors
from .range_selection import LEVELS

_MIN_SCALE = 2.0**-24  # float16's smallest number: a scale must not become zero there
_PAIR = 2  # inputs whose products are added in 16 bits: 255 * (|w1| + |w2|) must be below 2 ** 15


@dataclass(frozen=True, slots=True, eq=False)
class QuantizedWeight:
    """A weight in symmetric int8, with a float32 scale per output channel."""

    values: npt.NDArray[np.int8]
    scales: Float32s


def quantize_weight(
    weight: Float32s, out_axis: int, *, multiplied_along: int | None = None
) -> QuantizedWeight:
    """Round a weight to int8, symmetric, with the largest magnitude of each output as 127.

    Scales are numbers that float16 holds too, so that a pass to float16 changes nothing.

    Args:
        weight: the float weight.
        out_axis: its axis that counts outputs.
        multiplied_along: its axis that counts inputs, where uint8 activations are multiplied by it.
            Then the largest pair of neighbours becomes 127 together, and what rounding adds is 1 at
            most: 255 * 128 is below 2 ** 15. That costs a third of a bit.
    """
    others = tuple(axis for axis in range(weight.ndim) if axis != out_axis)
    if multiplied_along is None:
        largest = np.abs(weight).max(axis=others)
    else:
        largest = np.moveaxis(_pairs(weight, multiplied_along), out_axis, 0)
        largest = largest.reshape(len(largest), -1).max(axis=1)
    scales = representable(largest / LEVELS)
    shape = [1] * weight.ndim
    shape[out_axis] = -1
    steps = np.rint(weight / scales.reshape(shape)).clip(-LEVELS, LEVELS)
    return QuantizedWeight(steps.astype(np.int8), scales)


def _pairs(weight: Float32s, in_axis: int) -> Float32s:
    """What neighbours along an axis add up to, of one sign; the axis is half as long."""
    room = [(0, 0)] * weight.ndim
    room[in_axis] = (0, weight.shape[in_axis] % _PAIR)
    even = np.moveaxis(np.pad(weight, room), in_axis, -1)
    pairs = even.reshape(*even.shape[:-1], -1, _PAIR)
    sums = np.maximum(pairs.clip(min=0).sum(axis=-1), -pairs.clip(max=0).sum(axis=-1))
    return np.moveaxis(sums, -1, in_axis)


def representable(scales: npt.ArrayLike) -> Float32s:
    """The next larger numbers that float16 holds, as float32; zeros become the smallest.

    Scales that are all too small for float16, or of which one is too large, stay as they are; then
    what reads them stays float32 (see fp16.py).
    """
    wanted = np.asarray(scales, dtype=np.float32)
    if not fits_half(wanted):
        return np.maximum(wanted, np.finfo(np.float32).tiny)
    wanted = np.maximum(wanted, np.float32(_MIN_SCALE))
    half = wanted.astype(np.float16)
    larger = np.nextafter(half, np.float16(np.inf))
    return np.where(half.astype(np.float32) < wanted, larger, half).astype(np.float32)


def weight_power(rows: Sequence[Float32s]) -> Float64s:
    """Squared weight of each input channel over all outputs of weights [in, out], [in]."""
    powers = [np.sum(np.square(each, dtype=np.float64), axis=1) for each in rows]
    total: Float64s = np.sum(powers, 0)
    return total


def output_error(histogram: ChannelHistogram, rows: Sequence[Float32s], limit: float) -> float:
    """Expected squared error of the outputs of linears that read one activation.

    Errors of channels are taken as independent: those of the activation pass through the weights,
    those of the weights (step ** 2 / 12 each) grow with the activation.
    """
    from_activation = weight_power(rows) @ rounding_errors(histogram, limit / LEVELS, limit)
    steps = [_pairs(each, 0).max(axis=0) / LEVELS for each in rows]
    from_weights = mean_squares(histogram).sum() * sum(
        float(np.sum(step**2)) / 12 for step in steps
    )
    return float(from_activation + from_weights)
