"""Scales that float16 holds, weights within half a step, and the predicted error of outputs."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from florence_edge_calibration.quantization.scales import (
    output_error,
    quantize_weight,
    representable,
    weight_power,
)

from .int8_errors import pair_sums
from .plain_histogram import histogram_of

_WEIGHTS = arrays.arrays(
    np.float32, st.tuples(*[st.integers(1, 6)] * 2), elements=st.floats(-(2.0**9), 2.0**9, width=16)
)


@given(st.floats(2.0**-20, 511, width=32))
def test_a_scale_is_the_next_number_that_float16_holds(wanted: float) -> None:
    (found,) = representable([wanted])
    assert found == np.float32(np.float16(found))
    assert found >= wanted
    assert found > 0
    below = np.nextafter(np.float16(found), np.float16(0))
    assert float(below) < wanted or below == 0


def test_a_scale_of_nothing_is_not_zero() -> None:
    assert representable(0.0) == 2.0**-24


@given(st.floats(2.0**-100, 2.0**-21, width=32) | st.floats(512, 2.0**100, width=32))
def test_a_scale_beyond_float16_stays_as_it_is(wanted: float) -> None:
    """What it scales would overflow there, or be rounded away."""
    np.testing.assert_array_equal(representable([wanted]), np.array([wanted], np.float32))


def test_one_tiny_scale_beside_others_is_the_smallest_that_float16_holds() -> None:
    expected = np.array([2.0**-24, 0.5], np.float32)
    np.testing.assert_array_equal(representable([1e-12, 0.5]), expected)


@given(_WEIGHTS, st.sampled_from([0, 1]))
def test_weights_err_by_half_a_step_at_most(weight: npt.NDArray[np.float32], out_axis: int) -> None:
    found = quantize_weight(weight, out_axis)
    assert found.values.dtype == np.int8
    assert found.scales.shape == (weight.shape[out_axis],)
    assert np.abs(found.values.astype(int)).max() <= 127
    scales = found.scales[None] if out_axis else found.scales[:, None]
    assert (np.abs(found.values * scales - weight) <= 0.5 * scales * (1 + 1e-5)).all()


@given(_WEIGHTS)
def test_each_output_uses_the_whole_range(weight: npt.NDArray[np.float32]) -> None:
    found = quantize_weight(weight, 1)
    largest = np.abs(found.values.astype(int)).max(axis=0)
    considerable = np.abs(weight).max(axis=0) > 2.0**-6  # below, float16's own steps are coarse
    assert (largest[considerable] >= 125).all()


@given(_WEIGHTS, st.sampled_from([0, 1]))
def test_no_pair_of_products_exceeds_16_bits(
    weight: npt.NDArray[np.float32], out_axis: int
) -> None:
    found = quantize_weight(weight, out_axis, multiplied_along=1 - out_axis)
    assert (255 * pair_sums(found.values, 1 - out_axis) <= np.iinfo(np.int16).max).all()
    scales = found.scales[None] if out_axis else found.scales[:, None]
    assert (np.abs(found.values * scales - weight) <= 0.5 * scales * (1 + 1e-5)).all()


def test_the_largest_pair_uses_the_whole_range() -> None:
    weight = np.random.default_rng(0).standard_normal((64, 32)).astype(np.float32)
    found = quantize_weight(weight, 1, multiplied_along=0)
    assert (pair_sums(found.values, 0).max(axis=-1) >= 126).all()
    alone = quantize_weight(weight, 1)
    assert (found.scales / alone.scales).mean() < 1.4  # where 7 bits would take 2
    assert pair_sums(alone.values, 0).max() > 128


def test_a_convolution_has_a_scale_for_each_output() -> None:
    weight = np.random.default_rng(0).standard_normal((5, 3, 2, 2)).astype(np.float32)
    weight[2] *= 100
    found = quantize_weight(weight, 0)
    wanted = representable(np.abs(weight).max(axis=(1, 2, 3)) / 127)
    np.testing.assert_array_equal(found.scales, wanted)
    assert found.values.shape == weight.shape


def test_the_power_of_a_channel_is_summed_over_all_readers() -> None:
    first, second = np.array([[1, 2], [0, 1]], np.float32), np.array([[3], [1]], np.float32)
    np.testing.assert_array_equal(weight_power([first, second]), [1 + 4 + 9, 1 + 1])


@pytest.mark.parametrize("share", [1.0, 0.6])
def test_the_predicted_error_is_that_of_rounded_products(share: float) -> None:
    random = np.random.default_rng(3)
    values = random.standard_normal((20_000, 32)) * random.uniform(0.1, 2, 32)
    rows = [random.standard_normal((32, width)).astype(np.float32) for width in (16, 8)]
    limit = share * float(np.abs(values).max())
    rounded = np.rint(values / limit * 127).clip(-127, 127) * limit / 127
    found = 0.0
    for weight in rows:
        quantized = quantize_weight(weight, 1)
        product = rounded @ (quantized.values * quantized.scales)
        found += float(np.square(product - values @ weight).mean(axis=0).sum())
    assert output_error(histogram_of(values), rows, limit) == pytest.approx(found, rel=0.15)
