"""Attention in windows by ONNX Runtime's own operator, for its CUDA provider.

Attention multiplies by one weight for queries, keys and values, adds their biases while it moves
them, and attends in a kernel that writes no scores: three kernels in place of ten. All else of the
vision encoder is the plain one (vision.py). Attention of channels has rows as long as the picture,
for which there is no such kernel.
"""

import onnx_ir as ir
from onnxscript import OpBuilder
from onnxscript.nn import Module

from ..checkpoint.config import VisionConfig
from .layers import Linear
from .ort_operators import Affine, fused, joined
from .windows import Windows


class FusedWindowAttention(Module):
    """`vision.WindowAttention`, by Attention."""

    def __init__(self, config: VisionConfig, stage: int, side: int) -> None:
        super().__init__("window_attn")
        self.width = config.dims[stage]
        self.heads = config.heads[stage]
        self.window = config.window_size
        self.windows = Windows(
            side=side, window=self.window, width=self.width, order=(0, 1, 3, 2, 4, 5)
        )
        self.q_proj, self.k_proj, self.v_proj = (Affine(self.width, self.width) for _ in range(3))
        self.proj = Linear(self.width, self.width)

    def forward(self, op: OpBuilder, x: ir.Value) -> ir.Value:
        x = op.Reshape(self.windows.gather(op, x), [-1, self.window * self.window, self.width])
        inputs = [x, *joined(op, self.q_proj, self.k_proj, self.v_proj)]
        (x,) = fused(op, "Attention", inputs, num_heads=self.heads, scale=1.0)  # queries are scaled
        return self.windows.scatter(op, self.proj(op, x))
