"""int8 weights for the decoder, and weights of 4 bits for both text models: their linears.

A decoder step multiplies one token a beam: its time is the reading of weights, and the range of its
activations moves with every token. So for GPUs and the portable target its weights alone are int8,
with a scale per output channel behind DequantizeLinear, and activations stay float. For ONNX
Runtime's CPU its products are DynamicQuantizeMatMul, which finds the range of its input itself;
inputs that stick out are multiplied apart, in float.

Weights of 4 bits are in blocks (blockwise.py), for text encoder and decoder alike: MatMulNBits, or
for TensorRT blocks behind DequantizeLinear. The embedding is embedding.py's.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from .. import Float32s, Float64s
from ..graph_edit import (
    Insertion,
    LinearNode,
    drop_unused,
    find_linears,
    replace_node,
)
from .blockwise import (
    BLOCK_SIZES,
    INT8_ACTIVATIONS,
    BlockFormat,
    dequantize_in_blocks,
    quantize_blocks,
    replace_with_matmul_nbits,
)
from .recipe import Recipe, Target
from .scales import QuantizedWeight, quantize_weight

_FLOAT, _INT8 = ir.DataType.FLOAT, ir.DataType.INT8
# Larger blocks are smaller on disk and round more. TensorRT takes no zero points, which are worth a
# fifth of the error, and no size below 64 is documented there.
_BLOCKS: Mapping[Target, BlockFormat] = {
    "tensorrt": BlockFormat(size=64),
    "cpu": BlockFormat(size=32, symmetric=False),
    "portable": BlockFormat(size=32, symmetric=False),
}


def quantize_weights(graph: ir.Graph, kept: frozenset[str] = frozenset()) -> None:
    """Put the weights of linears, in int8, behind DequantizeLinear, in place.

    Args:
        graph: a float32 graph.
        kept: names of linears that stay as they are.
    """
    for linear in find_linears(graph):
        if linear.name not in kept:
            insertion = Insertion(graph, linear.scope, before=linear.node)
            weight = quantize_weight(linear.weight_values(), linear.out_axis)
            inputs = weight_constants(insertion, weight)
            axis = {"axis": linear.out_axis}
            value = insertion.op("DequantizeLinear", inputs, _FLOAT, axis)
            linear.node.replace_input_with(1, value)
    drop_unused(graph)


def quantize_dynamically(graph: ir.Graph, kept: frozenset[str] = frozenset()) -> None:
    """Replace matrix products, with their biases, by DynamicQuantizeMatMul, in place.

    That has one range for all that it reads. Inputs that stick out, by the weights around them,
    are multiplied apart in float (`_outliers`).

    Args:
        graph: a float32 graph.
        kept: names of linears that stay as they are.
    """
    linears = {each.name: each for each in find_linears(graph) if each.node.op_type == "MatMul"}
    outliers = {name: _outliers(linear, linears) for name, linear in linears.items()}
    for name, linear in linears.items():
        if name not in kept:
            last = linear.bias or linear.node
            insertion = Insertion(graph, linear.scope, before=linear.node)
            product = _dynamic_product(insertion, linear, outliers[name])
            product.shape = last.outputs[0].shape
            replace_node(graph, last, product)
    drop_unused(graph)


def _dynamic_product(
    insertion: Insertion, linear: LinearNode, outliers: npt.NDArray[np.int64]
) -> ir.Value:
    """The int8 product, and what outliers add to it, in float (as LLM.int8() does it)."""
    values, activation = linear.weight_values(), linear.activation
    if len(outliers):
        rest = np.ones(len(values), dtype=np.float32)
        rest[outliers] = 0
        activation = insertion.op("Mul", [activation, insertion.constant(rest, "rest")], _FLOAT)
    weight = quantize_weight(
        _without(values, outliers), linear.out_axis, multiplied_along=linear.in_axis
    )
    inputs = [activation, *weight_constants(insertion, weight), None, linear.bias_value]
    product = insertion.op("DynamicQuantizeMatMul", inputs, _FLOAT)
    if not len(outliers):
        return product
    places = insertion.constant(outliers, "outliers")
    picked = insertion.op("Gather", [linear.activation, places], _FLOAT, {"axis": -1})
    rows = insertion.constant(values[outliers], "outlier_rows")
    apart = insertion.op("MatMul", [picked, rows], _FLOAT, name="MatMulOutliers")
    return insertion.op("Add", [product, apart], _FLOAT, name="AddOutliers")


def _without(values: Float32s, rows: npt.NDArray[np.int64]) -> Float32s:
    """The weight with some rows zero."""
    others = values.copy()
    others[rows] = 0
    return others


# What makes the inputs of a linear: the values that attention averages, the units of a feed-forward
# layer. Those of attention to the prompt are in another graph.
_MADE_BY = ((".self_attn.out_proj", ".self_attn.v_proj"), (".fc2", ".fc1"))
_STICKS_OUT = 8.0  # times as large as the median
_MOST_OUTLIERS = 1 / 16  # of the inputs: where more stick out, none does


def _outliers(linear: LinearNode, linears: Mapping[str, LinearNode]) -> npt.NDArray[np.int64]:
    """Inputs that are much larger than the others, judged without data, [outliers].

    An input is as large as the weights that make it, and where those are not known, larger by what
    the weights that read it are smaller.
    """
    made_by = (
        linears.get(linear.name.removesuffix(ending) + maker)
        for ending, maker in _MADE_BY
        if linear.name.endswith(ending)
    )
    maker = next(made_by, None)
    if maker is not None:
        sizes = np.linalg.norm(maker.weight_rows(), axis=0)
    elif linear.name.endswith(".encoder_attn.out_proj"):
        read_by = np.linalg.norm(linear.weight_rows(), axis=1)
        sizes = np.divide(1, read_by, out=np.zeros_like(read_by), where=read_by > 0)
    else:
        return np.zeros(0, dtype=np.int64)
    found = np.flatnonzero(sizes > _STICKS_OUT * np.median(sizes))
    return found if len(found) <= _MOST_OUTLIERS * len(sizes) else found[:0]


def quantize_in_blocks(
    graph: ir.Graph,
    recipe: Recipe,
    importance: Mapping[str, Float64s],
    kept: frozenset[str] = frozenset(),
) -> None:
    """Put the weights of linears into blocks of 4 bits, or int8 where the recipe says so, in place.

    Args:
        graph: a float32 graph.
        recipe: says how many bits weights get; those with 8 are an int8 bundle's. Its target
            "tensorrt" gets whole blocks behind DequantizeLinear, smaller ones where inputs are
            few (and int8 where none fits), the others get MatMulNBits, which for "cpu" rounds the
            rows of its input, too.
        importance: by the name of a linear, what an input's errors count, [inputs]; the inputs of
            one that is not there count alike.
        kept: names of linears that stay as they are.
    """
    for_tensorrt, for_cpu = recipe.target == "tensorrt", recipe.target == "cpu"
    linears = {each.name: each for each in find_linears(graph) if each.name not in kept}
    for name, linear in linears.items():
        blocks = _BLOCKS[recipe.target]
        size = whole_blocks(linear.channels, blocks.size) if for_tensorrt else blocks.size
        if recipe.bits_of(name) != blocks.bits or size is None:
            continue
        blocks = replace(blocks, size=size)
        weight = quantize_blocks(linear.weight_values(), blocks, importance.get(name))
        if for_tensorrt:
            dequantize_in_blocks(graph, linear.node, weight)
        else:
            level = INT8_ACTIVATIONS if for_cpu else 0
            replace_with_matmul_nbits(
                graph, linear.node, weight, accuracy_level=level, half_scales=for_cpu
            )
    (quantize_dynamically if for_cpu else quantize_weights)(graph, kept)


def whole_blocks(inputs: int, largest: int) -> int | None:
    """The largest size of blocks that inputs consist of; None where there is none."""
    fitting = [size for size in BLOCK_SIZES if size <= largest and inputs % size == 0]
    return max(fitting, default=None)


def weight_constants(insertion: Insertion, weight: QuantizedWeight) -> list[ir.Value]:
    """The weight in int8, and its scales."""
    return [
        insertion.constant(weight.values, "int8"),
        insertion.constant(weight.scales, "int8_scale"),
    ]
