"""config.json of a Florence-2 checkpoint, in Microsoft's layout or transformers' native one.

`read_config` gives the numbers that the graphs are built from, `model_size` those of the contract
at an image size, if the model can take pictures of that size.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from florence_edge import contract, files
from florence_edge.contract import ModelSize
from florence_edge.errors import BundleError, RequestError
from florence_edge.files import from_json

_CONFIG = "config.json"
_OF_CHECKPOINTS = (_CONFIG, "adapter_config.json")

PROMPT_ROOM = 32  # encoder positions that a prompt may need beside the image tokens

# Far beyond any model of this architecture, and little enough to build graphs from in seconds.
_MAX_LAYERS = 256
_MAX_STAGES = 16
_MAX_WIDTH = 1 << 16
_MAX_POSITIONS = 1 << 18
_MAX_VOCABULARY = 1 << 24


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionConfig:
    """DaViT and the projector behind it; one entry a stage where there are several."""

    in_channels: int
    dims: tuple[int, ...]
    depths: tuple[int, ...]
    heads: tuple[int, ...]
    groups: tuple[int, ...]
    patch_sizes: tuple[int, ...]
    patch_strides: tuple[int, ...]
    patch_paddings: tuple[int, ...]
    patch_prenorms: tuple[bool, ...]
    window_size: int
    mlp_ratio: float
    qkv_bias: bool
    activation: str
    projection_dim: int
    position_embeddings: int
    temporal_embeddings: int
    feature_sources: tuple[str, ...]

    def grid(self, image_size: int) -> int:
        """Side of the square of image tokens that leaves the last stage."""
        return self.sides(image_size)[-1]

    def sides(self, image_size: int) -> tuple[int, ...]:
        """Side of the feature map of each stage (the arithmetic of a strided convolution)."""
        sides = []
        for kernel, stride, padding in zip(
            self.patch_sizes, self.patch_strides, self.patch_paddings, strict=True
        ):
            image_size = (image_size + 2 * padding - kernel) // stride + 1
            sides.append(image_size)
        return tuple(sides)

    def image_tokens(self, image_size: int) -> int:
        """How many tokens a picture becomes: 577 for Florence-2 at 768 pixels."""
        per_source = {"spatial_avg_pool": 1, "temporal_avg_pool": None, "last_frame": None}
        return sum(
            per_source[source] or self.grid(image_size) ** 2 for source in self.feature_sources
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TextConfig:
    """BART: post-norm encoder and decoder over one tied embedding."""

    vocab_size: int
    d_model: int
    encoder_layers: int
    encoder_heads: int
    encoder_ffn: int
    decoder_layers: int
    decoder_heads: int
    decoder_ffn: int
    positions: int
    activation: str
    scale_embedding: bool


class Layout(Enum):
    """Who named the tensors of a checkpoint."""

    MICROSOFT = "microsoft"
    NATIVE = "native"


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointConfig:
    """What config.json says about the model; `raw` is all of it."""

    layout: Layout
    vision: VisionConfig
    text: TextConfig
    raw: Mapping[str, Any]

    @property
    def ties_head(self) -> bool:
        """Whether the head is the embedding where it is not stored."""
        return bool(self.raw.get("tie_word_embeddings", True))

    @property
    def ties_embeddings(self) -> bool:
        """Whether encoder and decoder have one embedding, as far as it is stored once."""
        return bool(self.raw["text_config"].get("tie_word_embeddings", True))


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        BundleError: the file is missing or holds something else.
    """
    try:
        content = files.read_json(path)
    except FileNotFoundError:
        raise BundleError(f"{path} is missing. A Florence-2 checkpoint folder has it.") from None
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error}.") from error
    except ValueError as error:
        raise BundleError(
            f"{path} is not JSON: {error}. Correct it, or take it from the original checkpoint."
        ) from error
    if not isinstance(content, dict):
        raise BundleError(f"{path} should hold a JSON object, but holds {type(content).__name__}.")
    return content


def read_config(folder: Path) -> CheckpointConfig:
    """Parse `folder/config.json`.

    Raises:
        BundleError: it is missing, not Florence-2, or lacks a number the graphs need.
    """
    if not (folder / _CONFIG).exists() and (inside := checkpoint_in(folder)):
        raise BundleError(
            f"{folder} is not a checkpoint, but holds some, as a Trainer's output folder does. "
            f"Name the one that is meant: {inside}"
        )
    raw = read_json(folder / _CONFIG)
    if raw.get("model_type") != "florence2":
        raise BundleError(
            f"{folder} holds a model of type {raw.get('model_type')!r}, expected 'florence2'. "
            "This tool exports Florence-2 checkpoints and their fine-tunes."
        )
    try:
        layout = _layout(raw["vision_config"])
        vision = _vision(raw["vision_config"], layout)
        text = _text(raw["text_config"])
        for level in (raw, raw["text_config"]):
            if not isinstance(level.get("tie_word_embeddings", True), bool):
                raise ValueError("tie_word_embeddings is neither true nor false")
        if vision.projection_dim != text.d_model:
            raise ValueError(f"projection_dim {vision.projection_dim}, but d_model {text.d_model}")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        reason = f"there is no {error}" if isinstance(error, KeyError) else str(error)
        raise BundleError(
            f"{folder / 'config.json'} does not describe a Florence-2: {reason}. Compare it with "
            "the config.json of the checkpoint that this one was tuned from."
        ) from error
    return CheckpointConfig(layout=layout, vision=vision, text=text, raw=raw)


def checkpoint_in(folder: Path) -> Path | None:
    """The checkpoint or adapter in one of a Trainer's folders; of several the last one's."""

    def steps(path: Path) -> int:
        number = path.name.rpartition("-")[2]
        return int(number) if number.isascii() and number.isdigit() else -1

    found = [path for name in _OF_CHECKPOINTS for path in folder.glob(f"*/{name}")]
    return max((path.parent for path in found), key=lambda path: (steps(path), path), default=None)


def _layout(vision: Mapping[str, Any]) -> Layout:
    """Microsoft's code calls the vision model `davit`, and saves a fine-tune of it as ``."""
    native = vision.get("model_type") == "florence_vision" or "dim_embed" not in vision
    return Layout.NATIVE if native else Layout.MICROSOFT


@dataclass(frozen=True, slots=True, kw_only=True)
class _VisionJson:
    """vision_config in transformers' names, with what its Florence2VisionConfig assumes."""

    in_channels: int = 3
    embed_dim: tuple[int, ...] = (128, 256, 512, 1024)
    depths: tuple[int, ...] = (1, 1, 9, 1)
    num_heads: tuple[int, ...] = (4, 8, 16, 32)
    num_groups: tuple[int, ...] = (4, 8, 16, 32)
    patch_size: tuple[int, ...] = (7, 3, 3, 3)
    patch_stride: tuple[int, ...] = (4, 2, 2, 2)
    patch_padding: tuple[int, ...] = (3, 1, 1, 1)
    patch_prenorm: tuple[bool, ...] = (False, True, True, True)
    window_size: int = 12
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    activation_function: str = "gelu"
    projection_dim: int = 1024
    max_position_embeddings: int = 50
    max_temporal_embeddings: int = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class _TextJson:
    """text_config, with what transformers' BartConfig assumes: BART-large."""

    vocab_size: int
    d_model: int = 1024
    encoder_layers: int = 12
    encoder_attention_heads: int = 16
    encoder_ffn_dim: int = 4096
    decoder_layers: int = 12
    decoder_attention_heads: int = 16
    decoder_ffn_dim: int = 4096
    max_position_embeddings: int = 1024
    activation_function: str = "gelu"
    scale_embedding: bool = False


def _vision(content: Mapping[str, Any], layout: Layout) -> VisionConfig:
    names = dict(content)
    # The native class always joins pooled and spatial features and ignores the field.
    sources = ("spatial_avg_pool", "temporal_avg_pool")
    if layout is Layout.MICROSOFT:
        sources = tuple(content["image_feature_source"])
        names["embed_dim"] = content["dim_embed"]
        names["max_position_embeddings"] = content["image_pos_embed"]["max_pos_embeddings"]
        temporal = content["visual_temporal_embedding"]
        names["max_temporal_embeddings"] = temporal["max_temporal_embeddings"]
    unknown = set(sources) - {"spatial_avg_pool", "temporal_avg_pool", "last_frame"}
    if unknown or not sources:
        raise ValueError(f"unknown image_feature_source {sorted(unknown)}")
    fields = from_json(_VisionJson, names)
    vision = VisionConfig(
        in_channels=fields.in_channels,
        dims=fields.embed_dim,
        depths=fields.depths,
        heads=fields.num_heads,
        groups=fields.num_groups,
        patch_sizes=fields.patch_size,
        patch_strides=fields.patch_stride,
        patch_paddings=fields.patch_padding,
        patch_prenorms=fields.patch_prenorm,
        window_size=fields.window_size,
        mlp_ratio=fields.mlp_ratio,
        qkv_bias=fields.qkv_bias,
        activation=fields.activation_function,
        projection_dim=fields.projection_dim,
        position_embeddings=fields.max_position_embeddings,
        temporal_embeddings=fields.max_temporal_embeddings,
        feature_sources=sources,
    )
    _check_vision(vision)
    return vision


def _check_vision(vision: VisionConfig) -> None:
    """Raise ValueError where the numbers do not make a DaViT."""
    counts = (vision.dims, vision.depths, vision.heads, vision.groups)
    patches = (vision.patch_sizes, vision.patch_strides)
    paddings, prenorms = vision.patch_paddings, vision.patch_prenorms
    if {len(stage) for stage in (*counts, *patches, paddings, prenorms)} != {len(vision.dims) or 1}:
        raise ValueError("the vision fields do not have one entry for each stage")
    _check_numbers("the number of stages", (len(vision.dims),), most=_MAX_STAGES)
    numbers = {
        "window_size": (vision.window_size,),
        "dims": vision.dims,
        "heads": vision.heads,
        "groups": vision.groups,
        "patch_size": vision.patch_sizes,
        "patch_stride": vision.patch_strides,
    }
    for name, values in numbers.items():
        _check_numbers(name, values, most=_MAX_WIDTH)
    _check_numbers("patch_padding", paddings, least=0, most=_MAX_WIDTH)
    _check_numbers("depths", vision.depths, most=_MAX_LAYERS)
    _check_numbers("max_position_embeddings", (vision.position_embeddings,), most=_MAX_POSITIONS)
    _check_numbers("max_temporal_embeddings", (vision.temporal_embeddings,), most=_MAX_POSITIONS)
    # Written so that NaN does not pass.
    if not 0 < vision.mlp_ratio * min(vision.dims) <= vision.mlp_ratio * _MAX_WIDTH < math.inf:
        raise ValueError(f"mlp_ratio is {vision.mlp_ratio}")
    for dim in vision.dims:
        _check_numbers("dims times mlp_ratio", (int(dim * vision.mlp_ratio),), most=8 * _MAX_WIDTH)
    for dim, heads, groups in zip(vision.dims, vision.heads, vision.groups, strict=True):
        if dim % heads or dim % groups:
            raise ValueError(f"{dim} channels cannot be shared by {heads} heads, {groups} groups")
    if vision.in_channels != 3:
        raise ValueError(f"in_channels is {vision.in_channels}, and pictures have 3")


def _check_numbers(name: str, values: Sequence[int], *, least: int = 1, most: int) -> None:
    for value in values:
        if not least <= value <= most:
            raise ValueError(f"{name} is {value}, expected {least} to {most}")


def _text(content: Mapping[str, Any]) -> TextConfig:
    fields = from_json(_TextJson, content)
    text = TextConfig(
        vocab_size=fields.vocab_size,
        d_model=fields.d_model,
        encoder_layers=fields.encoder_layers,
        encoder_heads=fields.encoder_attention_heads,
        encoder_ffn=fields.encoder_ffn_dim,
        decoder_layers=fields.decoder_layers,
        decoder_heads=fields.decoder_attention_heads,
        decoder_ffn=fields.decoder_ffn_dim,
        positions=fields.max_position_embeddings,
        activation=fields.activation_function,
        scale_embedding=fields.scale_embedding,
    )
    heads = (text.encoder_heads, text.decoder_heads)
    _check_numbers("encoder_layers", (text.encoder_layers,), most=_MAX_LAYERS)
    _check_numbers("decoder_layers", (text.decoder_layers,), most=_MAX_LAYERS)
    _check_numbers("attention_heads", heads, most=_MAX_WIDTH)
    _check_numbers("d_model", (text.d_model,), most=_MAX_WIDTH)
    _check_numbers("ffn_dim", (text.encoder_ffn, text.decoder_ffn), most=8 * _MAX_WIDTH)
    _check_numbers("max_position_embeddings", (text.positions,), most=_MAX_POSITIONS)
    _check_numbers("vocab_size", (text.vocab_size,), most=_MAX_VOCABULARY)
    if any(text.d_model % count for count in heads):
        raise ValueError(f"a width of {text.d_model} cannot be shared by {heads} heads")
    return text


def model_size(config: CheckpointConfig, image_size: int) -> ModelSize:
    """The numbers of the contract for this model at this image size.

    Raises:
        RequestError: the size does not fit the strides, or the model has too few positions for it.
        BundleError: the vocabulary is smaller than what the decoder ranks.
    """
    vision, text = config.vision, config.text
    stride = 1
    for patch_stride in vision.patch_strides:
        stride *= patch_stride
    if image_size < stride or image_size % stride:
        raise RequestError(
            f"The image size is {image_size}; it must be a multiple of {stride}, the stride of "
            "this model's vision encoder."
        )
    image_tokens = vision.image_tokens(image_size)
    if min(vision.sides(image_size)) < 1:
        raise BundleError(
            "config.json describes a vision encoder that leaves nothing of a picture: "
            f"{image_size} pixels become {vision.sides(image_size)} by patch_size, patch_stride "
            "and patch_padding. Compare it with the original checkpoint's."
        )
    largest = _largest_image_size(config, stride)
    if image_size > largest:
        raise RequestError(
            f"The image size is {image_size}, which makes {image_tokens} image tokens; with its "
            f"{text.positions} encoder positions and {vision.position_embeddings} image positions "
            f"this model takes at most {largest} pixels."
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
