"""What the decoder's cross-attention was chosen from, by what plans of it move."""

from collections.abc import Callable, Mapping
from typing import TypeAlias

import onnx_ir as ir
from onnxscript import OpBuilder

from florence_edge_export.graphs.decoder import Cache, CrossAttention
from florence_edge_export.graphs.layers import merge_heads, split_heads

Forward: TypeAlias = Callable[[CrossAttention, OpBuilder, ir.Value, Cache, ir.Value], ir.Value]


def beams_as_rows(
    self: CrossAttention, op: OpBuilder, x: ir.Value, cache: Cache, mask: ir.Value
) -> ir.Value:
    """The beams of an image are the rows of one product with its cache."""
    query = split_heads(op, self.q_proj(op, x), self.heads, self.width // self.heads)
    scores = op.MatMul(query, op.Transpose(cache.key, perm=[0, 1, 3, 2]))
    attended = op.MatMul(op.Softmax(op.Add(scores, mask), axis=-1), cache.value)
    return self.out_proj(op, merge_heads(op, attended, self.width))


def onnx_attention(
    self: CrossAttention, op: OpBuilder, x: ir.Value, cache: Cache, mask: ir.Value
) -> ir.Value:
    """ONNX's Attention, of opset 23 and newer, with the beams of an image as its queries."""
    query = split_heads(op, self.q_proj(op, x), self.heads, self.width // self.heads)
    attended = op.Attention(query, cache.key, cache.value, mask, scale=1.0)
    return self.out_proj(op, merge_heads(op, attended, self.width))


CROSS_ATTENTIONS: Mapping[str, Forward] = {
    "beams as rows of one product": beams_as_rows,
    "ONNX Attention": onnx_attention,
}
