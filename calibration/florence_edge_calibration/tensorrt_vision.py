"""The vision encoder as TensorRT moves the fewest bytes: equal numbers, other operators.

    a convolution's output, channels last, plus a branch -> plus the branch, channels first
    layer norm, pixels into windows                      -> pixels into windows, layer norm
    layer norm, three linears                            -> layer norm and a 1, three products

Which forms those are was found by listing plans (results/tensorrt/vision_plans.json). TensorRT
writes what stands between a linear and a convolution twice, splits the kernel of a layer norm whose
rows move behind it, and gives the biases of queries, keys and values a kernel each that copies
them; without biases, attention reads the products where they are. Bundles have the plain graph for
all other engines; the two share their weights.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from .graph_edit import Insertion, drop_unused

_TO_CHANNELS_FIRST, _TO_CHANNELS_LAST = [0, 3, 1, 2], [0, 2, 3, 1]
_ROWS = 8  # what a weight grows by: the bias and zeros, as tensor cores want multiples of 8
_FLOAT = ir.DataType.FLOAT


def for_tensorrt(model: ir.Model) -> ir.Model:
    """A vision encoder with all passes applied; `model` stays, and shares its weights.

    It may be float32 or float16; what a pass does not match, as int8 weights, stays as it is.
    """
    rewritten = model.clone()
    add_channels_first(rewritten.graph)
    normalize_last(rewritten.graph)
    biases_into_weights(rewritten.graph)
    return rewritten


def add_channels_first(graph: ir.Graph) -> None:
    """Add branches to a convolution's output where that is, with channels first."""
    for node in [node for node in graph if node.op_type == "Add"]:
        map_last, branch = (_present(value) for value in node.inputs)
        convolved = _transposed_from(map_last, _TO_CHANNELS_LAST)
        if convolved is None or _producer_type(convolved) != "Conv" or branch.is_initializer():
            continue
        insertion = Insertion(graph, str(node.name), before=node)
        dtype = _dtype(convolved)
        first = {"perm": _TO_CHANNELS_FIRST}
        branch = insertion.op("Transpose", [branch], dtype, first, name="branch_first")
        total = insertion.op("Add", [convolved, branch], dtype, name="total")
        last = {"perm": _TO_CHANNELS_LAST}
        total_last = insertion.op("Transpose", [total], dtype, last, name="total_last")
        for user, index in list(node.outputs[0].uses()):
            given = user.outputs[0]
            if _transposed_from(given, _TO_CHANNELS_FIRST) is None:
                user.replace_input_with(index, total_last)
            else:
                ir.convenience.replace_all_uses_with(given, total)
    drop_unused(graph)


def normalize_last(graph: ir.Graph) -> None:
    """Let layer norms stand behind what moves whole rows."""
    for norm in list(_norms(graph)):
        moving, at = [], norm.output
        while (user := _only_user(at)) is not None and _keeps_rows(user, norm.width):
            moving.append(user)
            at = user.outputs[0]
        if not moving:
            continue
        for node in moving:
            node.outputs[0].type = norm.input.type
        for node in (*moving, *norm.nodes):
            node.outputs[0].shape = None  # not what it was
        ir.convenience.replace_all_uses_with(at, norm.output)
        moving[0].replace_input_with(0, norm.input)
        norm.nodes[0].replace_input_with(0, at)
        graph.remove(norm.nodes)
        graph.insert_after(moving[-1], norm.nodes)


def biases_into_weights(graph: ir.Graph) -> None:
    """Let the norm before queries, keys and values give a 1 that the weights' last rows multiply.

    The layer norm becomes its formula, over zeros behind each row's numbers: so it is one kernel.
    """
    for norm in list(_norms(graph)):
        linears = list(_biased_products(norm.output))
        if len(linears) != 3 or len(norm.output.uses()) != 3:
            continue
        wide = _normalized_with_one(graph, norm)
        for product, add in linears:
            weight, bias = _present(product.inputs[1]), _present(add.inputs[1])
            insertion = Insertion(graph, str(product.name), before=product)
            dtype = _dtype(weight)
            row = insertion.op(
                "Unsqueeze", [bias, insertion.constant(np.array([0]), "axis")], dtype, name="row"
            )
            zeros = np.zeros((_ROWS - 1, norm.width), dtype.numpy())
            rows = [weight, row, insertion.constant(zeros, "zeros")]
            biased = insertion.op("Concat", rows, dtype, {"axis": 0}, name="biased_weight")
            product.replace_input_with(0, wide)
            product.replace_input_with(1, biased)
            ir.convenience.replace_all_uses_with(add.outputs[0], product.outputs[0])
    drop_unused(graph)


@dataclass(frozen=True, slots=True)
class _Norm:
    """A layer norm with the casts around it, if there are any."""

    nodes: tuple[ir.Node, ...]

    @property
    def node(self) -> ir.Node:
        return next(node for node in self.nodes if node.op_type == "LayerNormalization")

    @property
    def input(self) -> ir.Value:
        return _present(self.nodes[0].inputs[0])

    @property
    def output(self) -> ir.Value:
        return self.nodes[-1].outputs[0]

    @property
    def width(self) -> int:
        return len(self.weight)

    @property
    def weight(self) -> npt.NDArray[np.float32]:
        return _numbers(self.node.inputs[1])

    @property
    def bias(self) -> npt.NDArray[np.float32]:
        return _numbers(self.node.inputs[2])


def _norms(graph: ir.Graph) -> Iterator[_Norm]:
    for node in graph:
        if node.op_type != "LayerNormalization":
            continue
        given = _present(node.inputs[0])
        before, after = given.producer(), _only_user(node.outputs[0])
        nodes = [node]
        if before is not None and before.op_type == "Cast" and _only_user(given) is node:
            nodes.insert(0, before)
        if after is not None and after.op_type == "Cast":
            nodes.append(after)
        yield _Norm(tuple(nodes))


def _normalized_with_one(graph: ir.Graph, norm: _Norm) -> ir.Value:
    """[..., C] -> [..., C + 8]: the normalized row, a 1, and seven zeros."""
    insertion = Insertion(graph, str(norm.node.name), before=norm.nodes[0])
    count = insertion.constant(np.float32(1 / norm.width), "one_of_all")
    last = insertion.constant(np.array([-1]), "last")

    def row(values: npt.ArrayLike, name: str, *, one: float = 0) -> ir.Value:
        padded = np.zeros(norm.width + _ROWS, np.float32)
        padded[: norm.width], padded[norm.width] = values, one
        return insertion.constant(padded, name)

    def op(kind: str, name: str, *inputs: ir.Value) -> ir.Value:
        return insertion.op(kind, inputs, _FLOAT, name=name)

    dtype = _dtype(norm.input)
    pads = insertion.constant(np.array([0, _ROWS]), "pads")
    zero = insertion.constant(np.zeros((), dtype.numpy()), "zero")
    x = insertion.op("Pad", [norm.input, pads, zero, last], dtype, name="zeros_behind")
    if dtype != _FLOAT:
        x = insertion.op("Cast", [x], _FLOAT, {"to": int(_FLOAT)}, name="float32")
    mean = op("Mul", "mean", op("ReduceSum", "sum", x, last), count)
    centered = op("Mul", "centered", op("Sub", "moved", x, mean), row(1, "inside"))
    squares = op("ReduceSum", "sum_of_squares", op("Mul", "squares", centered, centered), last)
    epsilon = insertion.constant(np.float32(norm.node.attributes["epsilon"].as_float()), "epsilon")
    variance = op("Add", "variance", op("Mul", "mean_square", squares, count), epsilon)
    scaled = op("Div", "scaled", centered, op("Sqrt", "deviation", variance))
    wide = op("Mul", "weighted", scaled, row(norm.weight, "weight"))
    wide = op("Add", "normalized", wide, row(norm.bias, "bias", one=1))
    if dtype != _FLOAT:
        wide = insertion.op("Cast", [wide], dtype, {"to": int(dtype)}, name="half")
    return wide


def _biased_products(x: ir.Value) -> Iterator[tuple[ir.Node, ir.Node]]:
    """The products of `x` and a weight that a bias is added to, each with that Add."""
    for product, index in x.uses():
        add = _only_user(product.outputs[0])
        if product.op_type != "MatMul" or index != 0 or add is None or add.op_type != "Add":
            continue
        if all(_present(node.inputs[1]).is_initializer() for node in (product, add)):
            yield product, add


def _keeps_rows(node: ir.Node, width: int) -> bool:
    """Whether the last axis, of `width`, stays what it is."""
    if node.op_type == "Transpose":
        order = node.attributes["perm"].as_ints()
        return order[-1] == len(order) - 1
    if node.op_type != "Reshape":
        return False
    shape = _present(node.inputs[1]).const_value
    return shape is not None and shape.numpy()[-1] == width


def _transposed_from(value: ir.Value, order: list[int]) -> ir.Value | None:
    """What `value` is a transposition of, in this order; None if it is not one."""
    node = value.producer()
    if node is None or node.op_type != "Transpose":
        return None
    return node.inputs[0] if list(node.attributes["perm"].as_ints()) == order else None


def _only_user(value: ir.Value) -> ir.Node | None:
    users = [node for node, _ in value.uses()]
    return users[0] if len(users) == 1 and not value.is_graph_output() else None


def _producer_type(value: ir.Value) -> str:
    node = value.producer()
    return "" if node is None else node.op_type


def _present(value: ir.Value | None) -> ir.Value:
    if value is None:
        raise ValueError("an optional input is left out where one is needed")
    return value


def _dtype(value: ir.Value) -> ir.DataType:
    if value.dtype is None:
        raise ValueError(f"{value.name} has no type")
    return value.dtype


def _numbers(value: ir.Value | None) -> npt.NDArray[np.float32]:
    tensor = _present(value).const_value
    if tensor is None:
        raise ValueError("a layer norm's weight is not a constant")
    return tensor.numpy().astype(np.float32)
