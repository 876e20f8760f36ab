"""The histogram of magnitudes a second time, in the plainest way."""

import numpy as np
import numpy.typing as npt

from florence_edge_calibration import Float64s
from florence_edge_calibration.quantization.histogram import (
    BINS,
    BINS_AN_OCTAVE,
    LOWEST_OCTAVE,
    ChannelHistogram,
)

LOWEST = 2.0**LOWEST_OCTAVE


def bin_of(values: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Where a magnitude belongs, by search over the edges."""
    edges = LOWEST * 2.0 ** (np.arange(BINS - 1) / BINS_AN_OCTAVE)
    return np.searchsorted(edges, np.abs(values), side="right").astype(np.int64)


def histogram_of(values: Float64s) -> ChannelHistogram:
    """What observing rows [rows, channels] must give."""
    counts = np.stack([np.bincount(bin_of(column), minlength=BINS) for column in values.T])
    lows, highs = (edge.astype(np.float32) for edge in (values.min(axis=0), values.max(axis=0)))
    return ChannelHistogram(min_values=lows, max_values=highs, counts=counts)
