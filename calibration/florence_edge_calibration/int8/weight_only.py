"""int8 for the decoder: its weights alone, with a scale for each output; activations stay float.

A decoder step multiplies one token a beam: its time is the reading of weights. The embedding is
stored once, as int8 [vocabulary, width] with a scale a word, for lookup and for the scores.
"""

import onnx_ir as ir

from .linears import Linear, find_linears, weight_values
from .rewrite import Insertion, drop_unused
from .scales import quantize_weight

_FLOAT = ir.DataType.FLOAT
_EMBEDDING = ".shared.weight"


def store_weights_as_int8(graph: ir.Graph, kept: frozenset[str] = frozenset()) -> None:
    """Put the weights of linears behind DequantizeLinear, in place.

    Args:
        graph: a float32 graph.
        kept: names of linears that stay as they are.
    """
    for linear in find_linears(graph):
        if linear.name not in kept:
            _store(graph, linear)
    drop_unused(graph)


def _store(graph: ir.Graph, linear: Linear) -> None:
    weight = quantize_weight(linear.weight_values(), linear.out_axis)
    insertion = Insertion(graph, linear.scope, before=linear.node)
    inputs = [
        insertion.constant(weight.values, "int8"),
        insertion.constant(weight.scales, "int8_scale"),
    ]
    value = insertion.op("DequantizeLinear", inputs, _FLOAT, {"axis": linear.out_axis})
    linear.node.replace_input_with(1, value)


def embedding_nodes(graph: ir.Graph) -> list[tuple[ir.Node, ir.Value]]:
    """Nodes that read the embedding, with it: the lookup of words, and the scores of all words."""
    found = []
    for node in graph:
        place = {"Gather": 0, "Gemm": 1}.get(node.op_type)
        table = None if place is None else node.inputs[place]
        if table is not None and str(table.name).endswith(_EMBEDDING):
            found.append((node, table))
    return found


def embedding_names(graph: ir.Graph) -> list[str]:
    """Names of the embeddings that a graph reads: one, or none."""
    return list(dict.fromkeys(embedding_name(table) for _, table in embedding_nodes(graph)))


def embedding_name(table: ir.Value) -> str:
    """The checkpoint's name of an embedding, e.g. `decoder.shared`."""
    return str(table.name).removesuffix(".weight")


def store_embedding_as_int8(graph: ir.Graph) -> None:
    """Look words up in, and score with, int8 [vocabulary, width], in place.

    The whole table stands behind DequantizeLinear, also for lookup: TensorRT takes no int8
    constant elsewhere.
    """
    for node, table in embedding_nodes(graph):
        weight = quantize_weight(weight_values(table), out_axis=0)
        insertion = Insertion(graph, _scope(node, table), before=node)
        inputs = [
            insertion.constant(weight.values, "int8"),
            insertion.constant(weight.scales, "int8_scale"),
        ]
        words = insertion.op("DequantizeLinear", inputs, _FLOAT, {"axis": 0})
        node.replace_input_with(0 if node.op_type == "Gather" else 1, words)


def _scope(node: ir.Node, table: ir.Value) -> str:
    """Lookup and scores read the same constants, each through nodes of its own."""
    return f"{embedding_name(table)}/{node.op_type.lower()}"
