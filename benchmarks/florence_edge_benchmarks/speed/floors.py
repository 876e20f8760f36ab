"""What an answer cannot do without, whatever the engine.

The vision encoder has to multiply, and a step of the decoder has to read its weights: all of them
for one token, and the same for several beams. How far an engine is from that is in the report.
"""

from florence_edge.bundle import Bundle
from florence_edge.contract import ModelSize

from ..results import Floors

# Multiplications and additions of one picture's products, counted from the shapes of the exported
# vision encoder (MatMul and Conv): d_model and image size of base.
_VISION_FLOP = {(768, 768): 370e9}

_WEIGHT_BYTES = {
    **{"float32": 4.0, "fp32": 4.0, "bfloat16": 2.0, "float16": 2.0, "fp16": 2.0},
    **{"int8": 1.0, "int8 weights": 1.0},
    "int4": 0.5625,  # and a float16 scale for each 32
}
_FEED_FORWARD = 4  # times d_model, in both published sizes (their config.json)


def floors_of(bundle: Bundle, precision: str) -> Floors:
    """The floors of a bundle's model with weights of this precision."""
    size = bundle.size
    return Floors(
        vision_flop=_VISION_FLOP.get((size.d_model, size.image_size)),
        step_bytes=decoder_weights(size) * _WEIGHT_BYTES.get(precision, 4.0),
    )


def decoder_weights(size: ModelSize) -> int:
    """Weights that a step reads: self-attention's four linears, of cross-attention query and
    output, the feed-forward pair, and the embedding as the head."""
    of_layer = (4 + 2 + 2 * _FEED_FORWARD) * size.d_model**2
    return size.decoder_layers * of_layer + size.vocab_size * size.d_model
