"""The linears of a graph: matrix products and convolutions with a constant weight.

They carry the checkpoint's names, so precision maps, tables and messages speak of
`vision_encoder.blocks.2.4.channel_block.ffn.fc1`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

_WEIGHT = ".weight"
# Convolutions over fewer channels (the stem sees three) gain nothing and lose the most.
_LEAST_CONV_CHANNELS = 16


@dataclass(frozen=True, slots=True, eq=False)
class Linear:
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
        """What it reads."""
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
    def channels(self) -> int:
        """How many channels it reads."""
        return int(self.weight.shape[self.in_axis])  # type: ignore[index, arg-type]

    @property
    def bias_value(self) -> ir.Value | None:
        """The constant that `bias` adds."""
        inputs = self.bias.inputs if self.bias else ()
        return next(
            (value for value in inputs if value is not None and value.is_initializer()), None
        )

    @property
    def in_axis(self) -> int:
        """Axis of the weight that counts inputs."""
        return 1 if self.node.op_type == "Conv" else 0

    @property
    def out_axis(self) -> int:
        """Axis of the weight that counts outputs."""
        return 1 - self.in_axis

    def weight_values(self) -> npt.NDArray[np.float32]:
        """The weight as it is stored, float32."""
        return weight_values(self.weight)

    def weight_rows(self) -> npt.NDArray[np.float32]:
        """The weight as [in, out], float32; a convolution's taps count as outputs."""
        values = np.moveaxis(self.weight_values(), self.in_axis, 0)
        return values.reshape(values.shape[0], -1)


def find_linears(graph: ir.Graph) -> list[Linear]:
    """All linears that int8 can serve, in the order of the graph."""
    return [Linear(node) for node in graph if _is_linear(node)]


def by_activation(linears: Iterable[Linear]) -> dict[str, list[Linear]]:
    """Linears that read the same tensor, under the name of the first."""
    groups: dict[ir.Value, list[Linear]] = {}
    for linear in linears:
        groups.setdefault(linear.activation, []).append(linear)
    return {group[0].name: group for group in groups.values()}


def scopes(linears: Sequence[Linear]) -> tuple[str, ...]:
    """Patterns over node names that match all nodes of these linears."""
    return tuple(f"{linear.scope}/*" for linear in linears)


def weight_values(value: ir.Value) -> npt.NDArray[np.float32]:
    """The constant of an initializer."""
    if value.const_value is None:
        raise ValueError(f"{value.name} is no constant")
    return np.asarray(value.const_value.numpy(), dtype=np.float32)


def _is_linear(node: ir.Node) -> bool:
    if node.op_type not in ("MatMul", "Conv") or len(node.inputs) < 2:
        return False
    weight = node.inputs[1]
    if weight is None or not weight.is_initializer() or not str(weight.name).endswith(_WEIGHT):
        return False
    if node.op_type == "MatMul":
        return True
    return int(_present(weight).shape[1]) >= _LEAST_CONV_CHANNELS  # type: ignore[index, arg-type]


def _has_constant(node: ir.Node) -> bool:
    return any(value is not None and value.is_initializer() for value in node.inputs)


def _present(value: ir.Value | None) -> ir.Value:
    if value is None:
        raise ValueError("an optional input is left out where one is needed")
    return value
