"""Weights in blocks: what ONNX Runtime computes with them, and how close scales come."""

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnxruntime
import pytest

from florence_edge_calibration.graph_edit import drop_unused
from florence_edge_calibration.quantization.blockwise import (
    BLOCK_SIZES,
    BlockFormat,
    BlockWeight,
    dequantize_in_blocks,
    linear_weight,
    quantize_blocks,
    replace_with_matmul_nbits,
)

Array = npt.NDArray[Any]

INPUTS, OUTPUTS = 96, 24
FLOAT = ir.DataType.FLOAT


def weight_of(inputs: int = INPUTS, outputs: int = OUTPUTS, seed: int = 0) -> Array:
    """Weights with a few large ones, as trained ones have."""
    values: Array = np.random.default_rng(seed).standard_t(5, size=(inputs, outputs)) * 0.05
    return values.astype(np.float32)


def constant(name: str, values: Array) -> ir.Value:
    tensor = ir.tensor(np.ascontiguousarray(values), name=name)
    kind = ir.TensorType(tensor.dtype)
    return ir.Value(name=name, shape=ir.Shape(values.shape), type=kind, const_value=tensor)


def graph_of(op_type: str, weight: Array, bias: Array | None = None) -> ir.Model:
    """A product of x [N, inputs]; a Gemm transposes its weight, as ours do."""
    inputs, outputs = weight.shape
    x = ir.Value(name="x", shape=ir.Shape(["N", inputs]), type=ir.TensorType(FLOAT))
    y = ir.Value(name="y", shape=ir.Shape(["N", outputs]), type=ir.TensorType(FLOAT))
    gemm = op_type == "Gemm"
    constants = [constant("layer.weight", weight.T if gemm else weight)]
    if bias is not None:
        constants.append(constant("layer.bias", bias))
    attributes = {"transB": 1} if gemm else None
    node = ir.node(op_type, [x, *constants], attributes, outputs=[y], name=f"layer/{op_type}_1")
    graph = ir.Graph(
        [x], [y], nodes=[node], initializers=constants, opset_imports={"": 20}, name="g"
    )
    return ir.Model(graph, ir_version=10)


def run(model: ir.Model, x: Array) -> Array:
    options = onnxruntime.SessionOptions()
    # Otherwise ONNX Runtime itself makes MatMulNBits of blocks, and rounds x, too.
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    session = onnxruntime.InferenceSession(
        ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    (y,) = session.run(None, {"x": x})
    found: Array = y
    return found


def relative_error(weight: BlockWeight, expected: Array, importance: Array | None = None) -> float:
    counts = np.ones(len(expected)) if importance is None else importance
    error = ((weight.dequantized() - expected) ** 2).sum(axis=1) @ counts
    return float(np.sqrt(error / ((expected**2).sum(axis=1) @ counts)))


def product_of(model: ir.Model) -> ir.Node:
    return next(node for node in model.graph if node.op_type in ("MatMul", "Gemm"))


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("size", BLOCK_SIZES)
@pytest.mark.parametrize("bits", [4, 8])
def test_onnx_runtime_multiplies_by_what_the_blocks_stand_for(
    bits: int, size: int, symmetric: bool
) -> None:
    blocks = BlockFormat(bits=bits, size=size, symmetric=symmetric, negative_scales=symmetric)
    model = graph_of("MatMul", weight_of())
    weight = quantize_blocks(linear_weight(product_of(model)), blocks)
    replace_with_matmul_nbits(model.graph, product_of(model), weight)
    drop_unused(model.graph)
    x = np.random.default_rng(1).normal(size=(3, INPUTS)).astype(np.float32)
    assert [node.op_type for node in model.graph] == ["MatMulNBits"]
    assert "layer.weight" not in model.graph.initializers
    np.testing.assert_allclose(run(model, x), x @ weight.dequantized(), atol=1e-5)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [4, 8])
def test_blocks_behind_dequantize_linear_are_the_same(bits: int, symmetric: bool) -> None:
    model = graph_of("MatMul", weight_of())
    blocks = BlockFormat(bits=bits, size=32, symmetric=symmetric)
    weight = quantize_blocks(linear_weight(product_of(model)), blocks)
    dequantize_in_blocks(model.graph, product_of(model), weight)
    drop_unused(model.graph)
    x = np.random.default_rng(1).normal(size=(3, INPUTS)).astype(np.float32)
    assert model.graph.opset_imports[""] == 21
    np.testing.assert_allclose(run(model, x), x @ weight.dequantized(), atol=1e-5)


@pytest.mark.parametrize("replaces", [True, False])
def test_a_gemm_keeps_its_bias(replaces: bool) -> None:
    bias = np.random.default_rng(2).normal(size=OUTPUTS).astype(np.float32)
    model = graph_of("Gemm", weight_of(), bias)
    node = product_of(model)
    np.testing.assert_array_equal(linear_weight(node), weight_of())
    weight = quantize_blocks(linear_weight(node), BlockFormat(size=16))
    if replaces:
        replace_with_matmul_nbits(model.graph, node, weight)
    else:
        dequantize_in_blocks(model.graph, node, weight)
    drop_unused(model.graph)
    x = np.random.default_rng(1).normal(size=(3, INPUTS)).astype(np.float32)
    np.testing.assert_allclose(run(model, x), x @ weight.dequantized() + bias, atol=1e-5)


@pytest.mark.parametrize("size", BLOCK_SIZES)
def test_scales_that_are_searched_for_lose_less_than_the_largest_weight_s(size: int) -> None:
    weight = weight_of(256, 64)
    parts = weight.T.reshape(64, -1, size)
    scales = np.abs(parts).max(axis=-1, keepdims=True) / 7
    plain = float(np.sqrt(np.mean((np.rint(parts / scales) * scales - parts) ** 2)))
    plain /= float(np.sqrt(np.mean(weight**2)))
    symmetric = relative_error(quantize_blocks(weight, BlockFormat(size=size)), weight)
    negative = BlockFormat(size=size, negative_scales=True)
    zero_points = BlockFormat(size=size, symmetric=False)
    assert symmetric < 0.98 * plain
    assert relative_error(quantize_blocks(weight, negative), weight) < 0.98 * symmetric
    assert relative_error(quantize_blocks(weight, zero_points), weight) < 0.92 * symmetric


def test_what_counts_more_loses_less() -> None:
    weight = weight_of(256, 64)
    importance = np.ones(256)
    importance[::16] = 1000  # two of a block's inputs
    blocks = BlockFormat(size=32)
    plain, weighted = quantize_blocks(weight, blocks), quantize_blocks(weight, blocks, importance)
    errors = [relative_error(each, weight, importance) for each in (plain, weighted)]
    assert errors[1] < 0.8 * errors[0]


def test_scales_are_positive_unless_they_may_be_negative() -> None:
    weight = weight_of()
    assert (quantize_blocks(weight, BlockFormat()).scales > 0).all()
    assert (quantize_blocks(weight, BlockFormat(negative_scales=True)).scales < 0).any()


def test_zeros_and_tiny_weights_stay_what_they_are() -> None:
    weight = np.zeros((64, 4), dtype=np.float32)
    assert not quantize_blocks(weight, BlockFormat()).dequantized().any()
    assert not quantize_blocks(weight, BlockFormat(symmetric=False)).dequantized().any()
    weight[:, 1] = 1e-30
    assert np.isfinite(quantize_blocks(weight, BlockFormat()).dequantized()).all()


def test_a_block_of_one_sign_needs_no_level_below_zero() -> None:
    weight = np.random.default_rng(0).uniform(0.5, 1, size=(32, 8)).astype(np.float32)
    found = quantize_blocks(weight, BlockFormat(symmetric=False))
    assert relative_error(found, weight) < 0.03


def test_bytes_on_disk() -> None:
    weight = quantize_blocks(weight_of(128, 10), BlockFormat(size=64))
    assert weight.nbytes() == 128 * 10 // 2 + 2 * 10 * 4
    assert weight.packed().shape == (10, 2, 32)
    zero_points = quantize_blocks(weight_of(96, 10), BlockFormat(size=32, symmetric=False))
    assert zero_points.packed_zero_points().shape == (10, 2)  # of three blocks


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match="blocks of 24 weights with 4 bits"):
        BlockFormat(size=24)
    with pytest.raises(ValueError, match="with 5 bits"):
        BlockFormat(bits=5)
    with pytest.raises(ValueError, match="expected \\[inputs, outputs\\]"):
        quantize_blocks(np.zeros(4, dtype=np.float32), BlockFormat())
    model = graph_of("MatMul", weight_of())
    weight = quantize_blocks(weight_of(), BlockFormat(size=64))
    with pytest.raises(ValueError, match="96 inputs in blocks of 64"):
        dequantize_in_blocks(model.graph, product_of(model), weight)
    x = ir.Value(name="x")
    with pytest.raises(ValueError, match="expected a MatMul or Gemm"):
        linear_weight(ir.node("Add", [x, x], name="add"))
