"""Range selection: the clipping limit of an activation, the magnitude that becomes int8's 127."""

from collections.abc import Callable

import numpy as np

from .. import Float64s
from .histogram import BINS_AN_OCTAVE, CENTRES, LARGEST, ChannelHistogram, rounding_errors

LEVELS = 127  # symmetric int8: -127 ... 127, with zero point 0

_PERCENTILE = 0.9999
_LINEAR_BINS = 2048  # of the entropy method, as in TensorRT's own calibrator
_TRIED_LIMITS = 2.0 ** (-np.arange(0, 40) / 8)  # of the largest magnitude; mse and entropy

RangeMethod = Callable[[ChannelHistogram, Float64s], float]
"""A histogram, and [channels] how much an error of each weighs in the output -> the limit."""


def limit_by_minmax(histogram: ChannelHistogram, weights: Float64s) -> float:
    """The largest magnitude: nothing is clipped."""
    return float(histogram.abs_max.max())


def limit_by_percentile(histogram: ChannelHistogram, weights: Float64s) -> float:
    """The magnitude that 99.99 % of all values stay below."""
    reached = np.cumsum(histogram.counts.sum(axis=0))
    place = int(np.searchsorted(reached, _PERCENTILE * reached[-1]))
    upper_edge = CENTRES[place] * 2 ** (0.5 / BINS_AN_OCTAVE)
    return min(float(upper_edge), limit_by_minmax(histogram, weights))


def limit_by_mse(histogram: ChannelHistogram, weights: Float64s) -> float:
    """The limit with the smallest squared error in what the linears compute."""
    limits = limit_by_minmax(histogram, weights) * _TRIED_LIMITS
    errors = [weights @ rounding_errors(histogram, limit / LEVELS, limit) for limit in limits]
    return float(limits[int(np.argmin(errors))])


def limit_by_entropy(histogram: ChannelHistogram, weights: Float64s) -> float:
    """The limit with the smallest Kullback-Leibler divergence of clipped from quantized values.

    As in Migacz, "8-bit Inference with TensorRT" (GTC 2017), over 2,048 even bins.
    """
    largest = limit_by_minmax(histogram, weights)
    edges = np.linspace(0, largest, _LINEAR_BINS + 1)
    all_counts = histogram.counts.sum(axis=0)
    counts, _ = np.histogram(CENTRES.clip(max=largest), bins=edges, weights=all_counts)
    counts = _smoothed(counts.astype(np.float64))
    limits = largest * _TRIED_LIMITS
    kept = np.maximum(LEVELS + 1, np.rint(_TRIED_LIMITS * _LINEAR_BINS).astype(int))
    divergences = [_divergence(counts, bins) for bins in kept]
    return float(limits[int(np.argmin(divergences))])


def _smoothed(counts: Float64s) -> Float64s:
    """Spread what logarithmic bins put into single even bins over the empty ones before them."""
    filled = np.flatnonzero(counts)
    starts = np.concatenate([[0], filled[:-1] + 1])
    smooth = np.zeros_like(counts)
    for start, end in zip(starts, filled, strict=True):
        smooth[start : end + 1] = counts[end] / (end + 1 - start)
    return smooth


def _divergence(counts: Float64s, kept: int) -> float:
    """Of the distribution clipped after `kept` bins from the same one in LEVELS + 1 levels."""
    reference = counts[:kept].copy()
    reference[-1] += counts[kept:].sum()
    levels = np.minimum(np.arange(kept) * (LEVELS + 1) // kept, LEVELS)
    filled = counts[:kept] > 0
    totals = np.bincount(levels, weights=counts[:kept], minlength=LEVELS + 1)
    members = np.bincount(levels, weights=filled, minlength=LEVELS + 1)
    quantized = np.where(filled, (totals / np.maximum(members, 1))[levels], 0.0)
    p, q = reference / reference.sum(), quantized / max(quantized.sum(), 1e-300)
    positive = p > 0
    return float(np.sum(p[positive] * np.log(p[positive] / np.maximum(q[positive], 1e-12))))


def _in_range(method: RangeMethod) -> RangeMethod:
    """The method, but for magnitudes beyond the histogram: it cannot tell there what is lost."""

    def limit(histogram: ChannelHistogram, weights: Float64s) -> float:
        largest = limit_by_minmax(histogram, weights)
        return method(histogram, weights) if largest <= LARGEST else largest

    return limit


METHODS: dict[str, RangeMethod] = {
    "percentile": _in_range(limit_by_percentile),
    "entropy": _in_range(limit_by_entropy),
    "mse": _in_range(limit_by_mse),
    "minmax": limit_by_minmax,
}
DEFAULT_METHOD = "mse"  # the smallest expected error for nearly every block of the miniature
