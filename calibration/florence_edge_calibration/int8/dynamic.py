"""int8 for the decoder on ONNX Runtime's CPU: integer products, activations rounded as they come.

The range of a decoder's activations moves with every token, and its products are a row or three:
DynamicQuantizeMatMul finds the range of its input itself. The scores come from the embedding
stored as [width, vocabulary], as the product wants it; lookup gathers its columns.
"""

import onnx_ir as ir

from .linears import Linear, find_linears, weight_values
from .rewrite import Insertion, drop_unused, replace_node
from .scales import quantize_weight
from .weight_only import embedding_nodes

_FLOAT, _INT8 = ir.DataType.FLOAT, ir.DataType.INT8


def multiply_dynamically(graph: ir.Graph, kept: frozenset[str] = frozenset()) -> None:
    """Replace matrix products with DynamicQuantizeMatMul, in place.

    Args:
        graph: a float32 graph.
        kept: names of linears that stay as they are.
    """
    for linear in find_linears(graph):
        if linear.node.op_type == "MatMul" and linear.name not in kept:
            _multiply(graph, linear)
    drop_unused(graph)


def store_embedding_by_columns(graph: ir.Graph) -> None:
    """Look words up in, and score with, int8 [width, vocabulary], in place."""
    for node, table in embedding_nodes(graph):
        weight = quantize_weight(weight_values(table), out_axis=0)
        insertion = Insertion(graph, str(table.name).removesuffix(".weight"), before=node)
        columns = insertion.constant(weight.values.T.copy(), "columns")
        scales = insertion.constant(weight.scales, "scales")
        if node.op_type == "Gather":
            _look_up(graph, node, insertion, columns, scales)
        else:
            product = insertion.op(
                "DynamicQuantizeMatMul",
                [node.inputs[0], columns, scales, None, node.inputs[2]],
                _FLOAT,
            )
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


def _multiply(graph: ir.Graph, linear: Linear) -> None:
    """DynamicQuantizeMatMul in place of a MatMul and the Add of its bias."""
    weight = quantize_weight(linear.weight_values(), linear.out_axis)
    last = linear.bias or linear.node
    insertion = Insertion(graph, linear.scope, before=linear.node)
    inputs = [
        linear.activation,
        insertion.constant(weight.values, "int8"),
        insertion.constant(weight.scales, "int8_scale"),
        None,
        linear.bias_value,
    ]
    replace_node(graph, last, insertion.op("DynamicQuantizeMatMul", inputs, _FLOAT))
