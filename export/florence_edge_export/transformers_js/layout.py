"""onnx-community's layout of a Florence-2: files, and names and shapes of the graphs, in order.

    config.json, generation_config.json, preprocessor_config.json, tokenizer.json, ...
    onnx/NAME.onnx for float32, onnx/NAME_fp16.onnx, onnx/NAME_quantized.onnx, ... for other dtypes

    pixel_values ─ vision_encoder ─> image_features ─┐
    input_ids ──── embed_tokens ───> inputs_embeds ──┴ encoder_model ─> last_hidden_state
                        │                                                      │
                        └──────────── decoder_model_merged <───────────────────┘ ─> logits, caches

In shapes, T are tokens, E = image tokens + prompt tokens, L new tokens, P and C rows of the caches
that come in, F = E - C if the caches are used and E otherwise. What loads the files knows one
symbol: transformers.js puts the number of pictures in the place of `batch_size`, and 0 in that of
all others, to make the first caches.
"""

from typing import Literal, TypeAlias

from florence_edge.contract import PARTS, GraphSignature, ModelSize, Part, Tensor

VISION_ENCODER = "vision_encoder"
EMBED_TOKENS = "embed_tokens"
ENCODER = "encoder_model"
DECODER = "decoder_model_merged"
GRAPHS = (VISION_ENCODER, EMBED_TOKENS, ENCODER, DECODER)
FIRST_STEP = "decoder_model"  # without caches to come in; some open it for an answer's first token

Dtype: TypeAlias = Literal["fp32", "fp16", "q8", "q4", "q4f16"]
DTYPES: tuple[Dtype, ...] = ("fp32", "fp16", "q8", "q4", "q4f16")
# transformers.js' DEFAULT_DTYPE_SUFFIX_MAPPING
_SUFFIXES: dict[Dtype, str] = {
    "fp32": "",
    "fp16": "_fp16",
    "q8": "_quantized",
    "q4": "_q4",
    "q4f16": "_q4f16",
}

BATCH = "batch_size"
Attention: TypeAlias = Literal["decoder", "encoder"]  # over the answer, and over what it is about
ATTENTIONS: tuple[Attention, Attention] = ("decoder", "encoder")


def file_of(graph: str, dtype: Dtype) -> str:
    """Where a graph lies in the folder, e.g. `onnx/embed_tokens_fp16.onnx`."""
    return f"onnx/{graph}{_SUFFIXES[dtype]}.onnx"


def past(layer: int, attention: Attention, part: Part) -> str:
    """Name of a cache that comes in, [B, heads, P or C, head_dim]."""
    return f"past_key_values.{layer}.{attention}.{part}"


def present(layer: int, attention: Attention, part: Part) -> str:
    """Name of a cache that goes out: P + L rows of the answer; F of the encoder, or none."""
    return f"present.{layer}.{attention}.{part}"


def signatures(size: ModelSize) -> dict[str, GraphSignature]:
    """The four graphs of a model, and that of the first step: inputs and outputs in order."""
    side, width = size.image_size, size.d_model
    known = (Tensor("encoder_attention_mask", "int64", (BATCH, "E")),)
    states = Tensor("encoder_hidden_states", "float32", (BATCH, "E", width))
    new_embeds = Tensor("inputs_embeds", "float32", (BATCH, "L", width))
    step_inputs = (*known, states, new_embeds)
    caches, kept = _caches(size)
    logits = Tensor("logits", "float32", (BATCH, "L", size.vocab_size))
    graphs = (
        GraphSignature(
            VISION_ENCODER,
            inputs=(Tensor("pixel_values", "float32", (BATCH, 3, side, side)),),
            outputs=(Tensor("image_features", "float32", (BATCH, size.image_tokens, width)),),
        ),
        GraphSignature(
            EMBED_TOKENS,
            inputs=(Tensor("input_ids", "int64", (BATCH, "T")),),
            outputs=(Tensor("inputs_embeds", "float32", (BATCH, "T", width)),),
        ),
        GraphSignature(
            ENCODER,
            inputs=(
                Tensor("attention_mask", "int64", (BATCH, "E")),
                Tensor("inputs_embeds", "float32", (BATCH, "E", width)),
            ),
            outputs=(Tensor("last_hidden_state", "float32", (BATCH, "E", width)),),
        ),
        GraphSignature(
            DECODER,
            inputs=(*step_inputs, *caches, Tensor("use_cache_branch", "bool", (1,))),
            outputs=(logits, *kept),
        ),
        GraphSignature(FIRST_STEP, inputs=step_inputs, outputs=(logits, *kept)),
    )
    return {graph.name: graph for graph in graphs}


def _caches(size: ModelSize) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """The caches that come in, and those that go out."""
    coming: dict[Attention, str] = {"decoder": "P", "encoder": "C"}
    going: dict[Attention, str] = {"decoder": "P + L", "encoder": "F"}

    def of(rows: str) -> tuple[str, int, str, int]:
        return (BATCH, size.decoder_heads, rows, size.head_dim)

    every = [
        (layer, attention, part)
        for layer in range(size.decoder_layers)
        for attention in ATTENTIONS
        for part in PARTS
    ]
    return (
        tuple(Tensor(past(*each), "float32", of(coming[each[1]])) for each in every),
        tuple(Tensor(present(*each), "float32", of(going[each[1]])) for each in every),
    )
