"""int8 for the decoder, and for the embedding of every graph that reads it.

A decoder step multiplies one token a beam: its time is the reading of weights, and the range of its
activations moves with every token. So for GPUs and the portable target its weights alone are int8,
with a scale per output channel behind DequantizeLinear, and activations stay float. For ONNX
Runtime's CPU its products are DynamicQuantizeMatMul, which finds the range of its input itself.

The embedding is stored once, as int8 with a scale per word, for lookup and for the scores:
[vocabulary, width] behind DequantizeLinear, or [width, vocabulary] as ONNX Runtime's product wants
it, where lookup gathers columns. A head that is not the embedding is treated as one.
"""

import numpy as np
import onnx_ir as ir

from .graph_edit import (
    Insertion,
    drop_unused,
    find_linears,
    replace_node,
    weight_values,
)
from .scales import QuantizedWeight, quantize_weight

_FLOAT, _INT8 = ir.DataType.FLOAT, ir.DataType.INT8
# The embedding, and the head where a checkpoint has one of its own.
_EMBEDDINGS = (".shared.weight", ".lm_head.weight")
# Which input of these operators is the embedding: the lookup of words, and the scores of all words.
_EMBEDDING_INPUT = {"Gather": 0, "Gemm": 1}
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

    Args:
        graph: a float32 graph.
        kept: names of linears that stay as they are.
    """
    for linear in find_linears(graph):
        if linear.node.op_type == "MatMul" and linear.name not in kept:
            last = linear.bias or linear.node
            insertion = Insertion(graph, linear.scope, before=linear.node)
            weight = quantize_weight(
                linear.weight_values(), linear.out_axis, multiplied_along=linear.in_axis
            )
            constants = _weight_constants(insertion, weight)
            inputs = [linear.activation, *constants, None, linear.bias_value]
            replace_node(graph, last, insertion.op("DynamicQuantizeMatMul", inputs, _FLOAT))
    drop_unused(graph)


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
