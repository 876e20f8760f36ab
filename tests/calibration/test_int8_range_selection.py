"""Limits on distributions whose best limit is known, or can be found by trying all."""

import numpy as np
import pytest

from florence_edge_calibration import Float64s
from florence_edge_calibration.quantization.histogram import ChannelHistogram, rounding_errors
from florence_edge_calibration.quantization.range_selection import (
    DEFAULT_METHOD,
    LEVELS,
    METHODS,
    limit_by_entropy,
    limit_by_minmax,
    limit_by_mse,
    limit_by_percentile,
)

from .plain_histogram import histogram_of

ONE = np.ones(1)


def normal(count: int = 100_000, channels: int = 1) -> Float64s:
    return np.random.default_rng(0).standard_normal((count, channels))


def with_outlier(size: float) -> ChannelHistogram:
    """Normal values and a single one far out."""
    values = normal()
    values[17] = size
    return histogram_of(values)


@pytest.mark.parametrize("method", METHODS)
def test_even_values_are_hardly_cut(method: str) -> None:
    values = np.random.default_rng(1).uniform(-3, 3, (100_000, 1))
    assert METHODS[method](histogram_of(values), ONE) == pytest.approx(3, rel=0.1)


@pytest.mark.parametrize("method", METHODS)
def test_no_limit_is_beyond_the_largest_magnitude(method: str) -> None:
    for values in (normal(), np.square(normal()), normal() * 1e-3, -np.abs(normal())):
        largest = np.abs(values).max()
        limit = METHODS[method](histogram_of(values), ONE)
        assert largest / 40 < limit <= largest * (1 + 1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_what_is_always_zero_gives_a_limit_of_zero(method: str) -> None:
    assert METHODS[method](histogram_of(np.zeros((50, 2))), np.ones(2)) == 0


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", [1e6, 1e11])
def test_magnitudes_beyond_the_histogram_are_not_cut(method: str, size: float) -> None:
    """All its last bin says of them is that they are beyond 55,000."""
    values = normal(1000, channels=3) * np.array([1, size, 2])
    largest = np.float32(np.abs(values).max())
    assert METHODS[method](histogram_of(values), np.ones(3)) == largest


def test_minmax_cuts_nothing() -> None:
    values = normal(1000, channels=3) * np.array([1, 50, 2])
    assert limit_by_minmax(histogram_of(values), np.ones(3)) == np.float32(np.abs(values).max())


def test_percentile_leaves_one_in_ten_thousand_outside() -> None:
    values = np.random.default_rng(2).exponential(size=(1_000_000, 1))
    limit = limit_by_percentile(histogram_of(values), ONE)
    assert 0.00002 < (values > limit).mean() < 0.0002


@pytest.mark.parametrize("size", [20.0, 1000.0])
def test_percentile_takes_no_notice_of_a_lone_outlier(size: float) -> None:
    assert limit_by_percentile(with_outlier(size), ONE) == pytest.approx(
        limit_by_percentile(histogram_of(normal()), ONE), rel=0.2
    )


def test_entropy_takes_no_notice_of_a_lone_outlier() -> None:
    assert limit_by_entropy(with_outlier(20.0), ONE) < 6
    assert limit_by_minmax(with_outlier(20.0), ONE) == 20


def test_mse_weighs_an_outlier_against_the_steps_of_all_others() -> None:
    """An outlier of 100 squared costs 100,000 values a tenth each; one of 5 costs them nothing."""
    assert limit_by_mse(with_outlier(6.0), ONE) > 4
    values = normal()
    values[::500] *= 30
    assert limit_by_mse(histogram_of(values), ONE) > 40


def tried(largest: float) -> Float64s:
    return largest * 2.0 ** (-np.arange(0, 40) / 8)


@pytest.mark.parametrize("power", [1, 3, 5])
def test_mse_is_the_best_of_all_limits_tried(power: int) -> None:
    values = normal(20_000, channels=4) ** power
    weights = np.array([1.0, 0.1, 3.0, 0.0])
    activation = histogram_of(values)
    limits = tried(float(activation.abs_max.max()))

    def error(limit: float) -> float:
        step = limit / LEVELS
        rounded = np.rint(values / step).clip(-LEVELS, LEVELS) * step
        return float(weights @ np.square(rounded - values).mean(axis=0))

    best = min(error(limit) for limit in limits)
    chosen = limit_by_mse(activation, weights)
    assert np.isclose(limits, chosen).any()
    assert error(chosen) < 1.1 * best  # a bin's values count as its middle
    by_bins = [weights @ rounding_errors(activation, limit / LEVELS, limit) for limit in limits]
    assert chosen == limits[int(np.argmin(by_bins))]


def test_mse_listens_to_the_channels_that_weigh() -> None:
    values = normal(20_000, channels=2) * np.array([1.0, 200.0])
    quiet = limit_by_mse(histogram_of(values), np.array([1.0, 0.0]))
    loud = limit_by_mse(histogram_of(values), np.array([1.0, 1.0]))
    assert loud > 500
    assert quiet < 40


def test_the_default_is_one_of_the_methods() -> None:
    assert set(METHODS) == {"percentile", "entropy", "mse", "minmax"}
    assert DEFAULT_METHOD in METHODS
