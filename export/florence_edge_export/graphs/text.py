"""The text encoder: image tokens and prompt become the keys and values the decoder attends to.

    image_features [B, I, D], input_ids [B, T] -> BART encoder over E = I + T positions
      -> for each decoder layer: cross_key, cross_value [B, heads, E, head_dim]

The decoder's cross-attention projections live here, because they are needed once a prompt, not
once a token. Queries come scaled (folded into `q_proj`).
"""

import onnx_ir as ir
from onnxscript import OpBuilder
from onnxscript.nn import Module, ModuleList, Parameter

from florence_edge import contract

from ..checkpoint.config import TextConfig
from .layers import (
    LayerNorm,
    Linear,
    Values,
    activate,
    additive_mask,
    merge_heads,
    query_key_value,
    split_heads,
    split_heads_transposed,
)

POSITION_OFFSET = 2  # BART's position tables start two rows late (BartLearnedPositionalEmbedding)


class TextEncoder(Module):
    """image_features, input_ids, encoder_mask -> cross_key.0, cross_value.0, cross_key.1, ..."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__("text_encoder")
        self.shared = Embedding(config)
        self.embed_positions = PositionTable(config)
        self.layernorm_embedding = LayerNorm(config.d_model)
        self.layers = ModuleList([EncoderLayer(config) for _ in range(config.encoder_layers)])
        self.cross = ModuleList([CrossProjection(config) for _ in range(config.decoder_layers)])

    def forward(self, op: OpBuilder, inputs: Values) -> Values:
        words = self.shared(op, inputs["input_ids"])
        x = op.Concat(inputs["image_features"], words, axis=1)

        length = op.Squeeze(op.Shape(x, start=1, end=2), [0])
        x = op.Add(x, self.embed_positions(op, op.Range(0, length, 1)))
        x = self.layernorm_embedding(op, x)

        mask = additive_mask(op, inputs["encoder_mask"])
        for layer in self.layers:
            x = layer(op, x, mask)
        return {
            contract.cross_cache(i, part): cache
            for i, layer in enumerate(self.cross)
            for part, cache in zip(contract.PARTS, layer(op, x), strict=True)
        }


class Embedding(Module):
    """The words' vectors: int64 [B, L] -> [B, L, width], scaled where config.json asks for that."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.scale = config.d_model**0.5 if config.scale_embedding else 1.0
        self.weight = Parameter([config.vocab_size, config.d_model])

    def forward(self, op: OpBuilder, ids: ir.Value) -> ir.Value:
        x = op.Gather(self.weight, ids, axis=0)
        return x if self.scale == 1.0 else op.Mul(x, self.scale)


class PositionTable(Module):
    """Learned positions: int64 [L] -> [L, width]."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.weight = Parameter([config.positions + POSITION_OFFSET, config.d_model])

    def forward(self, op: OpBuilder, positions: ir.Value) -> ir.Value:
        return op.Gather(self.weight, op.Add(positions, POSITION_OFFSET), axis=0)


class EncoderLayer(Module):
    """BART's post-norm encoder layer."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.activation = config.activation
        self.self_attn = SelfAttention(config.d_model, config.encoder_heads)
        self.self_attn_layer_norm = LayerNorm(config.d_model)
        self.fc1 = Linear(config.d_model, config.encoder_ffn)
        self.fc2 = Linear(config.encoder_ffn, config.d_model)
        self.final_layer_norm = LayerNorm(config.d_model)

    def forward(self, op: OpBuilder, x: ir.Value, mask: ir.Value) -> ir.Value:
        x = self.self_attn_layer_norm(op, op.Add(x, self.self_attn(op, x, mask)))
        hidden = self.fc2(op, activate(op, self.fc1(op, x), self.activation))
        return self.final_layer_norm(op, op.Add(x, hidden))


class SelfAttention(Module):
    """Attention of all positions to all positions that `mask` leaves visible."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.width = width
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj = query_key_value(width)
        self.out_proj = Linear(width, width)

    def forward(self, op: OpBuilder, x: ir.Value, mask: ir.Value) -> ir.Value:
        heads, head_dim = self.heads, self.width // self.heads
        query = split_heads(op, self.q_proj(op, x), heads, head_dim)
        key = split_heads_transposed(op, self.k_proj(op, x), heads, head_dim)
        value = split_heads(op, self.v_proj(op, x), heads, head_dim)
        weights = op.Softmax(op.Add(op.MatMul(query, key), mask), axis=-1)
        return self.out_proj(op, merge_heads(op, op.MatMul(weights, value), self.width))


class CrossProjection(Module):
    """Keys and values of one decoder layer's cross-attention."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.heads = config.decoder_heads
        self.head_dim = config.d_model // config.decoder_heads
        self.k_proj = Linear(config.d_model, config.d_model)
        self.v_proj = Linear(config.d_model, config.d_model)

    def forward(self, op: OpBuilder, x: ir.Value) -> tuple[ir.Value, ir.Value]:
        key = split_heads(op, self.k_proj(op, x), self.heads, self.head_dim)
        value = split_heads(op, self.v_proj(op, x), self.heads, self.head_dim)
        return key, value
