"""float16 from float32: a pass over a graph that leaves float32 islands where sums are delicate.

Layer norm, softmax, log-softmax and means compute in float32, and so does what only they read: the
residual add of a post-norm layer, the mask, the concatenation before a softmax. Everything else,
weights included, becomes float16.
"""

from collections.abc import Callable
from fnmatch import fnmatch

import ml_dtypes  # noqa: F401 - onnx_ir needs it to hold half types
import numpy as np
import onnx_ir as ir

# Ops whose statistics need float32.
_ISLANDS = frozenset({"LayerNormalization", "Softmax", "LogSoftmax", "ReduceMean", "TopK"})
# Cheap ops that join an island when nobody else uses their result.
_JOINING = frozenset({"Add", "Mul", "Concat", "Reshape", "Unsqueeze", "ReduceSum", "Cast", "Gelu"})
# Pixels are normalized before they are rounded: float16 is coarser than a grey level there.
KEPT_IN_FLOAT32 = ("vision_encoder/normalize/*",)

_FLOAT, _HALF = ir.DataType.FLOAT, ir.DataType.FLOAT16
_LARGEST_HALF = float(np.finfo(np.float16).max)


def convert_to_float16(
    model: ir.Model,
    float32_outputs: frozenset[str],
    *,
    kept: tuple[str, ...] = KEPT_IN_FLOAT32,
) -> None:
    """Turn `model` into float16, in place.

    Args:
        model: a float32 graph.
        float32_outputs: names of graph outputs that stay float32.
        kept: patterns over node names whose nodes stay float32.
    """
    graph = model.graph
    islands = _find_islands(graph, float32_outputs, kept)
    for value in graph.inputs:
        if value.dtype == _FLOAT:
            value.dtype = _HALF
    casts = _Casts(graph)
    for node in list(graph):
        _convert_node(node, _FLOAT if node in islands else _HALF, casts)
    for index, output in enumerate(list(graph.outputs)):
        dtype = _FLOAT if output.name in float32_outputs else _HALF
        if output.dtype in (_FLOAT, _HALF) and output.dtype != dtype:
            graph.outputs[index] = _renamed_cast(graph, output, dtype)
    casts.drop_unused()


def _convert_node(node: ir.Node, dtype: ir.DataType, casts: "_Casts") -> None:
    """Let the node take and give floats of `dtype`."""
    for index, value in enumerate(node.inputs):
        if value is not None and value.dtype in (_FLOAT, _HALF) and value.dtype != dtype:
            node.replace_input_with(index, casts.of(value, dtype, before=node))
    if node.op_type == "Cast" and node.attributes["to"].as_int() == _FLOAT:
        node.attributes["to"] = ir.AttrInt64("to", int(dtype))
    for output in node.outputs:
        if output.dtype == _FLOAT:
            output.dtype = dtype


def _find_islands(
    graph: ir.Graph, float32_outputs: frozenset[str], kept: tuple[str, ...]
) -> set[ir.Node]:
    """Nodes that stay float32, found from the outputs back to the inputs."""
    islands: set[ir.Node] = set()
    for node in reversed(graph):
        named = any(fnmatch(node.name or "", pattern) for pattern in kept)
        joins = node.op_type in _JOINING and _only_feeds(node, islands, float32_outputs)
        if named or node.op_type in _ISLANDS or joins:
            islands.add(node)
    return islands


def _only_feeds(node: ir.Node, islands: set[ir.Node], float32_outputs: frozenset[str]) -> bool:
    for output in node.outputs:
        if output.is_graph_output() and output.name not in float32_outputs:
            return False
        if any(user not in islands for user, _ in output.uses()):
            return False
    return True


class _Casts:
    """The same value in the other float type, made once."""

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._made: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}

    def of(self, value: ir.Value, dtype: ir.DataType, *, before: ir.Node) -> ir.Value:
        key = (value, dtype)
        if key not in self._made:
            weight = value.const_value
            self._made[key] = (
                self._cast(value, dtype, before)
                if weight is None
                else self._convert(value, weight, dtype)
            )
        return self._made[key]

    def drop_unused(self) -> None:
        """Remove weights that now only exist converted; the converted ones take their names."""
        for (value, _), converted in self._made.items():
            if value.is_initializer() and not value.uses():
                name = str(value.name)
                del self._graph.initializers[name]
                del self._graph.initializers[str(converted.name)]
                converted.name = name
                self._graph.register_initializer(converted)

    def _convert(self, value: ir.Value, tensor: ir.TensorProtocol, dtype: ir.DataType) -> ir.Value:
        name = f"{value.name}.{dtype.name.lower()}"
        converted = ir.Value(
            name=name,
            shape=value.shape,
            type=ir.TensorType(dtype),
            const_value=ir.LazyTensor(
                _converter(tensor, name), dtype=dtype, shape=_shape(tensor), name=name
            ),
        )
        self._graph.register_initializer(converted)
        return converted

    def _cast(self, value: ir.Value, dtype: ir.DataType, before: ir.Node) -> ir.Value:
        node = _cast_node(value, dtype, f"{value.name}.{dtype.name.lower()}")
        # Right behind the producer, so that it also serves later users in any order.
        producer = value.producer()
        if producer is None:
            self._graph.insert_before(before, node)
        else:
            self._graph.insert_after(producer, node)
        return node.outputs[0]


def _shape(tensor: ir.TensorProtocol) -> ir.Shape:
    return ir.Shape(tensor.shape.numpy())


def _converter(tensor: ir.TensorProtocol, name: str) -> Callable[[], ir.TensorProtocol]:
    def convert() -> ir.TensorProtocol:
        values = np.clip(tensor.numpy(), -_LARGEST_HALF, _LARGEST_HALF)
        return ir.tensor(values.astype(np.float16), name=name)

    return convert


def _cast_node(value: ir.Value, dtype: ir.DataType, name: str) -> ir.Node:
    output = ir.Value(name=name, shape=value.shape, type=ir.TensorType(dtype))
    return ir.Node(
        "",
        "Cast",
        inputs=[value],
        attributes=[ir.AttrInt64("to", int(dtype))],
        outputs=[output],
        name=f"{name}/Cast",
    )


def _renamed_cast(graph: ir.Graph, output: ir.Value, dtype: ir.DataType) -> ir.Value:
    """A cast of `output` that takes over its name."""
    name = output.name
    output.name = f"{name}.float32"
    node = _cast_node(output, dtype, str(name))
    graph.append(node)
    return node.outputs[0]
