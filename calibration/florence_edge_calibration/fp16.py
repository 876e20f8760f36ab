"""float16 from float32: a pass over a graph that leaves float32 islands where sums are delicate.

Layer norm, softmax, the sum of a log-softmax and means compute in float32, and so does what only
they read: the residual add of a post-norm layer, the mask, the concatenation before a softmax.
Everything else, weights included, becomes float16, but for what float16 cannot hold: nodes with a
constant beyond its largest number stay float32, and so do those that the caller names, because the
values in or behind them would overflow (see overflow.py).
"""

import re
from collections.abc import Callable, Collection
from fnmatch import fnmatch
from typing import Any

import ml_dtypes  # noqa: F401 - onnx_ir needs it to hold half types
import numpy as np
import numpy.typing as npt
import onnx_ir as ir

# Ops whose statistics need float32.
_ISLANDS = frozenset({"LayerNormalization", "Softmax", "ReduceMean"})
# Cheap ops that join an island when nobody else uses their result; so do int8 weights.
_JOINING = frozenset(
    {"Add", "Mul", "Sub", "Concat", "Reshape", "Unsqueeze", "Squeeze", "ReduceSum", "Cast", "Gelu"}
    | {"Slice", "Exp", "Log", "DequantizeLinear"}
)
# Outputs of the decoder that are float32 in every bundle; the logits are what features are.
SCORES = frozenset({"top_logits", "log_sum_exp"})
# Pixels are normalized before they are rounded: float16 is coarser than a grey level there.
KEPT_IN_FLOAT32 = ("vision_encoder/normalize/*",)
# The vision encoder's map is float16 between all blocks, and before the norm that opens a stage.
_NOT_JOINING = ("vision_encoder/blocks.*_block/Add_*",)

_NUMBER = re.compile(r"_node_\d+$")  # of a node in its graph, at the end of its name

_FLOAT, _HALF = ir.DataType.FLOAT, ir.DataType.FLOAT16
LARGEST_HALF = float(np.finfo(np.float16).max)  # 65,504
_LARGEST_INT8 = 128  # what a scale of int8 is multiplied by
_SMALLEST_SCALE = 2.0**-20  # 16 steps of float16's smallest numbers: others round by 3 % and more


def convert_to_float16(
    model: ir.Model,
    float32_outputs: frozenset[str],
    *,
    kept: tuple[str, ...] = KEPT_IN_FLOAT32,
    lifted: Collection[str] = (),
    exchanged: bool = False,
) -> None:
    """Turn `model` into float16, in place.

    Args:
        model: a float32 graph.
        float32_outputs: names of graph outputs that stay float32.
        kept: patterns over node names whose nodes stay float32.
        lifted: further operators that stay float32, as `operator_of` calls them.
        exchanged: whether what graphs exchange (features and caches) stays float32, too.
    """
    graph = model.graph
    if exchanged:
        float32_outputs = frozenset(str(output.name) for output in graph.outputs)
    too_large = {operator_of(node) for node in graph if beyond_half(node)}
    islands = _find_islands(graph, float32_outputs, kept, too_large.union(lifted))
    for value in graph.inputs:
        if value.dtype == _FLOAT and not exchanged:
            value.dtype = _HALF
    casts = _Casts(graph)
    for node in list(graph):
        _convert_node(node, _FLOAT if node in islands else _HALF, casts)
    for index, output in enumerate(list(graph.outputs)):
        dtype = _FLOAT if output.name in float32_outputs else _HALF
        if output.dtype in (_FLOAT, _HALF) and output.dtype != dtype:
            graph.outputs[index] = _renamed_cast(graph, output, dtype, casts)
    casts.drop_unused()


def drop_island_casts(graph: ir.Graph) -> None:
    """Let norms and softmaxes between float16 read and give float16 themselves, in place.

    For ONNX Runtime and OpenVINO, which compute them in float32 inside: there the casts around them
    only move data (ONNX Runtime's CUDA provider runs each as a kernel of its own). TensorRT fuses
    the casts, and computes in what the graph says.
    """
    casts = _Casts(graph)
    for node in [node for node in graph if node.op_type in ("LayerNormalization", "Softmax")]:
        given, output = node.inputs[0], node.outputs[0]
        before = None if given is None else given.producer()
        after = [user for user, _ in output.uses()]
        if given is None or before is None or not _is_cast(before, _FLOAT):
            continue
        source = before.inputs[0]
        if source is None or source.dtype != _HALF:
            continue
        if output.is_graph_output() or not all(_is_cast(user, _HALF) for user in after):
            continue
        node.replace_input_with(0, source)
        _convert_node(node, _HALF, casts)
        for user in after:
            cast = user.outputs[0]
            if cast.is_graph_output():
                output.name, cast.name = cast.name, output.name
                output.shape = cast.shape
            ir.convenience.replace_all_uses_with(cast, output, replace_graph_outputs=True)
            graph.remove(user, safe=True)
        if not given.uses():
            graph.remove(before, safe=True)
    casts.drop_unused()


def _is_cast(node: ir.Node, dtype: ir.DataType) -> bool:
    return node.op_type == "Cast" and node.attributes["to"].as_int() == int(dtype)


def operator_of(node: ir.Node) -> str:
    """An operator of a layer, e.g. `decoder/layers.0/self_attn/MatMul`; it may be several nodes.

    Nodes are numbered in their graph, so that their names differ from decoder to decoder.
    """
    return _NUMBER.sub("", str(node.name))


def with_layers(operators: Collection[str], graph: ir.Graph) -> frozenset[str]:
    """These operators, and all that a graph has in their layers.

    For TensorRT's decoders, which compute the same as the portable one by other operators.
    """
    layers = {name.rpartition("/")[0] for name in operators}
    there = (operator_of(node) for node in graph)
    return frozenset(operators).union(name for name in there if name.rpartition("/")[0] in layers)


def half_nodes(
    graph: ir.Graph, float32_outputs: frozenset[str], kept: tuple[str, ...] = KEPT_IN_FLOAT32
) -> list[ir.Node]:
    """The nodes of a float32 graph that the pass makes float16 if it can, in order."""
    islands = _find_islands(graph, float32_outputs, kept, ())
    return [node for node in graph if node not in islands]


def beyond_half(node: ir.Node) -> bool:
    """Whether a constant that the node reads has values that float16 does not hold."""
    constants = [value.const_value for value in node.inputs if value is not None]
    floats = [
        tensor.numpy()
        for tensor in constants
        if tensor is not None and tensor.dtype == _FLOAT and tensor.size > 0
    ]
    if node.op_type == "DequantizeLinear":
        return not all(map(fits_half, floats))
    return not all(np.abs(each).max() <= LARGEST_HALF for each in floats)  # a NaN is not, either


def fits_half(scales: npt.NDArray[Any]) -> bool:
    """Whether int8 with these scales can be float16: none is too large, and not all too small."""
    largest = float(np.abs(scales).max(initial=0))
    too_small = 0 < largest < _SMALLEST_SCALE
    return largest * _LARGEST_INT8 <= LARGEST_HALF and not too_small


def _convert_node(node: ir.Node, dtype: ir.DataType, casts: "_Casts") -> None:
    """Let the node take and give floats of `dtype`."""
    for index, value in enumerate(node.inputs):
        if value is not None and value.dtype in (_FLOAT, _HALF) and value.dtype != dtype:
            node.replace_input_with(index, casts.of(value, dtype, before=node))
    if node.op_type == "Cast" and node.attributes["to"].as_int() == _FLOAT:
        node.attributes["to"] = ir.AttrInt64("to", int(dtype))
    for output in node.outputs:
        if output.dtype == _FLOAT:
            output.type = ir.TensorType(dtype)  # a new one: clones of a graph share types


def _find_islands(
    graph: ir.Graph,
    float32_outputs: frozenset[str],
    kept: tuple[str, ...],
    lifted: Collection[str],
) -> set[ir.Node]:
    """Nodes that stay float32, found from the outputs back to the inputs."""
    islands: set[ir.Node] = set()
    for node in reversed(graph):
        named = operator_of(node) in lifted
        named = named or any(fnmatch(node.name or "", pattern) for pattern in kept)
        joins = node.op_type in _JOINING and _only_feeds(node, islands, float32_outputs)
        joins = joins and not any(fnmatch(node.name or "", each) for each in _NOT_JOINING)
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
        return ir.tensor(tensor.numpy().astype(np.float16), name=name)

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


def _renamed_cast(graph: ir.Graph, output: ir.Value, dtype: ir.DataType, casts: _Casts) -> ir.Value:
    """The cast of a graph's output, which takes over its name."""
    cast = casts.of(output, dtype, before=graph[-1])
    output.name, cast.name = f"{output.name}.uncast", output.name
    return cast
