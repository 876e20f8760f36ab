"""Layers that the three graphs share: linear, layer norm, MLP, heads in and out.

A module mirrors its counterpart in the checkpoint, so `state_dict` names agree. The one difference:
linear weights are stored [in, out], as MatMul wants them. `x` is always an `onnx_ir.Value`.
"""

import onnx_ir as ir
from onnxscript import OpBuilder
from onnxscript.nn import Module, Parameter

from florence_edge.errors import BundleError

Values = dict[str, ir.Value]  # inputs or outputs of a graph, by the contract's names

# Added to the scores of positions that must not be attended to. exp() of it is exactly 0 in
# float32, and float16 can still hold it.
MASKED = -30000.0

LAYER_NORM_EPSILON = 1e-5  # torch.nn.LayerNorm's default, which both layouts use


class Linear(Module):
    """y = x W + b over the last axis; W is [in, out]."""

    def __init__(self, inputs: int, outputs: int, *, bias: bool = True) -> None:
        super().__init__()
        self.weight = Parameter([inputs, outputs])
        self.bias = Parameter([outputs]) if bias else None

    def forward(self, op: OpBuilder, x: ir.Value) -> ir.Value:
        y = op.MatMul(x, self.weight)
        return y if self.bias is None else op.Add(y, self.bias)


def query_key_value(width: int, *, bias: bool = True) -> tuple[Linear, Linear, Linear]:
    """The projections of self-attention; they are named by what they are assigned to."""
    return (
        Linear(width, width, bias=bias),
        Linear(width, width, bias=bias),
        Linear(width, width, bias=bias),
    )


class LayerNorm(Module):
    """Layer normalization over the last axis."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = Parameter([width])
        self.bias = Parameter([width])

    def forward(self, op: OpBuilder, x: ir.Value) -> ir.Value:
        return op.LayerNormalization(x, self.weight, self.bias, axis=-1, epsilon=LAYER_NORM_EPSILON)


class FeedForward(Module):
    """fc1, activation, fc2."""

    def __init__(self, width: int, hidden: int, activation: str) -> None:
        super().__init__()
        self.fc1 = Linear(width, hidden)
        self.fc2 = Linear(hidden, width)
        self.activation = activation

    def forward(self, op: OpBuilder, x: ir.Value) -> ir.Value:
        return self.fc2(op, activate(op, self.fc1(op, x), self.activation))


def activate(op: OpBuilder, x: ir.Value, name: str) -> ir.Value:
    """Apply the activation that config.json calls `name`."""
    match name:
        case "gelu":
            return op.Gelu(x)
        case "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast":
            return op.Gelu(x, approximate="tanh")
        case "relu":
            return op.Relu(x)
        case "silu" | "swish":
            return op.Mul(x, op.Sigmoid(x))
    raise BundleError(
        f"config.json asks for the activation {name!r}; known are gelu, gelu_new, relu and silu."
    )


def split_heads(op: OpBuilder, x: ir.Value, heads: int, head_dim: int) -> ir.Value:
    """[B, L, heads * head_dim] -> [B, heads, L, head_dim]."""
    return op.Transpose(op.Reshape(x, [0, 0, heads, head_dim]), perm=[0, 2, 1, 3])


def split_heads_transposed(op: OpBuilder, x: ir.Value, heads: int, head_dim: int) -> ir.Value:
    """[B, L, heads * head_dim] -> [B, heads, head_dim, L], ready to be multiplied by queries."""
    return op.Transpose(op.Reshape(x, [0, 0, heads, head_dim]), perm=[0, 2, 3, 1])


def merge_heads(op: OpBuilder, x: ir.Value, width: int) -> ir.Value:
    """[B, heads, L, head_dim] -> [B, L, width]."""
    return op.Reshape(op.Transpose(x, perm=[0, 2, 1, 3]), [0, 0, width])


def additive_mask(op: OpBuilder, mask: ir.Value) -> ir.Value:
    """[B, E] of ones and zeros -> [B, 1, 1, E] of 0 and MASKED."""
    hidden = op.Cast(op.Sub(1, mask), to=ir.DataType.FLOAT)
    return op.Unsqueeze(op.Mul(hidden, MASKED), [1, 2])
