"""Editing a finished graph: its linears by name, nodes and constants put in, unused ones out.

A linear is a matrix product or a convolution with a constant weight. It carries the checkpoint's
name, so precision maps, tables and messages speak of
`vision_encoder.blocks.2.4.channel_block.ffn.fc1`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from . import Float32s

_WEIGHT = ".weight"
# Convolutions over fewer channels (the stem reads three) gain nothing and lose the most.
_MIN_CONV_CHANNELS = 16

_ORT_DOMAIN = "com.microsoft"
_ORT_OPS = frozenset({"DynamicQuantizeMatMul", "MatMulIntegerToFloat", "MatMulNBits"})


@dataclass(frozen=True, slots=True, eq=False)
class LinearNode:
    """A MatMul with weight [in, out] or a Conv with weight [out, in, k, k]."""

    node: ir.Node

    @property
    def name(self) -> str:
        """The checkpoint's name of the module, e.g. `text_encoder.layers.0.fc1`."""
        return str(self.weight.name).removesuffix(_WEIGHT)

    @property
    def scope(self) -> str:
        """What the names of its nodes begin with."""
        return str(self.node.name).rpartition("/")[0]

    @property
    def activation(self) -> ir.Value:
        """The tensor that it reads."""
        return _present(self.node.inputs[0])

    @property
    def weight(self) -> ir.Value:
        """Its constant."""
        return _present(self.node.inputs[1])

    @property
    def bias(self) -> ir.Node | None:
        """The Add behind a MatMul that has a bias."""
        users = [user for user, _ in self.node.outputs[0].uses()]
        is_bias = len(users) == 1 and users[0].op_type == "Add" and _has_constant(users[0])
        return users[0] if is_bias and self.node.op_type == "MatMul" else None

    @property
    def bias_value(self) -> ir.Value | None:
        """The constant that `bias` adds."""
        inputs = self.bias.inputs if self.bias else ()
        return next(
            (value for value in inputs if value is not None and value.is_initializer()), None
        )

    @property
    def channels(self) -> int:
        """How many channels it reads."""
        return int(self.weight.shape[self.in_axis])  # type: ignore[index, arg-type]

    @property
    def in_axis(self) -> int:
        """Axis of the weight that counts inputs."""
        return 1 if self.node.op_type == "Conv" else 0

    @property
    def out_axis(self) -> int:
        """Axis of the weight that counts outputs."""
        return 1 - self.in_axis

    def weight_values(self) -> Float32s:
        """The weight as it is stored, float32."""
        return weight_values(self.weight)

    def weight_rows(self) -> Float32s:
        """The weight as [in, out], float32; a convolution's taps count as outputs."""
        values = np.moveaxis(self.weight_values(), self.in_axis, 0)
        return values.reshape(values.shape[0], -1)


def find_linears(graph: ir.Graph) -> list[LinearNode]:
    """All linears that can be quantized, in the order of the graph."""
    return [LinearNode(node) for node in graph if _is_linear(node)]


def by_activation(linears: Iterable[LinearNode]) -> dict[str, list[LinearNode]]:
    """Linears that read the same tensor, under the name of the first."""
    groups: dict[ir.Value, list[LinearNode]] = {}
    for linear in linears:
        groups.setdefault(linear.activation, []).append(linear)
    return {group[0].name: group for group in groups.values()}


def scopes(linears: Sequence[LinearNode]) -> tuple[str, ...]:
    """Patterns over node names that match all nodes of these linears."""
    return tuple(f"{linear.scope}/*" for linear in linears)


def weight_values(value: ir.Value) -> Float32s:
    """The constant of an initializer, as float32."""
    if value.const_value is None:
        raise ValueError(f"{value.name} is not a constant")
    return np.asarray(value.const_value.numpy(), dtype=np.float32)


class Insertion:
    """Puts nodes in front of one node (or at the end), their names under one scope."""

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
        domain = _ORT_DOMAIN if op_type in _ORT_OPS else ""
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


def _is_linear(node: ir.Node) -> bool:
    if node.op_type not in ("MatMul", "Conv") or len(node.inputs) < 2:
        return False
    weight = node.inputs[1]
    if weight is None or not weight.is_initializer() or not str(weight.name).endswith(_WEIGHT):
        return False
    if node.op_type == "MatMul":
        return True
    return int(_present(weight).shape[1]) >= _MIN_CONV_CHANNELS  # type: ignore[index, arg-type]


def _has_constant(node: ir.Node) -> bool:
    return any(value is not None and value.is_initializer() for value in node.inputs)


def _present(value: ir.Value | None) -> ir.Value:
    if value is None:
        raise ValueError("an optional input is left out where one is needed")
    return value
