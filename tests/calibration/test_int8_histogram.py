"""Bins of magnitudes, and what is computed from them, against the values themselves."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from florence_edge_calibration import Float64s
from florence_edge_calibration.quantization.histogram import (
    BINS,
    BINS_AN_OCTAVE,
    CENTRES,
    LOWEST_OCTAVE,
    ChannelHistogram,
    mean_squares,
    rounding_errors,
)

from .plain_histogram import LOWEST, bin_of, histogram_of

HIGHEST = 2.0 ** (LOWEST_OCTAVE + (BINS - 1) / BINS_AN_OCTAVE)


def logarithmic(rows: int, channels: int, seed: int = 0) -> Float64s:
    """Values evenly spread over all magnitudes that bins tell apart, with both signs."""
    random = np.random.default_rng(seed)
    octaves = random.uniform(LOWEST_OCTAVE + 6, LOWEST_OCTAVE + 24, (rows, channels))
    signs: Float64s = random.choice([-1.0, 1.0], octaves.shape)
    return signs * 2**octaves


def test_a_bin_stands_for_the_middle_of_its_range() -> None:
    assert CENTRES.shape == (BINS,)
    np.testing.assert_array_equal(bin_of(CENTRES), np.arange(BINS))
    assert pytest.approx(55_109, rel=1e-3) == HIGHEST


def test_the_largest_magnitude_may_be_a_negative_one() -> None:
    found = histogram_of(np.array([[-3.0, 1.0], [2.0, 0.5]]))
    np.testing.assert_array_equal(found.abs_max, [3.0, 1.0])


@given(st.lists(st.integers(-20, 20), min_size=3, max_size=3), st.integers(0, 2**16))
def test_a_shift_is_a_division_of_channels(shifts: list[int], seed: int) -> None:
    values, wanted = logarithmic(200, 3, seed), np.array(shifts, dtype=np.int64)
    divided = histogram_of(values / 2.0 ** (wanted / BINS_AN_OCTAVE))
    shifted = histogram_of(values).shifted(wanted)
    np.testing.assert_array_equal(shifted.counts, divided.counts)
    np.testing.assert_allclose(shifted.min_values, divided.min_values, rtol=1e-6)
    np.testing.assert_allclose(shifted.max_values, divided.max_values, rtol=1e-6)


@given(st.integers(-300, 300))
def test_a_shift_loses_no_value(shift: int) -> None:
    before = histogram_of(np.concatenate([logarithmic(50, 1), np.zeros((5, 1))]))
    after = before.shifted(np.array([shift], dtype=np.int64))
    assert after.counts.sum() == before.counts.sum()
    assert (after.counts >= 0).all()


def test_what_a_shift_lifts_beyond_the_bins_stays_large() -> None:
    before = histogram_of(np.full((7, 1), 40_000.0))
    after = before.shifted(np.array([-40], dtype=np.int64))
    assert after.counts[0].argmax() == BINS - 1
    assert mean_squares(after)[0] > mean_squares(before)[0]


def test_zeros_stay_zeros() -> None:
    zeros = histogram_of(np.zeros((9, 1)))
    for shift in (-8, 0, 8):
        assert zeros.shifted(np.array([shift], dtype=np.int64)).counts[0, 0] == 9


def test_what_sinks_below_the_bins_is_zero() -> None:
    tiny = histogram_of(np.full((4, 1), 2 * LOWEST)).shifted(np.array([40], dtype=np.int64))
    assert tiny.counts[0, 0] == 4


def test_mean_squares_are_those_of_the_values() -> None:
    values = logarithmic(20_000, 2) * np.array([1.0, 30.0])
    expected = np.square(values).mean(axis=0)
    np.testing.assert_allclose(mean_squares(histogram_of(values)), expected, rtol=0.02)


def test_a_channel_nobody_has_seen_has_no_power() -> None:
    nothing = ChannelHistogram(
        min_values=np.zeros(1, np.float32),
        max_values=np.zeros(1, np.float32),
        counts=np.zeros((1, BINS), np.int64),
    )
    assert mean_squares(nothing) == 0
    assert rounding_errors(nothing, 1.0, 127.0) == 0


@pytest.mark.parametrize("share", [1.0, 0.5, 0.1])
def test_rounding_errors_are_those_of_rounded_values(share: float) -> None:
    """Samples drawn evenly from each bin, rounded one by one."""
    random = np.random.default_rng(4)
    places = bin_of(random.standard_normal(60_000))
    widths = 2 ** (random.uniform(-0.5, 0.5, places.shape) / BINS_AN_OCTAVE)
    values = CENTRES[places] * widths * random.choice([-1.0, 1.0], places.shape)
    limit = share * float(np.abs(values).max())
    step = limit / 127
    rounded = np.rint(values / step).clip(-127, 127) * step
    expected = np.square(rounded - values).mean()
    (found,) = rounding_errors(histogram_of(values[:, None]), step, limit)
    assert found == pytest.approx(expected, rel=0.15)  # the limit falls into the midst of a bin


def test_what_is_less_than_half_a_step_is_lost_entirely() -> None:
    small = histogram_of(np.full((10, 1), CENTRES[20]))
    (found,) = rounding_errors(small, 4 * float(CENTRES[20]), 1000.0)
    assert found == pytest.approx(CENTRES[20] ** 2)
