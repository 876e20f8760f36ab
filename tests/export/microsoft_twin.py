"""A native checkpoint in Microsoft's layout: the same numbers under the original's names.

The renaming is written here a second time, from Microsoft's module tree, so that a slip in the
exporter's own table cannot hide; `../shared/assets` proves both against Microsoft's code.
"""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from florence_edge.tokenizer import FLORENCE_TOKENS

from . import folders

_BLOCK = re.compile(r"^vision_tower\.blocks\.(\d+)\.(\d+)\.(spatial|channel)_block\.([^.]+)\.(.+)$")


def write_twin(native: Path, folder: Path) -> Path:
    """Write `native` anew at `folder`, as Microsoft's code would have saved it."""
    folders.copy(native, folder)
    folders.edit_config(folder, _microsoft_config)
    generation = json.loads((native / "generation_config.json").read_text())
    folders.edit_config(folder, lambda config: config["text_config"].update(generation))
    # What Microsoft publishes beside it; text_config says otherwise, and wins.
    (folder / "generation_config.json").write_text('{"num_beams": 3, "early_stopping": false}')
    folders.edit_json(folder / "tokenizer.json", _without_florence_tokens)
    folders.write(folder, to_microsoft(folders.read(native)))
    return folder


def to_microsoft(native: folders.Tensors) -> folders.Tensors:
    tensors = {microsoft_name(name): values for name, values in native.items()}
    tensors["image_projection"] = tensors["image_projection"].T
    vocabulary = len(tensors["language_model.model.shared.weight"])
    tensors["language_model.final_logits_bias"] = np.zeros((1, vocabulary), dtype=np.float32)
    width = tensors["vision_tower.convs.3.proj.weight"].shape[0]
    tensors["visual_temporal_embed.pos_idx_to_embed"] = _cosine_table(100, width)
    return tensors


def _cosine_table(positions: int, width: int) -> npt.NDArray[np.float32]:
    frequencies = np.exp(np.arange(width // 2) * -(np.log(10000) / (width // 2)))
    angles = np.arange(positions)[:, None] * frequencies
    return np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(positions, width).astype("f")


def microsoft_name(native: str) -> str:
    name = native.removeprefix("model.")
    if match := _BLOCK.match(name):
        stage, block, kind, module, rest = match.groups()
        attention = "window_attn" if kind == "spatial" else "channel_attn"
        inside = {
            "conv1": f"conv1.fn.dw.{rest}",
            "conv2": f"conv2.fn.dw.{rest}",
            "norm1": f"{attention}.norm.{rest}",
            attention: f"{attention}.fn.{rest}",
            "norm2": f"ffn.norm.{rest}",
            "ffn": f"ffn.fn.net.{rest}",
        }[module]
        return f"vision_tower.blocks.{stage}.{block}.{kind}_block.{inside}"
    if name.startswith("vision_tower.convs."):
        return name.replace(".conv.", ".proj.")
    if name.startswith("language_model."):
        return name.replace("language_model.", "language_model.model.", 1)
    return {
        "multi_modal_projector.image_projection.weight": "image_projection",
        "multi_modal_projector.image_proj_norm.weight": "image_proj_norm.weight",
        "multi_modal_projector.image_proj_norm.bias": "image_proj_norm.bias",
        "multi_modal_projector.image_position_embed.row_embeddings.weight": (
            "image_pos_embed.row_embeddings.weight"
        ),
        "multi_modal_projector.image_position_embed.column_embeddings.weight": (
            "image_pos_embed.column_embeddings.weight"
        ),
    }[name]


def _microsoft_config(config: dict[str, Any]) -> None:
    vision = config["vision_config"]
    config["vision_config"] = {
        "model_type": "davit",
        "patch_size": [7, 3, 3, 3],
        "patch_stride": [4, 2, 2, 2],
        "patch_padding": [3, 1, 1, 1],
        "patch_prenorm": [False, True, True, True],
        "dim_embed": vision["embed_dim"],
        "num_heads": vision["num_heads"],
        "num_groups": vision["num_groups"],
        "depths": vision.get("depths", [1, 1, 9, 1]),
        "window_size": vision.get("window_size", 12),
        "projection_dim": vision["projection_dim"],
        "visual_temporal_embedding": {"type": "COSINE", "max_temporal_embeddings": 100},
        "image_pos_embed": {"type": "learned_abs_2d", "max_pos_embeddings": 50},
        "image_feature_source": ["spatial_avg_pool", "temporal_avg_pool"],
    }
    del config["text_config"]["model_type"]


def _without_florence_tokens(tokenizer: dict[str, Any]) -> None:
    tokenizer["added_tokens"] = [
        token for token in tokenizer["added_tokens"] if token["content"] not in FLORENCE_TOKENS
    ]
