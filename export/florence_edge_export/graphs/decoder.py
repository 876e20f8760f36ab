"""The decoder: one token of every beam in, the scores of the next token out.

    token_ids [B, N], position [1], encoder_mask [B, E], self caches [R, H, S, d] (R = B * N),
    cross caches [B, H, E, d]  ->  top_logits, top_ids [R, K], log_sum_exp [R], logits [R, V],
                                   new_key.i, new_value.i [R, H, 1, d]

Two things keep a step cheap. The cache is read where it lies: attention over it and over the new
row are two products under one softmax, and the caller places the new row afterwards. And beams of
one image share its cross-attention cache.

There are two more forms for TensorRT, which compute the same by operators with which it copies no
cache: "tensorrt" for any release, "in place" for 10.15 and newer. In place, the graph scatters the
new row into the cache and gives the result back whole (contract.in_place_decoder): TensorRT's
KVCacheUpdate, for which both are one memory. It attends to the first S rows of the result, which
TensorRT reads where they lie.
"""

from typing import Literal, NamedTuple, TypeAlias

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

Form: TypeAlias = Literal["portable", "tensorrt", "in place"]

_MANY_WORDS = 16_384


class Cache(NamedTuple):
    """Keys and values of one layer."""

    key: ir.Value
    value: ir.Value


class Place(NamedTuple):
    """Where in a cache the new row of each beam goes, [R], and how many rows are read, [1]."""

    rows_at: ir.Value
    attended: ir.Value


class SelfCache(NamedTuple):
    """The past of a layer, what of it is masked, and where the new row goes, if in place."""

    past: Cache
    mask: ir.Value
    place: Place | None


class Decoder(Module):
    """One step of generation; see the module docstring for shapes.

    `form` is "portable", or for TensorRT "tensorrt" or "in place". With `own_head` the scores have
    a matrix of their own, and are not those of the embedding.
    """

    def __init__(
        self, config: TextConfig, *, form: Form = "portable", own_head: bool = False
    ) -> None:
        super().__init__("decoder")
        self.form = form
        self.width = config.d_model
        self.vocab_size = config.vocab_size
        self.shared = Embedding(config)
        self.embed_positions = PositionTable(config)
        self.layernorm_embedding = LayerNorm(config.d_model)
        self.layers = ModuleList([DecoderLayer(config, form) for _ in range(config.decoder_layers)])
        table = [config.vocab_size, config.d_model]
        self.lm_head = Parameter(table, name="lm_head.weight") if own_head else None
        self.final_logits_bias = Parameter([config.vocab_size])

    def forward(self, op: OpBuilder, inputs: Values) -> Values:
        token_ids, position = inputs["token_ids"], inputs["position"]
        x = self.shared(op, token_ids)
        x = op.Add(x, self.embed_positions(op, position))
        x = self.layernorm_embedding(op, x)

        first_cache = inputs[contract.self_cache(0, "key")]
        place = None
        if self.form == "in place":
            rows_at = op.Expand(position, op.Shape(first_cache, start=0, end=1))
            place = Place(rows_at, op.Shape(inputs["rows"]))
            past_mask = self._mask(op, op.Greater(inputs["rows"], position))
        else:
            capacity = op.Squeeze(op.Shape(first_cache, start=2, end=3), [0])
            unwritten = op.GreaterOrEqual(op.Range(0, capacity, 1), position)
            past_mask = self._mask(op, unwritten)
        written = contract.kept_cache if place else contract.new_row
        cross_mask = additive_mask(op, inputs["encoder_mask"])
        rows = {}
        for i, layer in enumerate(self.layers):
            past = Cache(*(inputs[contract.self_cache(i, part)] for part in contract.PARTS))
            cross = Cache(*(inputs[contract.cross_cache(i, part)] for part in contract.PARTS))
            x, row = layer(op, x, SelfCache(past, past_mask, place), cross, cross_mask)
            rows[written(i, "key")] = row.key
            rows[written(i, "value")] = row.value
        head = self.shared.weight if self.lm_head is None else self.lm_head
        parts = 1 if self.form == "portable" else _parts(self.vocab_size)
        x = op.Reshape(x, [-1, self.width])
        return scores(op, x, head, self.final_logits_bias, parts=parts) | rows

    def _mask(self, op: OpBuilder, unwritten: ir.Value) -> ir.Value:
        """[S] of MASKED for rows that are not written yet, and 0 for others."""
        return op.Mul(op.Cast(unwritten, to=ir.DataType.FLOAT), MASKED)


def scores(
    op: OpBuilder, rows: ir.Value, head: ir.Value, bias: ir.Value, *, parts: int = 1
) -> Values:
    """Logits of [R, D], their best K, and what makes log-probabilities of them.

    A log-softmax over the vocabulary would be written and read once more for the same order, and
    TensorRT computes it as the logarithm of a quotient: -inf 100 below the best. It also clears a
    number to sum up a long row in with a kernel of its own, and does not for a sum of `parts`.
    """
    logits = op.Gemm(rows, head, bias, transB=1)
    top_logits, top_ids = op.TopK(logits, [contract.TOP_K], axis=-1, _outputs=2)
    best_logit = op.Slice(top_logits, [0], [1], [1])
    exps = op.Exp(op.Sub(logits, best_logit))
    if parts > 1:
        exps = op.ReduceSum(op.Reshape(exps, [0, parts, -1]), [-1], keepdims=0)
    return {
        "top_logits": top_logits,
        "top_ids": top_ids,
        "log_sum_exp": op.Log(op.ReduceSum(exps, [-1], keepdims=0)),
        "logits": logits,
    }


def _parts(words: int) -> int:
    """Into how many equal parts a row of scores is taken: the most up to 256 that divide it.

    The miniature's 2,455 words are summed up at once anyway, Florence-2's 51,289 are not.
    """
    return 1 if words < _MANY_WORDS else max(n for n in range(1, 257) if words % n == 0)


class DecoderLayer(Module):
    """BART's post-norm decoder layer, for one new token a row."""

    def __init__(self, config: TextConfig, form: Form) -> None:
        super().__init__()
        self.activation = config.activation
        self.self_attn = CachedAttention(config.d_model, config.decoder_heads, form)
        self.self_attn_layer_norm = LayerNorm(config.d_model)
        self.encoder_attn = CrossAttention(config.d_model, config.decoder_heads, form)
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

    def __init__(self, width: int, heads: int, form: Form) -> None:
        super().__init__()
        self.width = width
        self.heads = heads
        self.form = form
        self.q_proj, self.k_proj, self.v_proj = query_key_value(width)
        self.out_proj = Linear(width, width)

    def forward(self, op: OpBuilder, x: ir.Value, cache: SelfCache) -> tuple[ir.Value, Cache]:
        """Attend; gives the new row, or the caches with it where they are written in place."""
        one_row = [-1, self.heads, 1, self.width // self.heads]  # one token: no Transpose needed
        query = op.Reshape(self.q_proj(op, x), one_row)
        row = Cache(
            op.Reshape(self.k_proj(op, x), one_row), op.Reshape(self.v_proj(op, x), one_row)
        )

        if cache.place is None:
            sums = _attend_by_sums if self.form == "tensorrt" else _attend_by_products
            attended = sums(op, query, cache, row)
            return self.out_proj(op, op.Reshape(attended, op.Shape(x))), row
        kept = Cache(
            _placed(op, cache.past.key, row.key, cache.place),
            _placed(op, cache.past.value, row.value, cache.place),
        )
        read = Cache(*(op.Slice(part, [0], cache.place.attended, [2]) for part in kept))
        attended = _attend(op, query, read, cache.mask)
        return self.out_proj(op, op.Reshape(attended, op.Shape(x))), kept


def _attend(op: OpBuilder, query: ir.Value, cache: Cache, mask: ir.Value) -> ir.Value:
    scores = op.MatMul(query, op.Transpose(cache.key, perm=[0, 1, 3, 2]))
    return op.MatMul(op.Softmax(op.Add(scores, mask), axis=-1), cache.value)


def _attend_by_products(op: OpBuilder, query: ir.Value, cache: SelfCache, row: Cache) -> ir.Value:
    """Over the past and the new row, with a softmax over the scores of both."""
    past = op.MatMul(query, op.Transpose(cache.past.key, perm=[0, 1, 3, 2]))
    own = op.ReduceSum(op.Mul(query, row.key), [-1], keepdims=1)
    scores = op.Concat(op.Add(past, cache.mask), own, axis=-1)
    weights = op.Softmax(scores, axis=-1)

    past = op.MatMul(op.Slice(weights, [0], [-1], [3]), cache.past.value)
    own = op.Mul(op.Slice(weights, [-1], [2**31 - 1], [3]), row.value)
    return op.Add(past, own)


def _attend_by_sums(op: OpBuilder, query: ir.Value, cache: SelfCache, row: Cache) -> ir.Value:
    """The same without a product.

    TensorRT multiplies and adds up in one kernel, and would copy the cache first for a product of
    one row. Other engines would write what is multiplied, and read it again.
    """
    past = op.ReduceSum(op.Mul(query, cache.past.key), [-1], keepdims=1)
    own = op.ReduceSum(op.Mul(query, row.key), [-1], keepdims=1)
    scores = op.Concat(op.Add(past, op.Unsqueeze(cache.mask, [1])), own, axis=2)
    weights = op.Softmax(scores, axis=2)  # [R, H, S + 1, 1]

    past = op.ReduceSum(
        op.Mul(op.Slice(weights, [0], [-1], [2]), cache.past.value), [2], keepdims=1
    )
    own = op.Mul(op.Slice(weights, [-1], [2**31 - 1], [2]), row.value)
    return op.Add(past, own)


def _placed(op: OpBuilder, cache: ir.Value, row: ir.Value, place: Place) -> ir.Value:
    """The cache [R, H, capacity, d] with row r of [R, H, 1, d] where it goes."""
    return op.TensorScatter(cache, row, place.rows_at, axis=2, mode="linear")


class CrossAttention(Module):
    """Attention over the picture and the prompt, whose cache the beams of an image share.

    The beams are the rows of one product with it. For TensorRT it is broadcast over the beams, each
    a product of one row as in self-attention: that is one kernel, which reads the cache where it
    lies. As rows, or as ONNX's Attention, TensorRT copies the cache in each layer and step
    (results/tensorrt/decoder_plans.json); broadcast, ONNX Runtime's CUDA provider copies addresses.
    """

    def __init__(self, width: int, heads: int, form: Form) -> None:
        super().__init__()
        self.width = width
        self.heads = heads
        self.form = form
        self.q_proj = Linear(width, width)
        self.out_proj = Linear(width, width)

    def forward(self, op: OpBuilder, x: ir.Value, cache: Cache, mask: ir.Value) -> ir.Value:
        if self.form == "portable":
            query = split_heads(op, self.q_proj(op, x), self.heads, self.width // self.heads)
            attended = _attend(op, query, cache, mask)
            return self.out_proj(op, merge_heads(op, attended, self.width))
        one_row = [0, 0, self.heads, 1, self.width // self.heads]  # [B, N, H, 1, d]
        query = op.Reshape(self.q_proj(op, x), one_row)
        key = op.Transpose(op.Unsqueeze(cache.key, [1]), perm=[0, 1, 2, 4, 3])
        scores = op.Add(op.MatMul(query, key), op.Unsqueeze(mask, [1]))
        weights = op.Softmax(scores, axis=-1)
        attended = op.MatMul(weights, op.Unsqueeze(cache.value, [1]))
        return self.out_proj(op, op.Reshape(attended, [0, 0, self.width]))
