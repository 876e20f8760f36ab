"""The graphs of onnx-community's layout, of the same layers as ours; see layout.py for shapes.

The decoder has no `If`. What of the encoder's states the caches already have is cut off before it
is projected: the first call projects all of them, later ones none, and then `present.i.encoder` is
empty, as it is in graphs of optimum. `use_cache_branch` false leaves caches that come in unread,
whatever their length.
"""

from typing import NamedTuple

import onnx_ir as ir
from onnxscript import OpBuilder
from onnxscript.nn import Module, ModuleList, Parameter

from florence_edge.contract import PARTS
from florence_edge.errors import BundleError

from ..bundle_writer import BundleSource
from ..checkpoint.config import CheckpointConfig, TextConfig
from ..checkpoint.embeddings import DECODER as DECODER_EMBEDDING
from ..checkpoint.loader import Checkpoint
from ..graphs.build import build_graph as graph_of
from ..graphs.layers import (
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
from ..graphs.text import Embedding, EncoderLayer, PositionTable
from ..graphs.vision import VisionEncoder
from ..graphs.weights import GraphWeights
from . import layout

_END = 2**31 - 1


def build_graph(name: str, source: BundleSource) -> ir.Model:
    """One of the graphs in float32, or the decoder of the first step.

    Raises:
        BundleError: the checkpoint lacks a tensor.
    """
    config, size = source.checkpoint.config, source.size
    weights = GraphWeights(source.checkpoint, size.image_size, source.image.mean, source.image.std)
    return graph_of(_module(name, config, weights), layout.signatures(size)[name], weights)


def _module(name: str, config: CheckpointConfig, weights: GraphWeights) -> Module:
    match name:
        case layout.VISION_ENCODER:
            return VisionEncoder(config.vision, weights.image_size, normalizes=False)
        case layout.EMBED_TOKENS:
            return EmbedTokens(config.text)
        case layout.ENCODER:
            return EncoderModel(config.text)
    cached = name == layout.DECODER
    return Decoder(config.text, cached=cached, own_head=weights.own_head)


def check_one_embedding(checkpoint: Checkpoint) -> None:
    """Refuse a checkpoint that this layout has no place for.

    Raises:
        BundleError: prompts and answers are looked up in two tables.
    """
    if DECODER_EMBEDDING in checkpoint.tensors:
        raise BundleError(
            f"{checkpoint.folder} stores {DECODER_EMBEDDING} with values of its own, but "
            "embed_tokens serves prompts and answers in this layout. Export it without --layout."
        )


class EmbedTokens(Module):
    """input_ids [B, T] -> inputs_embeds [B, T, D], for prompts and answers."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__("text_encoder")
        self.shared = Embedding(config)

    def forward(self, op: OpBuilder, inputs: Values) -> Values:
        return {"inputs_embeds": self.shared(op, inputs["input_ids"])}


class EncoderModel(Module):
    """attention_mask [B, E], inputs_embeds [B, E, D] -> last_hidden_state [B, E, D]."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__("text_encoder")
        self.embed_positions = PositionTable(config)
        self.layernorm_embedding = LayerNorm(config.d_model)
        self.layers = ModuleList([EncoderLayer(config) for _ in range(config.encoder_layers)])

    def forward(self, op: OpBuilder, inputs: Values) -> Values:
        x = inputs["inputs_embeds"]
        length = op.Squeeze(op.Shape(x, start=1, end=2), [0])
        x = op.Add(x, self.embed_positions(op, op.Range(0, length, 1)))
        x = self.layernorm_embedding(op, x)
        mask = additive_mask(op, inputs["attention_mask"])
        for layer in self.layers:
            x = layer(op, x, mask)
        return {"last_hidden_state": x}


class Pair(NamedTuple):
    """Keys and values of one attention, [B, heads, rows, head_dim]."""

    key: ir.Value
    value: ir.Value


class Reads(NamedTuple):
    """What an attention has beside its query: the past of it, what new rows are made of, a mask."""

    past: Pair | None
    source: ir.Value
    mask: ir.Value


class Decoder(Module):
    """Some new tokens in, their scores and the caches with them out; see the module docstring.

    Without `cached` no caches come in: the new tokens are an answer's first.
    """

    def __init__(self, config: TextConfig, *, cached: bool, own_head: bool) -> None:
        super().__init__("decoder")
        self.cached = cached
        self.width = config.d_model
        self.vocab_size = config.vocab_size
        self.embed_positions = PositionTable(config)
        self.layernorm_embedding = LayerNorm(config.d_model)
        self.layers = ModuleList([DecoderLayer(config) for _ in range(config.decoder_layers)])
        self.head = Parameter(
            [config.vocab_size, config.d_model],
            name="lm_head.weight" if own_head else "shared.weight",
        )
        self.final_logits_bias = Parameter([config.vocab_size])

    def forward(self, op: OpBuilder, inputs: Values) -> Values:
        embeds, states = inputs["inputs_embeds"], inputs["encoder_hidden_states"]
        known = self._known_rows(op, inputs) if self.cached else None
        start = op.Constant(value_ints=[0]) if known is None else known["decoder"]
        end = op.Add(start, op.Shape(embeds, start=1, end=2))
        places = op.Range(op.Squeeze(start, [0]), op.Squeeze(end, [0]), 1)
        x = op.Add(embeds, self.embed_positions(op, places))
        x = self.layernorm_embedding(op, x)

        later = op.Greater(op.Range(0, op.Squeeze(end, [0]), 1), op.Unsqueeze(places, [1]))
        causal = op.Mul(op.Cast(later, to=ir.DataType.FLOAT), MASKED)  # [L, P + L]
        visible = inputs["encoder_attention_mask"]
        if known is not None:
            visible = self._visible(op, inputs, known["encoder"])
            states = op.Slice(states, known["encoder"], [_END], [1])
        hidden = additive_mask(op, visible)
        caches: Values = {}
        for i, layer in enumerate(self.layers):
            own, about = self._pasts(op, inputs, i, known)
            x, kept = layer(op, x, Reads(own, x, causal), Reads(about, states, hidden))
            for attention, pair in zip(layout.ATTENTIONS, kept, strict=True):
                for part, value in zip(PARTS, pair, strict=True):
                    caches[layout.present(i, attention, part)] = value
        return {"logits": self._logits(op, x), **caches}

    def _known_rows(self, op: OpBuilder, inputs: Values) -> dict[layout.Attention, ir.Value]:
        """How many rows of the caches that come in count, [1]: all of them, or none."""
        used = op.Cast(inputs["use_cache_branch"], to=ir.DataType.INT64)
        first = {each: inputs[layout.past(0, each, "key")] for each in layout.ATTENTIONS}
        return {
            each: op.Mul(op.Shape(cache, start=2, end=3), used) for each, cache in first.items()
        }

    def _visible(self, op: OpBuilder, inputs: Values, known: ir.Value) -> ir.Value:
        """The encoder's mask for rows from the cache, and behind them those that are new.

        Rows that do not count are hidden, since cutting them off would copy the cache in each step.
        """
        mask = inputs["encoder_attention_mask"]
        rows = op.Shape(inputs[layout.past(0, "encoder", "key")], start=2, end=3)
        used = op.Cast(inputs["use_cache_branch"], to=ir.DataType.INT64)
        cached = op.Mul(op.Slice(mask, [0], rows, [1]), used)
        return op.Concat(cached, op.Slice(mask, known, [_END], [1]), axis=1)

    def _pasts(
        self,
        op: OpBuilder,
        inputs: Values,
        layer: int,
        known: dict[layout.Attention, ir.Value] | None,
    ) -> tuple[Pair | None, Pair | None]:
        """What came in of a layer: of the answer as far as it counts, and of the encoder."""
        if known is None:
            return None, None
        own, about = (
            Pair(*(inputs[layout.past(layer, attention, part)] for part in PARTS))
            for attention in layout.ATTENTIONS
        )
        return Pair(*(op.Slice(part, [0], known["decoder"], [2]) for part in own)), about

    def _logits(self, op: OpBuilder, x: ir.Value) -> ir.Value:
        rows = op.Reshape(x, [-1, self.width])
        logits = op.Gemm(rows, self.head, self.final_logits_bias, transB=1)
        shape = op.Concat(op.Shape(x, start=0, end=2), [self.vocab_size], axis=0)
        return op.Reshape(logits, shape)


class DecoderLayer(Module):
    """BART's post-norm decoder layer; gives the caches of both attentions, too."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.activation = config.activation
        self.self_attn = CachedAttention(config.d_model, config.decoder_heads)
        self.self_attn_layer_norm = LayerNorm(config.d_model)
        self.encoder_attn = CachedAttention(config.d_model, config.decoder_heads)
        self.encoder_attn_layer_norm = LayerNorm(config.d_model)
        self.fc1 = Linear(config.d_model, config.decoder_ffn)
        self.fc2 = Linear(config.decoder_ffn, config.d_model)
        self.final_layer_norm = LayerNorm(config.d_model)

    def forward(
        self, op: OpBuilder, x: ir.Value, own: Reads, about: Reads
    ) -> tuple[ir.Value, tuple[Pair, Pair]]:
        attended, _, grown = self.self_attn(op, x, own)
        x = self.self_attn_layer_norm(op, op.Add(x, attended))
        attended, projected, _ = self.encoder_attn(op, x, about)
        x = self.encoder_attn_layer_norm(op, op.Add(x, attended))
        hidden = self.fc2(op, activate(op, self.fc1(op, x), self.activation))
        return self.final_layer_norm(op, op.Add(x, hidden)), (grown, projected)


class CachedAttention(Module):
    """Attention over rows that came in, and new ones behind them."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.width = width
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj = query_key_value(width)
        self.out_proj = Linear(width, width)

    def forward(self, op: OpBuilder, x: ir.Value, reads: Reads) -> tuple[ir.Value, Pair, Pair]:
        """Attend; gives the new rows, and those of the past with them."""
        heads, head_dim = self.heads, self.width // self.heads
        query = split_heads(op, self.q_proj(op, x), heads, head_dim)
        new = Pair(
            *(
                split_heads(op, linear(op, reads.source), heads, head_dim)
                for linear in (self.k_proj, self.v_proj)
            )
        )
        both = new
        if reads.past is not None:
            both = Pair(*(op.Concat(*each, axis=2) for each in zip(reads.past, new, strict=True)))
        scores = op.MatMul(query, op.Transpose(both.key, perm=[0, 1, 3, 2]))
        attended = op.MatMul(op.Softmax(op.Add(scores, reads.mask), axis=-1), both.value)
        return self.out_proj(op, merge_heads(op, attended, self.width)), new, both
