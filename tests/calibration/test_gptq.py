"""GPTQ: a product with its rounded weight is closer where it reads what was observed."""

from itertools import product

import numpy as np
import pytest

from florence_edge_calibration.quantization.blockwise import BlockFormat, quantize_blocks
from florence_edge_calibration.quantization.gptq import quantize_by_inputs

FORMATS = (
    BlockFormat(bits=4, size=16, symmetric=False),
    BlockFormat(bits=4, size=32, negative_scales=True),
    BlockFormat(bits=8, size=32),
)


def read_rows(count: int, inputs: int, seed: int = 0) -> np.ndarray:
    """Rows whose inputs go together, as activations do, with a mean that is not zero."""
    random = np.random.default_rng(seed)
    mixed = random.normal(size=(count, inputs // 4)) @ random.normal(size=(inputs // 4, inputs))
    return (mixed + 0.3 * random.normal(size=(count, inputs)) + 1).astype(np.float32)


@pytest.mark.parametrize(("form", "inputs"), list(product(FORMATS, (64, 72))))
def test_a_product_is_closer_than_with_each_weight_at_its_nearest(
    form: BlockFormat, inputs: int
) -> None:
    rows, held_out = np.split(read_rows(2000, inputs), 2)
    weight = np.random.default_rng(1).normal(size=(inputs, 24)).astype(np.float32)
    found = quantize_by_inputs(weight, form, (rows.T @ rows).astype(np.float64))
    nearest = quantize_blocks(weight, form)
    expected = held_out @ weight
    errors = [np.abs(held_out @ one.dequantized() - expected).mean() for one in (found, nearest)]
    assert errors[0] < 0.7 * errors[1]
    assert found.format == form
    assert found.levels.shape == nearest.levels.shape
    assert found.packed().shape == nearest.packed().shape
    assert found.packed_zero_points().shape == nearest.packed_zero_points().shape
    assert np.abs(found.dequantized() - weight).max() < 2 * np.abs(weight).max()


def test_inputs_that_are_independent_are_rounded_to_their_nearest() -> None:
    form = FORMATS[0]
    weight = np.random.default_rng(2).normal(size=(48, 8)).astype(np.float32)
    found = quantize_by_inputs(weight, form, np.eye(48))
    nearest = quantize_blocks(weight, form)
    np.testing.assert_array_equal(found.levels, nearest.levels)
    np.testing.assert_allclose(found.scales, nearest.scales, rtol=1e-3)  # float16's


def test_inputs_that_were_never_seen_do_no_harm() -> None:
    rows = read_rows(500, 64)
    rows[:, 5:9] = 0
    weight = np.random.default_rng(3).normal(size=(64, 8)).astype(np.float32)
    for gram in (rows.T @ rows, np.zeros((64, 64))):
        found = quantize_by_inputs(weight, FORMATS[0], gram.astype(np.float64)).dequantized()
        assert np.isfinite(found).all()
        assert np.abs(found - weight)[5:9].max() < 0.3


def test_a_gram_matrix_of_another_weight_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(64, 8\) with a Gram matrix of \(48, 48\)"):
        quantize_by_inputs(np.zeros((64, 8), dtype=np.float32), FORMATS[0], np.eye(48))
