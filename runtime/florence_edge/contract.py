"""The contract between export and runtime: names, shapes and dtypes of the three graphs.

    pixels ─ vision_encoder ─> image_features ─ text_encoder ─> cross_key.i, cross_value.i
                                                                        │
    token_ids, position, self caches ───────────────────────────── decoder ─> scores, new rows

The decoder's scores are logits, the best K of each row sorted, and one number that makes
log-probabilities of them: (logit - best logit of the row) - log_sum_exp.

Symbols in shapes: B images, T prompt tokens, E = image tokens + T, N beams, R = B*N cache rows,
S cache capacity. Everything else is a number of the model (`ModelSize`).
"""

from dataclasses import dataclass, replace
from typing import Literal

CONTRACT_VERSION = 3

VISION_ENCODER = "vision_encoder"
TEXT_ENCODER = "text_encoder"
DECODER = "decoder"
GRAPHS = (VISION_ENCODER, TEXT_ENCODER, DECODER)
VISION_TENSORRT = "vision_encoder.tensorrt"  # file name of the same vision encoder, for TensorRT
# File names of more decoders, for TensorRT: by operators with which it reads the caches where they
# lie, and (10.15 or newer) one that writes to them there, too.
TENSORRT_DECODER = "decoder.tensorrt"
IN_PLACE = "decoder.inplace"
TENSORRT_DECODERS = (TENSORRT_DECODER, IN_PLACE)
# File names of the vision encoder and the decoder by operators of ONNX Runtime's CUDA provider.
VISION_CUDA = "vision_encoder.cuda"
CUDA_DECODER = "decoder.cuda"

TOP_K = 32  # scores that leave the decoder per row; search needs 2 * beams of them after bans
MAX_BEAMS = 8
MIN_CACHE_CAPACITY = 64

Part = Literal["key", "value"]
PARTS: tuple[Part, Part] = ("key", "value")


# Far beyond every Florence-2, and small enough to be computed with.
_MOST = {
    "image_size": 1 << 14,
    "image_tokens": 1 << 20,
    "d_model": 1 << 16,
    "decoder_layers": 1 << 10,
    "decoder_heads": 1 << 12,
    "vocab_size": 1 << 24,
    "encoder_positions": 1 << 20,
    "decoder_positions": 1 << 20,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSize:
    """The numbers of a model that shapes depend on."""

    image_size: int
    image_tokens: int
    d_model: int
    decoder_layers: int
    decoder_heads: int
    vocab_size: int
    encoder_positions: int
    decoder_positions: int

    def check(self) -> None:
        """Refuse numbers that no model has, before anything is allocated by them.

        Raises:
            ValueError: naming the number, and what was expected.
        """
        for name, most in _MOST.items():
            value = getattr(self, name)
            if not 1 <= value <= most:
                raise ValueError(f"{name} is {value}, expected 1 to {most}")
        for holds, expected in (
            (self.d_model % self.decoder_heads == 0, "decoder_heads must divide d_model"),
            (self.vocab_size >= TOP_K, f"vocab_size must be {TOP_K} or more"),
            (self.encoder_positions > self.image_tokens, "the encoder must hold image and text"),
        ):
            if not holds:
                raise ValueError(f"{expected}, but the sizes are {self}")

    @property
    def head_dim(self) -> int:
        """Width of one attention head of the decoder."""
        return self.d_model // self.decoder_heads


@dataclass(frozen=True, slots=True)
class Tensor:
    """One input or output: a symbol in `shape` stands for a dynamic dimension."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True, slots=True)
class GraphSignature:
    """Inputs and outputs of one graph, in order."""

    name: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


def self_cache(layer: int, part: Part) -> str:
    """Name of a self-attention cache, [R, heads, S, head_dim]; rows not yet written are zero."""
    return f"self_{part}.{layer}"


def cross_cache(layer: int, part: Part) -> str:
    """Name of a cross-attention cache, [B, heads, E, head_dim]; shared by the beams of an image."""
    return f"cross_{part}.{layer}"


def new_row(layer: int, part: Part) -> str:
    """Name of the row a step adds to a self-attention cache, [R, heads, 1, head_dim]."""
    return f"new_{part}.{layer}"


def kept_cache(layer: int, part: Part) -> str:
    """Name of a self-attention cache that the in-place decoder has written the new row to."""
    return f"kept_{part}.{layer}"


def graphs(size: ModelSize, floats: str) -> dict[str, GraphSignature]:
    """The three graphs of a model; `floats` ("float32" or "float16") types features and caches."""
    return {
        VISION_ENCODER: _vision_encoder(size, floats),
        TEXT_ENCODER: _text_encoder(size, floats),
        DECODER: _decoder(size, floats),
    }


def _vision_encoder(size: ModelSize, floats: str) -> GraphSignature:
    side = size.image_size
    return GraphSignature(
        VISION_ENCODER,
        inputs=(Tensor("pixels", "uint8", ("B", side, side, 3)),),
        outputs=(Tensor("image_features", floats, ("B", size.image_tokens, size.d_model)),),
    )


def _text_encoder(size: ModelSize, floats: str) -> GraphSignature:
    cache = ("B", size.decoder_heads, "E", size.head_dim)
    return GraphSignature(
        TEXT_ENCODER,
        inputs=(
            Tensor("image_features", floats, ("B", size.image_tokens, size.d_model)),
            Tensor("input_ids", "int64", ("B", "T")),
            Tensor("encoder_mask", "int64", ("B", "E")),
        ),
        outputs=tuple(
            Tensor(cross_cache(layer, part), floats, cache)
            for layer in range(size.decoder_layers)
            for part in PARTS
        ),
    )


def _decoder(size: ModelSize, floats: str) -> GraphSignature:
    heads, head_dim = size.decoder_heads, size.head_dim
    layers = range(size.decoder_layers)
    return GraphSignature(
        DECODER,
        inputs=(
            Tensor("token_ids", "int64", ("B", "N")),
            Tensor("position", "int64", (1,)),
            Tensor("encoder_mask", "int64", ("B", "E")),
            *(
                Tensor(self_cache(layer, part), floats, ("R", heads, "S", head_dim))
                for layer in layers
                for part in PARTS
            ),
            *(
                Tensor(cross_cache(layer, part), floats, ("B", heads, "E", head_dim))
                for layer in layers
                for part in PARTS
            ),
        ),
        outputs=(
            Tensor("top_logits", "float32", ("R", TOP_K)),
            Tensor("top_ids", "int64", ("R", TOP_K)),
            Tensor("log_sum_exp", "float32", ("R",)),  # of logits, the row's best taken off
            Tensor("logits", floats, ("R", size.vocab_size)),
            *(
                Tensor(new_row(layer, part), floats, ("R", heads, 1, head_dim))
                for layer in layers
                for part in PARTS
            ),
        ),
    )


def in_place_decoder(size: ModelSize, floats: str, capacity: int) -> GraphSignature:
    """The decoder that places its new rows itself, at `position` of the caches.

    It gives each cache back whole, and the engine's is at the address of the one that came in.
    TensorRT wants a number of rows for that, so `capacity` serves all steps: bundles have it for
    every position of the model, and florence-build for the longest answer that is wanted. What a
    step reads of it are the S rows that `rows` numbers, 0 to S - 1: a bucket that has `position`.
    """
    keeping = _keeping(size, floats, capacity)
    return replace(keeping, inputs=(*keeping.inputs, Tensor("rows", "int64", ("S",))))


def cuda_decoder(size: ModelSize, floats: str) -> GraphSignature:
    """The decoder for ONNX Runtime's CUDA provider, which places its new rows itself, too.

    Its caches have S rows, as the portable decoder's; what of them is written, `position` says.
    """
    return _keeping(size, floats, "S")


def _keeping(size: ModelSize, floats: str, capacity: int | str) -> GraphSignature:
    """The decoder that gives its caches back whole, in place of the new rows."""
    portable = _decoder(size, floats)
    shape = ("R", size.decoder_heads, capacity, size.head_dim)
    kept = {
        self_cache(layer, part): Tensor(kept_cache(layer, part), floats, shape)
        for layer in range(size.decoder_layers)
        for part in PARTS
    }
    inputs = tuple(
        replace(tensor, shape=shape) if tensor.name in kept else tensor
        for tensor in portable.inputs
    )
    scores = portable.outputs[: -len(kept)]
    return GraphSignature(DECODER, inputs=inputs, outputs=(*scores, *kept.values()))


def cache_capacity(tokens: int, positions: int) -> int:
    """The smallest bucket (64, 128, 256, ... or all `positions`) that holds `tokens` rows."""
    capacity = MIN_CACHE_CAPACITY
    while capacity < tokens:
        capacity *= 2
    return min(capacity, positions)
