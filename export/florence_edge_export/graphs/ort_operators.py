"""ONNX Runtime's own operators (domain com.microsoft), for graphs of its CUDA provider."""

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir
from onnxscript import OpBuilder
from onnxscript.nn import Module, Parameter

_MICROSOFT, _VERSION = "com.microsoft", 1
_FLOAT = ir.DataType.FLOAT


class Affine(Module):
    """Weight and bias of a linear [in, out] or a norm [D], for operators that apply them."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.weight = Parameter(list(shape))
        self.bias = Parameter([shape[-1]])

    def forward(self, op: OpBuilder) -> tuple[ir.Value, ir.Value]:
        return self.weight, self.bias


def joined(op: OpBuilder, *linears: Affine) -> tuple[ir.Value, ir.Value]:
    """Weights [in, outs] and biases [outs] side by side: one, once the graph is loaded."""
    weights, biases = zip(*(linear(op) for linear in linears), strict=True)
    return op.Concat(*weights, axis=1), op.Concat(*biases, axis=0)


def fused(
    op: OpBuilder, kind: str, inputs: Sequence[ir.Value | None], *, outputs: int = 1, **numbers: Any
) -> list[ir.Value]:
    """What an operator of com.microsoft gives, float32; onnx infers no types of those."""
    node = getattr(op, kind)
    values = node(*inputs, _domain=_MICROSOFT, _version=_VERSION, _outputs=outputs, **numbers)
    found = [values] if isinstance(values, ir.Value) else list(values)
    for value in found:
        value.type = ir.TensorType(_FLOAT)
    return found
