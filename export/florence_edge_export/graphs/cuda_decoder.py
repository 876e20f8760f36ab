"""The decoder for ONNX Runtime's CUDA provider, by its own operators (domain com.microsoft).

It computes what the portable decoder does, in fewer kernels; a step of few rows costs what its
kernels cost to launch. Inputs are the portable decoder's. A layer's new row is written to the
caches where they lie, and they are given back whole (contract.cuda_decoder): an engine binds both
to one address. In a layer are

    queries, keys and values in one product    GroupQueryAttention    product
    query of the cross-attention               MultiHeadAttention     product     fc1, GELU, fc2

and behind each part SkipLayerNormalization, which adds the bias and the residual, too.
GroupQueryAttention has one key a query here. It reads from the GPU how far the caches are written,
so that one CUDA graph serves all steps; DecoderMaskedMultiHeadAttention wants that on the host.
"""

from typing import Any, NamedTuple

import onnx_ir as ir
from onnxscript import OpBuilder
from onnxscript.nn import Module, ModuleList, Parameter

from florence_edge import contract

from ..checkpoint.config import TextConfig
from .decoder import Cache, scores
from .layers import (
    LAYER_NORM_EPSILON,
    MASKED,
    LayerNorm,
    Linear,
    Values,
    activate,
)
from .ort_operators import Affine, fused, joined
from .text import Embedding, PositionTable


class Written(NamedTuple):
    """How far the self caches are written.

    `last` [R] int32 is the row of the token at hand, `capacity` [1] int32 how many rows there are.
    """

    last: ir.Value
    capacity: ir.Value


class CudaDecoder(Module):
    """One step of generation; see the module docstring. `own_head` is as of `Decoder`."""

    def __init__(self, config: TextConfig, *, own_head: bool = False) -> None:
        super().__init__("decoder")
        self.width = config.d_model
        self.shared = Embedding(config)
        self.embed_positions = PositionTable(config)
        self.layernorm_embedding = LayerNorm(config.d_model)
        self.layers = ModuleList([FusedLayer(config) for _ in range(config.decoder_layers)])
        table = [config.vocab_size, config.d_model]
        self.lm_head = Parameter(table, name="lm_head.weight") if own_head else None
        self.final_logits_bias = Parameter([config.vocab_size])

    def forward(self, op: OpBuilder, inputs: Values) -> Values:
        x = self.shared(op, inputs["token_ids"])
        x = op.Add(x, self.embed_positions(op, inputs["position"]))
        x = self.layernorm_embedding(op, x)

        first_cache = inputs[contract.self_cache(0, "key")]
        position = op.Cast(inputs["position"], to=ir.DataType.INT32)
        capacity = op.Cast(op.Shape(first_cache, start=2, end=3), to=ir.DataType.INT32)
        written = Written(op.Expand(position, op.Shape(first_cache, start=0, end=1)), capacity)
        mask = op.Cast(inputs["encoder_mask"], to=ir.DataType.INT32)
        kept = {}
        for i, layer in enumerate(self.layers):
            past = Cache(*(inputs[contract.self_cache(i, part)] for part in contract.PARTS))
            cross = Cache(*(inputs[contract.cross_cache(i, part)] for part in contract.PARTS))
            x, caches = layer(op, x, past, written, cross, mask)
            kept[contract.kept_cache(i, "key")] = caches.key
            kept[contract.kept_cache(i, "value")] = caches.value
        head = self.shared.weight if self.lm_head is None else self.lm_head
        return scores(op, op.Reshape(x, [-1, self.width]), head, self.final_logits_bias) | kept


class FusedLayer(Module):
    """BART's post-norm decoder layer, for one new token a row."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.activation = config.activation
        self.self_attn = FusedSelfAttention(config.d_model, config.decoder_heads)
        self.self_attn_layer_norm = Affine(config.d_model)
        self.encoder_attn = FusedCrossAttention(config.d_model, config.decoder_heads)
        self.encoder_attn_layer_norm = Affine(config.d_model)
        self.fc1 = Linear(config.d_model, config.decoder_ffn)
        self.fc2 = Affine(config.decoder_ffn, config.d_model)
        self.final_layer_norm = Affine(config.d_model)

    def forward(
        self,
        op: OpBuilder,
        x: ir.Value,
        past: Cache,
        written: Written,
        cross_cache: Cache,
        cross_mask: ir.Value,
    ) -> tuple[ir.Value, Cache]:
        hidden, bias, kept = self.self_attn(op, x, past, written)
        x = _add_and_norm(op, x, hidden, bias, self.self_attn_layer_norm)
        hidden, bias = self.encoder_attn(op, x, cross_cache, cross_mask)
        x = _add_and_norm(op, x, hidden, bias, self.encoder_attn_layer_norm)
        weight, bias = self.fc2(op)
        hidden = op.MatMul(activate(op, self.fc1(op, x), self.activation), weight)
        return _add_and_norm(op, x, hidden, bias, self.final_layer_norm), kept


class FusedSelfAttention(Module):
    """Self-attention of one new token a row, but for its last bias."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.width = width
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj = (Affine(width, width) for _ in range(3))
        self.out_proj = Affine(width, width)

    def forward(
        self, op: OpBuilder, x: ir.Value, past: Cache, written: Written
    ) -> tuple[ir.Value, ir.Value, Cache]:
        """[B, N, D], the bias [D] that is left to add, and the caches with the new row."""
        weight, bias = joined(op, self.q_proj, self.k_proj, self.v_proj)
        rows = op.Reshape(x, [-1, 1, self.width])  # each beam has caches of its own
        packed = op.Add(op.MatMul(rows, weight), bias)
        attended, key, value = fused(
            op,
            "GroupQueryAttention",
            [packed, None, None, *past, *written],
            outputs=3,
            num_heads=self.heads,
            kv_num_heads=self.heads,
            scale=1.0,  # queries come scaled
        )
        weight, bias = self.out_proj(op)
        return op.Reshape(op.MatMul(attended, weight), op.Shape(x)), bias, Cache(key, value)


class FusedCrossAttention(Module):
    """Cross-attention, but for its last bias; its queries are the beams of an image."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = Linear(width, width)
        self.out_proj = Affine(width, width)

    def forward(
        self, op: OpBuilder, x: ir.Value, cache: Cache, mask: ir.Value
    ) -> tuple[ir.Value, ir.Value]:
        """[B, N, D] of what is attended to where `mask` [B, E] int32 is not 0, and the bias [D]."""
        inputs = [self.q_proj(op, x), *cache, None, mask]
        numbers: dict[str, Any] = {"scale": 1.0, "mask_filter_value": MASKED}
        (attended,) = fused(op, "MultiHeadAttention", inputs, num_heads=self.heads, **numbers)
        weight, bias = self.out_proj(op)
        return op.MatMul(attended, weight), bias


def _add_and_norm(
    op: OpBuilder, x: ir.Value, hidden: ir.Value, bias: ir.Value, norm: Affine
) -> ir.Value:
    """The norm of x + hidden + bias."""
    inputs = [hidden, x, *norm(op), bias]
    return fused(op, "SkipLayerNormalization", inputs, epsilon=LAYER_NORM_EPSILON)[0]
