"""Changing a finished graph: nodes and constants in, what nobody reads out."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

ORT_DOMAIN = "com.microsoft"


class Insertion:
    """Nodes that go in front of one node (or at the end), their names under one scope."""

    def __init__(self, graph: ir.Graph, scope: str, *, before: ir.Node | None = None) -> None:
        self._graph = graph
        self._scope = scope
        self._before = before

    def op(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        dtype: ir.DataType,
        attributes: Mapping[str, Any] | None = None,
        *,
        name: str | None = None,
    ) -> ir.Value:
        """Add a node with one output of `dtype`, called after the operator unless named."""
        label = f"{self._scope}/{name or op_type}"
        output = ir.Value(name=label.replace("/", "."), type=ir.TensorType(dtype))
        domain = ORT_DOMAIN if op_type in _ORT_OPS else ""
        node = ir.node(
            op_type, inputs, attributes=attributes, domain=domain, outputs=[output], name=label
        )
        if self._before is None:
            self._graph.append(node)
        else:
            self._graph.insert_before(self._before, node)
        if domain:
            self._graph.opset_imports[domain] = 1
        return output

    def constant(self, values: npt.ArrayLike, name: str) -> ir.Value:
        """Add an initializer; an equal name means an equal constant and is used again."""
        label = f"{self._scope}/{name}".replace("/", ".")
        known = self._graph.initializers.get(label)
        if known is not None:
            return known
        array = np.asarray(values)
        tensor = ir.tensor(array, name=label)
        value = ir.Value(
            name=label,
            shape=ir.Shape(array.shape),
            type=ir.TensorType(tensor.dtype),
            const_value=tensor,
        )
        self._graph.register_initializer(value)
        return value


_ORT_OPS = frozenset({"DynamicQuantizeMatMul", "MatMulIntegerToFloat"})


def replace_node(graph: ir.Graph, node: ir.Node, value: ir.Value) -> None:
    """Let everybody who reads a node's output read `value`, under the output's name."""
    output = node.outputs[0]
    ir.convenience.replace_all_uses_with(output, value, replace_graph_outputs=True)
    value.name, output.name = output.name, f"{output.name}.replaced"


def drop_unused(graph: ir.Graph) -> None:
    """Remove nodes and initializers that nothing reads any more."""
    for node in reversed(list(graph)):
        if not any(output.uses() or output.is_graph_output() for output in node.outputs):
            graph.remove(node, safe=True)
    for name, value in list(graph.initializers.items()):
        if not value.uses():
            del graph.initializers[name]
