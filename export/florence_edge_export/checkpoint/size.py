"""The numbers of the contract for a model at an image size, and whether it can see that size."""

from florence_edge import contract
from florence_edge.contract import ModelSize
from florence_edge.errors import BundleError

from .config import CheckpointConfig

PROMPT_ROOM = 32  # encoder positions that a prompt may need beside the image tokens


def model_size(config: CheckpointConfig, image_size: int) -> ModelSize:
    """The numbers of the contract for this model at this image size.

    Raises:
        BundleError: the model has too few positions for pictures of this size.
    """
    vision, text = config.vision, config.text
    stride = 1
    for patch_stride in vision.patch_strides:
        stride *= patch_stride
    if image_size < stride or image_size % stride:
        raise BundleError(
            f"The image size is {image_size}; it must be a multiple of {stride}, the stride of "
            "this model's vision encoder."
        )
    image_tokens = vision.image_tokens(image_size)
    largest = _largest_image_size(config, stride)
    if image_size > largest:
        raise BundleError(
            f"The image size is {image_size}, which makes {image_tokens} image tokens; with its "
            f"{text.positions} encoder positions and {vision.position_embeddings} image positions "
            f"this model sees at most {largest} pixels."
        )
    if text.vocab_size < contract.TOP_K:
        raise BundleError(
            f"The vocabulary has {text.vocab_size} entries, expected at least {contract.TOP_K}."
        )
    return ModelSize(
        image_size=image_size,
        image_tokens=image_tokens,
        d_model=text.d_model,
        decoder_layers=text.decoder_layers,
        decoder_heads=text.decoder_heads,
        vocab_size=text.vocab_size,
        encoder_positions=text.positions,
        decoder_positions=text.positions,
    )


def _largest_image_size(config: CheckpointConfig, stride: int) -> int:
    vision = config.vision
    side = 0
    while (
        vision.grid(side + stride) <= vision.position_embeddings
        and vision.image_tokens(side + stride) + PROMPT_ROOM <= config.text.positions
    ):
        side += stride
    return side
