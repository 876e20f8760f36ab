"""config.json of a Florence-2 checkpoint, in Microsoft's layout or transformers' native one."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from itertools import chain
from pathlib import Path
from typing import Any

from florence_edge.errors import BundleError

from .architecture import TextConfig, VisionConfig


class Layout(Enum):
    """Who named the tensors of a checkpoint."""

    MICROSOFT = "microsoft"
    NATIVE = "native"


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointConfig:
    """What config.json states about the model."""

    layout: Layout
    vision: VisionConfig
    text: TextConfig
    raw: Mapping[str, Any]


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        BundleError: the file is missing or holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BundleError(f"{path} is missing. A Florence-2 checkpoint folder has it.") from None
    except (OSError, ValueError) as error:
        raise BundleError(f"{path} cannot be read as JSON: {error}. Fetch it again.") from error
    if not isinstance(content, dict):
        raise BundleError(f"{path} should hold a JSON object, but holds {type(content).__name__}.")
    return content


def read_config(folder: Path) -> CheckpointConfig:
    """Parse `folder/config.json`.

    Raises:
        BundleError: it is missing, not Florence-2, or lacks a number the graphs need.
    """
    raw = read_json(folder / "config.json")
    if raw.get("model_type") != "florence2":
        raise BundleError(
            f"{folder} holds a model of type {raw.get('model_type')!r}, expected 'florence2'. "
            "This tool exports Florence-2 checkpoints and their fine-tunes."
        )
    try:
        layout = _layout(raw["vision_config"])
        vision = _vision(raw["vision_config"], layout)
        text = _text(raw["text_config"])
        if vision.projection_dim != text.d_model:
            raise ValueError(f"projection_dim {vision.projection_dim}, but d_model {text.d_model}")
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise BundleError(
            f"{folder / 'config.json'} lacks or garbles a field of Florence-2: {error}. "
            "Fetch it again, or compare it with the original checkpoint's."
        ) from error
    return CheckpointConfig(layout=layout, vision=vision, text=text, raw=raw)


def _layout(vision: Mapping[str, Any]) -> Layout:
    """Microsoft's code calls the vision model `davit`, and saves a fine-tune of it as ``."""
    native = vision.get("model_type") == "florence_vision" or "dim_embed" not in vision
    return Layout.NATIVE if native else Layout.MICROSOFT


# What transformers' Florence2VisionConfig assumes for a field that a native config.json leaves out.
_VISION_DEFAULTS: dict[str, Any] = {
    "in_channels": 3,
    "embed_dim": (128, 256, 512, 1024),
    "depths": (1, 1, 9, 1),
    "num_heads": (4, 8, 16, 32),
    "num_groups": (4, 8, 16, 32),
    "patch_size": (7, 3, 3, 3),
    "patch_stride": (4, 2, 2, 2),
    "patch_padding": (3, 1, 1, 1),
    "patch_prenorm": (False, True, True, True),
    "window_size": 12,
    "mlp_ratio": 4.0,
    "qkv_bias": True,
    "activation_function": "gelu",
    "projection_dim": 1024,
    "max_position_embeddings": 50,
    "max_temporal_embeddings": 100,
}


# What BartConfig assumes for a field that config.json leaves out: BART-large.
_TEXT_DEFAULTS: dict[str, Any] = {
    "d_model": 1024,
    "encoder_layers": 12,
    "encoder_attention_heads": 16,
    "encoder_ffn_dim": 4096,
    "decoder_layers": 12,
    "decoder_attention_heads": 16,
    "decoder_ffn_dim": 4096,
    "max_position_embeddings": 1024,
    "activation_function": "gelu",
    "scale_embedding": False,
}


def _vision(stated: Mapping[str, Any], layout: Layout) -> VisionConfig:
    fields = _VISION_DEFAULTS | dict(stated)
    # The native class always joins pooled and spatial features and ignores the field.
    sources = ("spatial_avg_pool", "temporal_avg_pool")
    if layout is Layout.MICROSOFT:
        sources = tuple(stated["image_feature_source"])
        fields["embed_dim"] = stated["dim_embed"]
        fields["max_position_embeddings"] = stated["image_pos_embed"]["max_pos_embeddings"]
        temporal = stated["visual_temporal_embedding"]
        fields["max_temporal_embeddings"] = temporal["max_temporal_embeddings"]
    unknown = set(sources) - {"spatial_avg_pool", "temporal_avg_pool", "last_frame"}
    if unknown or not sources:
        raise ValueError(f"unknown image_feature_source {sorted(unknown)}")
    vision = VisionConfig(
        in_channels=int(fields["in_channels"]),
        dims=_ints(fields["embed_dim"]),
        depths=_ints(fields["depths"]),
        heads=_ints(fields["num_heads"]),
        groups=_ints(fields["num_groups"]),
        patch_sizes=_ints(fields["patch_size"]),
        patch_strides=_ints(fields["patch_stride"]),
        patch_paddings=_ints(fields["patch_padding"]),
        patch_prenorms=tuple(bool(flag) for flag in fields["patch_prenorm"]),
        window_size=int(fields["window_size"]),
        mlp_ratio=float(fields["mlp_ratio"]),
        qkv_bias=bool(fields["qkv_bias"]),
        activation=str(fields["activation_function"]),
        projection_dim=int(fields["projection_dim"]),
        position_embeddings=int(fields["max_position_embeddings"]),
        temporal_embeddings=int(fields["max_temporal_embeddings"]),
        feature_sources=sources,
    )
    _check_vision(vision)
    return vision


def _check_vision(vision: VisionConfig) -> None:
    """Raise ValueError where the numbers make no DaViT."""
    counts = (vision.dims, vision.depths, vision.heads, vision.groups)
    patches = (vision.patch_sizes, vision.patch_strides)
    paddings, prenorms = vision.patch_paddings, vision.patch_prenorms
    if {len(stage) for stage in (*counts, *patches, paddings, prenorms)} != {len(vision.dims) or 1}:
        raise ValueError("the vision fields do not have one entry for each stage")
    if min(vision.window_size, *chain(*counts, *patches)) < 1 or min(paddings) < 0:
        raise ValueError("a number of the vision model is below 1")
    for dim, heads, groups in zip(vision.dims, vision.heads, vision.groups, strict=True):
        if dim % heads or dim % groups:
            raise ValueError(f"{dim} channels cannot be shared by {heads} heads, {groups} groups")
    if vision.in_channels != 3:
        raise ValueError(f"in_channels is {vision.in_channels}, and pictures have 3")


def _text(stated: Mapping[str, Any]) -> TextConfig:
    fields = _TEXT_DEFAULTS | dict(stated)
    text = TextConfig(
        vocab_size=int(fields["vocab_size"]),
        d_model=int(fields["d_model"]),
        encoder_layers=int(fields["encoder_layers"]),
        encoder_heads=int(fields["encoder_attention_heads"]),
        encoder_ffn=int(fields["encoder_ffn_dim"]),
        decoder_layers=int(fields["decoder_layers"]),
        decoder_heads=int(fields["decoder_attention_heads"]),
        decoder_ffn=int(fields["decoder_ffn_dim"]),
        positions=int(fields["max_position_embeddings"]),
        activation=str(fields["activation_function"]),
        scale_embedding=bool(fields["scale_embedding"]),
    )
    layers = (text.encoder_layers, text.decoder_layers)
    heads = (text.encoder_heads, text.decoder_heads)
    if min(*layers, *heads, text.d_model, text.positions) < 1:
        raise ValueError("a number of the text model is below 1")
    if any(text.d_model % count for count in heads):
        raise ValueError(f"a width of {text.d_model} cannot be shared by {heads} heads")
    return text


def _ints(values: Any) -> tuple[int, ...]:
    return tuple(int(value) for value in values)
