"""One linear of each kind: its product is that of the rounded numbers."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest

from florence_edge_calibration.graph_edit import find_linears
from florence_edge_calibration.quantization.equalize import choose
from florence_edge_calibration.quantization.observer import open_session
from florence_edge_calibration.quantization.quantize import quantize_qdq, quantize_qoperator
from florence_edge_calibration.quantization.range_selection import limit_by_minmax
from florence_edge_calibration.quantization.weight_only import (
    quantize_dynamically,
    quantize_weights,
)

from .plain_histogram import histogram_of

Array = npt.NDArray[Any]


def linear_model(weight: Array, bias: Array | None) -> ir.Model:
    """y = x weight + bias, named like the checkpoint's."""
    fed, given = weight.shape
    add = "z = MatMul(x, w) y = Add(z, b)" if bias is not None else "y = MatMul(x, w)"
    more = f", float[{given}] b" if bias is not None else ""
    text = (
        f"(float[N, {fed}] x, float[{fed}, {given}] w{more}) => (float[N, {given}] y) {{ {add} }}"
    )
    model = ir.from_onnx_text(f'<ir_version: 9, opset_import: ["" : 20]> g {text}')
    graph = model.graph
    constants = {"w": ("fc.weight", weight), "b": ("fc.bias", bias)}
    for value in list(graph.inputs)[1:]:
        name, values = constants[str(value.name)]
        assert values is not None
        graph.inputs.remove(value)
        value.name = name
        value.const_value = ir.tensor(values.astype(np.float32), name=name)
        graph.register_initializer(value)
    for node in graph:
        node.name = f"fc/{node.op_type}"
    return model


def weights(seed: int = 0) -> tuple[Array, Array, Array]:
    random = np.random.default_rng(seed)
    values = random.standard_normal((50, 32)) * random.uniform(0.2, 3, 32) + 0.3
    weight = random.standard_normal((32, 8)).astype(np.float32)
    return values.astype(np.float32), weight, random.standard_normal(8).astype(np.float32)


def ran(model: ir.Model, values: Array) -> Array:
    found: Array = open_session(model, Path(), threads=1).run(None, {"x": values})[0]
    return found


def rounded_weight(weight: Array) -> Array:
    scales = np.abs(weight).max(axis=0) / 127
    scales = np.nextafter(scales.astype(np.float16), np.float16(np.inf)).astype(np.float32)
    # the next float16 above, or itself where it is one: at most a thousandth larger
    rounded: Array = np.rint(weight / scales).clip(-127, 127) * scales
    return rounded


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("limit", [1.0, 0.4])
def test_portable_products_are_those_of_rounded_numbers(with_bias: bool, limit: float) -> None:
    values, weight, bias = weights()
    model = linear_model(weight, bias if with_bias else None)
    largest = float(np.abs(values).max()) * limit
    choice = choose(
        find_linears(model.graph), histogram_of(values), lambda *_: largest, equalize=False
    )
    quantize_qdq(model.graph, [choice])
    step = np.float32(np.float16(largest / 127))
    activation = np.rint(values / step).clip(-128, 127) * step
    expected = activation @ rounded_weight(weight) + (bias if with_bias else 0)
    found = ran(model, values)
    np.testing.assert_allclose(found, expected, atol=0.02 * np.abs(expected).max())
    assert np.abs(found - (values @ weight + (bias if with_bias else 0))).max() > 1e-3


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("shift", [0.0, 4.0, -4.0])
def test_cpu_products_are_those_of_rounded_numbers(with_bias: bool, shift: float) -> None:
    values, weight, bias = weights()
    values += np.float32(shift)  # a range that is not symmetric, as GELU's is not
    model = linear_model(weight, bias if with_bias else None)
    choice = choose(
        find_linears(model.graph), histogram_of(values), limit_by_minmax, equalize=False
    )
    quantize_qoperator(model.graph, [choice])
    low, high = min(values.min(), 0), max(values.max(), 0)
    step = (high - low) / 255
    activation = np.rint(values / step) * step
    expected = activation @ rounded_weight(weight) + (bias if with_bias else 0)
    np.testing.assert_allclose(ran(model, values), expected, atol=0.02 * np.abs(expected).max())


@pytest.mark.parametrize("with_bias", [True, False])
def test_weight_only_products_are_those_of_rounded_weights(with_bias: bool) -> None:
    values, weight, bias = weights()
    model = linear_model(weight, bias if with_bias else None)
    quantize_weights(model.graph)
    expected = values @ rounded_weight(weight) + (bias if with_bias else 0)
    np.testing.assert_allclose(ran(model, values), expected, atol=0.01 * np.abs(expected).max())


@pytest.mark.parametrize("with_bias", [True, False])
def test_dynamic_products_are_close_whatever_the_range(with_bias: bool) -> None:
    values, weight, bias = weights()
    model = linear_model(weight, bias if with_bias else None)
    quantize_dynamically(model.graph)
    for scale in (1.0, 1000.0):
        expected = scale * values @ weight + (bias if with_bias else 0)
        found = ran(model, np.float32(scale) * values)
        np.testing.assert_allclose(found, expected, atol=0.03 * np.abs(expected).max())


def test_what_is_kept_is_left_as_it_was() -> None:
    values, weight, bias = weights()
    for store in (quantize_weights, quantize_dynamically):
        model = linear_model(weight, bias)
        store(model.graph, frozenset({"fc"}))
        np.testing.assert_allclose(ran(model, values), values @ weight + bias, rtol=1e-4, atol=1e-4)


def test_outputs_keep_their_names_and_nothing_unused_is_left() -> None:
    _, weight, bias = weights()
    for kept in (True, False):
        model = linear_model(weight, bias)
        (quantize_qoperator if kept else quantize_qdq)(
            model.graph,
            [choose(find_linears(model.graph), histogram_of(weights()[0]), limit_by_minmax)],
        )
        assert [value.name for value in model.graph.outputs] == ["y"]
        assert "fc.weight" not in model.graph.initializers
        assert all(value.uses() for value in model.graph.initializers.values())
