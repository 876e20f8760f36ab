"""Per-channel histograms of activations, with logarithmic bins that make equalization a shift.

A magnitude's bin is its place on a logarithmic scale, four bins an octave. To divide a channel by
2 ** (k / 4) is to move its counts by k bins, so the distribution behind any equalization, and the
error of any scale on it, follow from one pass over the pictures.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .. import Float32s, Float64s

BINS = 128
BINS_AN_OCTAVE = 4
LOWEST_OCTAVE = -16  # bin 0 holds what is smaller than 2 ** -16; the last bin, what exceeds 55,000

# Bin 1 begins at 2 ** LOWEST_OCTAVE; a bin stands for the middle of its range.
_EDGES = 2.0 ** (LOWEST_OCTAVE + np.arange(BINS) / BINS_AN_OCTAVE)
LARGEST = float(_EDGES[-1])  # the last bin also counts what is beyond
CENTRES: Float64s = np.concatenate([[0.0], _EDGES[:-1] * 2 ** (0.5 / BINS_AN_OCTAVE)])  # [BINS]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ChannelHistogram:
    """What calibration observed of the tensor that one or more linears read, channel by channel.

    `min_values` and `max_values` are exact, float32 [channels]; `counts`, int64 [channels, BINS],
    come from a sample of rows of every picture.
    """

    min_values: Float32s
    max_values: Float32s
    counts: npt.NDArray[np.int64]

    @property
    def abs_max(self) -> Float32s:
        """Largest magnitude of each channel, float32 [channels]."""
        return np.maximum(-self.min_values, self.max_values)

    def shifted(self, shifts: npt.NDArray[np.int64]) -> "ChannelHistogram":
        """The same activation with channel c divided by 2 ** (shifts[c] / 4)."""
        places = (np.arange(BINS)[None] - shifts[:, None]).clip(0, BINS - 1)
        places[:, 0] = 0  # what was zero stays zero
        counts = np.zeros_like(self.counts)
        np.add.at(counts, (np.arange(len(shifts))[:, None], places), self.counts)
        factor = (2.0 ** (shifts / BINS_AN_OCTAVE)).astype(np.float32)
        return ChannelHistogram(
            min_values=self.min_values / factor, max_values=self.max_values / factor, counts=counts
        )


def mean_squares(histogram: ChannelHistogram) -> Float64s:
    """Mean of x ** 2 of each channel, [channels]."""
    squares = histogram.counts @ CENTRES**2
    means: Float64s = squares / np.maximum(1, histogram.counts.sum(axis=1))
    return means


def rounding_errors(histogram: ChannelHistogram, step: float, limit: float) -> Float64s:
    """Mean squared error of each channel, [channels], when rounded to steps and clipped at a limit.

    Rounding errs by step ** 2 / 12 on average; what is less than half a step becomes zero.
    """
    errors = np.where(step / 2 > CENTRES, CENTRES**2, step**2 / 12)
    errors = np.where(limit < CENTRES, (CENTRES - limit) ** 2, errors)
    means: Float64s = (histogram.counts @ errors) / np.maximum(1, histogram.counts.sum(axis=1))
    return means
