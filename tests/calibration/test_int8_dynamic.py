"""Products with one range for all they read: inputs that stick out are multiplied apart."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest

from florence_edge_calibration.quantization.observer import open_session
from florence_edge_calibration.quantization.weight_only import quantize_dynamically

Array = npt.NDArray[Any]

WIDTH, UNITS = 32, 64
OUTLIERS, FACTOR = [3, 40], np.float32(64)
PAIRS = {
    "decoder.layers.0.self_attn.v_proj": "decoder.layers.0.self_attn.out_proj",
    "decoder.layers.0.fc1": "decoder.layers.0.fc2",
}


def two_linears(names: tuple[str, str], weights: tuple[Array, Array]) -> ir.Model:
    """z = (x first) second, the names and scopes as in a decoder."""
    text = (
        f"(float[N, {WIDTH}] x, float[{WIDTH}, {UNITS}] a, float[{UNITS}, {WIDTH}] b) => "
        f"(float[N, {WIDTH}] z) {{ y = MatMul(x, a) z = MatMul(y, b) }}"
    )
    model = ir.from_onnx_text(f'<ir_version: 9, opset_import: ["" : 20]> g {text}')
    for value, name, weight in zip(list(model.graph.inputs)[1:], names, weights, strict=True):
        model.graph.inputs.remove(value)
        value.name = f"{name}.weight"
        value.const_value = ir.tensor(weight, name=value.name)
        model.graph.register_initializer(value)
    for node, name in zip(model.graph, names, strict=True):
        node.name = f"{name}/MatMul"
    return model


def planted(factor: np.float32) -> tuple[Array, Array]:
    """Two weights, some units between which are larger, what reads them smaller."""
    random = np.random.default_rng(0)
    first = random.standard_normal((WIDTH, UNITS)).astype(np.float32)
    second = random.standard_normal((UNITS, WIDTH)).astype(np.float32)
    first[:, OUTLIERS] *= factor
    second[OUTLIERS] /= factor
    return first, second


def error_of(model: ir.Model, x: Array, expected: Array) -> float:
    found = open_session(model, Path(), threads=1).run(None, {"x": x})[0]
    return float(np.sqrt(np.mean((found - expected) ** 2) / np.mean(expected**2)))


@pytest.mark.parametrize("names", PAIRS.items())
def test_inputs_that_stick_out_cost_nothing(names: tuple[str, str]) -> None:
    x = np.random.default_rng(1).standard_normal((40, WIDTH)).astype(np.float32)
    first, second = planted(np.float32(1))
    errors = []
    for factor in (np.float32(1), FACTOR):
        model = two_linears(names, planted(factor))
        quantize_dynamically(model.graph)
        errors.append(error_of(model, x, x @ first @ second))
    assert errors[0] < 0.02
    assert errors[1] < 1.2 * errors[0]
    assert [node.op_type for node in model.graph].count("MatMul") == 1  # that of the outliers


def test_without_knowing_them_they_cost_much() -> None:
    x = np.random.default_rng(1).standard_normal((40, WIDTH)).astype(np.float32)
    first, second = planted(FACTOR)
    model = two_linears(("decoder.first", "decoder.second"), (first, second))
    quantize_dynamically(model.graph)
    assert error_of(model, x, x @ first @ second) > 0.1


def test_attention_to_the_prompt_is_judged_by_what_reads_its_values() -> None:
    """Its values are made in another graph."""
    names = ("decoder.first", "decoder.layers.0.encoder_attn.out_proj")
    model = two_linears(names, planted(FACTOR))
    quantize_dynamically(model.graph)
    gathered = [node for node in model.graph if node.op_type == "Gather"]
    places = [node.inputs[1] for node in gathered]
    assert len(places) == 1
    assert places[0] is not None
    assert places[0].const_value is not None
    assert places[0].const_value.numpy().tolist() == OUTLIERS


def test_weights_without_outliers_get_no_product_apart() -> None:
    for names in PAIRS.items():
        model = two_linears(names, planted(np.float32(1)))
        quantize_dynamically(model.graph)
        assert {node.op_type for node in model.graph} == {"DynamicQuantizeMatMul"}


def test_where_many_stick_out_none_does() -> None:
    random = np.random.default_rng(0)
    first = random.standard_normal((WIDTH, UNITS)).astype(np.float32)
    first[:, : UNITS // 4] *= FACTOR
    second = random.standard_normal((UNITS, WIDTH)).astype(np.float32)
    model = two_linears(("decoder.layers.0.fc1", "decoder.layers.0.fc2"), (first, second))
    quantize_dynamically(model.graph)
    assert {node.op_type for node in model.graph} == {"DynamicQuantizeMatMul"}
