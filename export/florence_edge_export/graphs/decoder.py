"""The decoder: one token of every beam in, the scores of the next token out.

    token_ids [B, N], position [1], encoder_mask [B, E], self caches [R, H, S, d] (R = B * N),
    cross caches [B, H, E, d]  ->  top_log_probs, top_ids [B, N, K], log_probs [B, N, V],
                                   log_normalizer [B, N], new_key.i, new_value.i [R, H, 1, d]

Two things keep a step cheap. The cache is read where it lies: attention over it and over the new
row are two products under one softmax, and the caller places the new row afterwards. And beams of
one image share its cross-attention cache: they are folded into the query axis.

In place, the graph scatters the new row into the cache and attends to the result, which it gives
back whole (contract.in_place_decoder): TensorRT's KVCacheUpdate, for which both are one memory.
"""

from typing import NamedTuple

import onnx_ir as ir
from onnxscript import OpBuilder
from onnxscript.nn import Module, ModuleList, Parameter

from florence_edge import contract

from ..checkpoint.config import TextConfig
from .layers import (
    MASKED,
    LayerNorm,
    Linear,
    Values,
    activate,
    additive_mask,
    merge_heads,
    query_key_value,
    split_heads,
)
from .text import Embedding, PositionTable


class Cache(NamedTuple):
    """Keys and values of one layer."""

    key: ir.Value
    value: ir.Value


class SelfCache(NamedTuple):
    """The past of a layer, what of it is masked, and where in it each row goes, if in place."""

    past: Cache
    mask: ir.Value
    rows_at: ir.Value | None


class Decoder(Module):
    """One step of generation; see the module docstring for shapes.

    `own_head`: the scores have a matrix of their own, and are not those of the embedding.
    """

    def __init__(
        self, config: TextConfig, *, in_place: bool = False, own_head: bool = False
    ) -> None:
        super().__init__("decoder")
        self.in_place = in_place
        self.width = config.d_model
        self.embedding_scale = config.d_model**0.5 if config.scale_embedding else 1.0
        self.shared = Embedding(config.vocab_size, config.d_model)
        self.embed_positions = PositionTable(config)
        self.layernorm_embedding = LayerNorm(config.d_model)
        self.layers = ModuleList([DecoderLayer(config) for _ in range(config.decoder_layers)])
        table = [config.vocab_size, config.d_model]
        self.lm_head = Parameter(table, name="lm_head.weight") if own_head else None
        self.final_logits_bias = Parameter([config.vocab_size])

    def forward(self, op: OpBuilder, inputs: Values) -> Values:
        token_ids, position = inputs["token_ids"], inputs["position"]
        x = self.shared(op, token_ids)
        if self.embedding_scale != 1.0:
            x = op.Mul(x, self.embedding_scale)
        x = op.Add(x, self.embed_positions(op, position))
        x = self.layernorm_embedding(op, x)

        first_cache = inputs[contract.self_cache(0, "key")]
        past_mask = self._past_mask(op, position, first_cache)
        rows_at = None
        if self.in_place:
            rows_at = op.Expand(position, op.Shape(first_cache, start=0, end=1))
        written = contract.kept_cache if self.in_place else contract.new_row
        cross_mask = additive_mask(op, inputs["encoder_mask"])
        rows = {}
        for i, layer in enumerate(self.layers):
            past = Cache(*(inputs[contract.self_cache(i, part)] for part in contract.PARTS))
            cross = Cache(*(inputs[contract.cross_cache(i, part)] for part in contract.PARTS))
            x, row = layer(op, x, SelfCache(past, past_mask, rows_at), cross, cross_mask)
            rows[written(i, "key")] = row.key
            rows[written(i, "value")] = row.value
        return self._scores(op, x, token_ids) | rows

    def _past_mask(self, op: OpBuilder, position: ir.Value, cache: ir.Value) -> ir.Value:
        """[S] of 0 for rows before `position` and MASKED for those not written yet.

        In place, the row at `position` will have been written.
        """
        capacity = op.Squeeze(op.Shape(cache, start=2, end=3), [0])
        beyond = op.Greater if self.in_place else op.GreaterOrEqual
        unwritten = beyond(op.Range(0, capacity, 1), position)
        return op.Mul(op.Cast(unwritten, to=ir.DataType.FLOAT), MASKED)

    def _scores(self, op: OpBuilder, x: ir.Value, token_ids: ir.Value) -> Values:
        """Logits as log-probabilities, whole and the best K, and what was subtracted for that.

        That is read off the best token of each row, which costs nothing.
        """
        head = self.shared.weight if self.lm_head is None else self.lm_head
        logits = op.Gemm(op.Reshape(x, [-1, self.width]), head, self.final_logits_bias, transB=1)
        log_probs = op.LogSoftmax(logits, axis=-1)
        log_probs = op.Reshape(log_probs, op.Concat(op.Shape(token_ids), [-1], axis=0))
        top_log_probs, top_ids = op.TopK(log_probs, [contract.TOP_K], axis=-1, _outputs=2)
        best_id = op.Reshape(op.Slice(top_ids, [0], [1], [2]), [-1, 1])
        best_logit = op.Reshape(op.GatherElements(logits, best_id, axis=1), op.Shape(token_ids))
        best_log_prob = op.Squeeze(op.Slice(top_log_probs, [0], [1], [2]), [2])
        return {
            "top_log_probs": top_log_probs,
            "top_ids": top_ids,
            "log_probs": log_probs,
            "log_normalizer": op.Sub(best_logit, best_log_prob),
        }


class DecoderLayer(Module):
    """BART's post-norm decoder layer, for one new token a row."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.activation = config.activation
        self.self_attn = CachedAttention(config.d_model, config.decoder_heads)
        self.self_attn_layer_norm = LayerNorm(config.d_model)
        self.encoder_attn = CrossAttention(config.d_model, config.decoder_heads)
        self.encoder_attn_layer_norm = LayerNorm(config.d_model)
        self.fc1 = Linear(config.d_model, config.decoder_ffn)
        self.fc2 = Linear(config.decoder_ffn, config.d_model)
        self.final_layer_norm = LayerNorm(config.d_model)

    def forward(
        self,
        op: OpBuilder,
        x: ir.Value,
        self_cache: SelfCache,
        cross_cache: Cache,
        cross_mask: ir.Value,
    ) -> tuple[ir.Value, Cache]:
        attended, row = self.self_attn(op, x, self_cache)
        x = self.self_attn_layer_norm(op, op.Add(x, attended))
        x = self.encoder_attn_layer_norm(
            op, op.Add(x, self.encoder_attn(op, x, cross_cache, cross_mask))
        )
        hidden = self.fc2(op, activate(op, self.fc1(op, x), self.activation))
        return self.final_layer_norm(op, op.Add(x, hidden)), row


class CachedAttention(Module):
    """Self-attention of one new token a row over the cache and itself."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.width = width
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj = query_key_value(width)
        self.out_proj = Linear(width, width)

    def forward(self, op: OpBuilder, x: ir.Value, cache: SelfCache) -> tuple[ir.Value, Cache]:
        """Attend; gives the new row, or the caches with it where they are written in place."""
        one_row = [-1, self.heads, 1, self.width // self.heads]  # one token: no Transpose needed
        query = op.Reshape(self.q_proj(op, x), one_row)
        row = Cache(
            op.Reshape(self.k_proj(op, x), one_row), op.Reshape(self.v_proj(op, x), one_row)
        )

        if cache.rows_at is None:
            attended = _attend_to_past_and_row(op, query, cache, row)
        else:
            row = Cache(
                _placed(op, cache.past.key, row.key, cache.rows_at),
                _placed(op, cache.past.value, row.value, cache.rows_at),
            )
            attended = _attend(op, query, row, cache.mask)
        x = op.Reshape(attended, op.Shape(x))
        return self.out_proj(op, x), row


def _attend(op: OpBuilder, query: ir.Value, cache: Cache, mask: ir.Value) -> ir.Value:
    scores = op.MatMul(query, op.Transpose(cache.key, perm=[0, 1, 3, 2]))
    return op.MatMul(op.Softmax(op.Add(scores, mask), axis=-1), cache.value)


def _attend_to_past_and_row(
    op: OpBuilder, query: ir.Value, cache: SelfCache, row: Cache
) -> ir.Value:
    past = op.MatMul(query, op.Transpose(cache.past.key, perm=[0, 1, 3, 2]))
    own = op.ReduceSum(op.Mul(query, row.key), [-1], keepdims=1)
    scores = op.Concat(op.Add(past, cache.mask), own, axis=-1)
    weights = op.Softmax(scores, axis=-1)

    past = op.MatMul(op.Slice(weights, [0], [-1], [3]), cache.past.value)
    own = op.Mul(op.Slice(weights, [-1], [2**31 - 1], [3]), row.value)
    return op.Add(past, own)


def _placed(op: OpBuilder, cache: ir.Value, row: ir.Value, rows_at: ir.Value) -> ir.Value:
    """The cache [R, H, S, d] with row r of [R, H, 1, d] at `rows_at` [R] of its S."""
    return op.TensorScatter(cache, row, rows_at, axis=2, mode="linear")


class CrossAttention(Module):
    """Attention over the picture and the prompt; the beams of an image are its queries."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.width = width
        self.heads = heads
        self.q_proj = Linear(width, width)
        self.out_proj = Linear(width, width)

    def forward(self, op: OpBuilder, x: ir.Value, cache: Cache, mask: ir.Value) -> ir.Value:
        query = split_heads(op, self.q_proj(op, x), self.heads, self.width // self.heads)
        attended = _attend(op, query, cache, mask)
        return self.out_proj(op, merge_heads(op, attended, self.width))
