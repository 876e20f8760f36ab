"""int8 for the decoder, int4 for both text models, int8 for the embedding wherever it is read.

A decoder step multiplies one token a beam: its time is the reading of weights, and the range of its
activations moves with every token. So for GPUs and the portable target its weights alone are int8,
with a scale per output channel behind DequantizeLinear, and activations stay float. For ONNX
Runtime's CPU its products are DynamicQuantizeMatMul, which finds the range of its input itself;
inputs that stick out are multiplied apart, in float.

Weights of 4 bits are in blocks (blockwise.py), for text encoder and decoder alike: MatMulNBits, or
for TensorRT blocks behind DequantizeLinear.

The embedding is stored once, as int8 with a scale per word, for lookup and for the scores:
[vocabulary, width] behind DequantizeLinear, or [width, vocabulary] as ONNX Runtime's product wants
it, where lookup gathers columns. A head that is not the embedding is treated as one.
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
    weight_values,
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
# The embedding, and the head where a checkpoint has one of its own.
_EMBEDDINGS = (".shared.weight", ".lm_head.weight")
# Which input of these operators is the embedding: the lookup of words, and the scores of all words.
_EMBEDDING_INPUT = {"Gather": 0, "Gemm": 1}
# Larger blocks are smaller on disk and round more. Scales are float16 but for "cpu", where they are
# float32. TensorRT takes no zero points, which are worth a fifth of the error, and no size below 64
# is documented there.
_BLOCKS: Mapping[Target, BlockFormat] = {
    "tensorrt": BlockFormat(size=64),
    "cpu": BlockFormat(size=64, symmetric=False),
    "portable": BlockFormat(size=32, symmetric=False),
}
_ROWS = 8  # TensorRT's products in float16 want their sides to be multiples of it


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
            inputs = _weight_constants(insertion, weight)
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
    inputs = [activation, *_weight_constants(insertion, weight), None, linear.bias_value]
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
    for_tensorrt = recipe.target == "tensorrt"
    linears = {each.name: each for each in find_linears(graph) if each.name not in kept}
    for name, linear in linears.items():
        blocks = _BLOCKS[recipe.target]
        size = _whole(linear.channels, blocks.size) if for_tensorrt else blocks.size
        if recipe.bits_of(name) != blocks.bits or size is None:
            continue
        blocks = replace(blocks, size=size)
        weight = quantize_blocks(linear.weight_values(), blocks, importance.get(name))
        if for_tensorrt:
            dequantize_in_blocks(graph, linear.node, weight)
        else:
            level = INT8_ACTIVATIONS if recipe.target == "cpu" else 0
            replace_with_matmul_nbits(graph, linear.node, weight, accuracy_level=level)
    (quantize_dynamically if recipe.target == "cpu" else quantize_weights)(graph, kept)


def _whole(inputs: int, largest: int) -> int | None:
    """The largest size of blocks that inputs consist of; None where there is none."""
    fitting = [size for size in BLOCK_SIZES if size <= largest and inputs % size == 0]
    return max(fitting, default=None)


def _weight_constants(insertion: Insertion, weight: QuantizedWeight) -> list[ir.Value]:
    """The weight in int8, and its scales."""
    return [
        insertion.constant(weight.values, "int8"),
        insertion.constant(weight.scales, "int8_scale"),
    ]


def embedding_nodes(graph: ir.Graph) -> list[tuple[ir.Node, ir.Value]]:
    """Nodes that read the embedding, with it: the lookup of words, and the scores of all words."""
    found = []
    for node in graph:
        place = _EMBEDDING_INPUT.get(node.op_type)
        embedding = None if place is None else node.inputs[place]
        if embedding is not None and str(embedding.name).endswith(_EMBEDDINGS):
            found.append((node, embedding))
    return found


def embedding_names(graph: ir.Graph) -> list[str]:
    """Names of the embeddings that a graph reads: one, none, or two where the head is its own."""
    return list(dict.fromkeys(embedding_name(value) for _, value in embedding_nodes(graph)))


def embedding_name(embedding: ir.Value) -> str:
    """The checkpoint's name of an embedding, e.g. `decoder.shared`."""
    return str(embedding.name).removesuffix(".weight")


def _nodes_of(graph: ir.Graph, name: str) -> list[tuple[ir.Node, ir.Value]]:
    """`embedding_nodes` of the embedding that is called so."""
    return [found for found in embedding_nodes(graph) if embedding_name(found[1]) == name]


def quantize_embedding(graph: ir.Graph, name: str) -> None:
    """Look words up in, and score with, int8 [vocabulary, width], in place.

    The whole embedding stands behind DequantizeLinear, also for lookup: TensorRT takes no int8
    constant elsewhere, not even in a Gather. It makes one kernel of the two, which reads the rows
    that are looked up and writes nothing else; ONNX Runtime folds them on a GPU (backends/ort.py).
    The table gets rows of zeros up to a multiple of `_ROWS`, and their scores are cut off: with
    Florence-2's 51,289 words TensorRT would write the whole of it out in float16 at each step, to
    pad it (results/tensorrt/int8_plans.json).
    """
    for node, embedding in _nodes_of(graph, name):
        values = weight_values(embedding)
        padding = -len(values) % _ROWS
        weight = quantize_weight(np.pad(values, ((0, padding), (0, 0))), out_axis=0)
        # Lookup and scores each have constants of their own; a bundle stores equal ones once.
        scope = f"{embedding_name(embedding)}/{node.op_type.lower()}"
        insertion = Insertion(graph, scope, before=node)
        inputs = [
            insertion.constant(weight.values, "int8"),
            insertion.constant(weight.scales, "int8_scale"),
        ]
        words = insertion.op("DequantizeLinear", inputs, _FLOAT, {"axis": 0})
        node.replace_input_with(_EMBEDDING_INPUT[node.op_type], words)
        if padding and node.op_type == "Gemm":
            _cut_off(graph, node, scope, len(values), padding)


def _cut_off(graph: ir.Graph, scores: ir.Node, scope: str, words: int, padding: int) -> None:
    """Let a product with padded rows give the scores of words alone, [N, words]."""
    nodes = list(graph)
    insertion = Insertion(graph, scope, before=nodes[nodes.index(scores) + 1])
    bias = scores.inputs[2]
    if bias is not None:
        longer = insertion.constant(np.pad(weight_values(bias), (0, padding)), "padded_bias")
        scores.replace_input_with(2, longer)
    padded = scores.outputs[0]
    readers = list(padded.uses())
    limits = [insertion.constant([each], name) for each, name in ((0, "first"), (words, "words"))]
    axis = insertion.constant([1], "axis")
    cut = insertion.op("Slice", [padded, *limits, axis], _FLOAT)
    cut.shape, padded.shape = padded.shape, None
    for reader, index in readers:
        reader.replace_input_with(index, cut)
    if padded.is_graph_output():
        graph.outputs[graph.outputs.index(padded)] = cut
        cut.name, padded.name = padded.name, f"{padded.name}.padded"


def quantize_embedding_by_columns(graph: ir.Graph, name: str) -> None:
    """Look words up in, and score with, int8 [width, vocabulary], in place."""
    for node, embedding in _nodes_of(graph, name):
        weight = quantize_weight(weight_values(embedding), out_axis=0, multiplied_along=1)
        insertion = Insertion(graph, embedding_name(embedding), before=node)
        columns = insertion.constant(weight.values.T.copy(), "columns")
        scales = insertion.constant(weight.scales, "scales")
        if node.op_type == "Gather":
            _look_up(graph, node, insertion, columns, scales)
        else:
            inputs = [node.inputs[0], columns, scales, None, node.inputs[2]]
            product = insertion.op("DynamicQuantizeMatMul", inputs, _FLOAT)
            product.shape = node.outputs[0].shape
            replace_node(graph, node, product)


def _look_up(
    graph: ir.Graph, node: ir.Node, insertion: Insertion, columns: ir.Value, scales: ir.Value
) -> None:
    """Columns of tokens [B, L], scaled: [B, L, width]."""
    ids = node.inputs[1]
    found = insertion.op("Gather", [columns, ids], _INT8, {"axis": 1})
    rows = insertion.op("Transpose", [found], _INT8, {"perm": [1, 2, 0]})
    steps = insertion.op("Cast", [rows], _FLOAT, {"to": _FLOAT})
    scale = insertion.op("Gather", [scales, ids], _FLOAT, name="GatherScale")
    last = insertion.constant([-1], "last")
    column = insertion.op("Unsqueeze", [scale, last], _FLOAT)
    replace_node(graph, node, insertion.op("Mul", [steps, column], _FLOAT))
