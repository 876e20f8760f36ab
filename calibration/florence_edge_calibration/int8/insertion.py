"""Putting nodes and constants into a finished graph."""

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
