"""Checkpoints with random weights: for tests and benchmarks where only numerics or speed matter."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from onnxscript.nn import Module
from safetensors.numpy import save_file

from .checkpoint.config import CheckpointConfig, read_config
from .checkpoint.tokenizer import byte_tokenizer
from .graphs.build import parameter_shape
from .graphs.decoder import Decoder
from .graphs.text import TextEncoder
from .graphs.vision import VisionEncoder
from .graphs.weights import checkpoint_name, checkpoint_shape

_VISION = {
    "tiny": {"embed_dim": [16, 32, 48, 64], "num_heads": [2, 4, 4, 8], "depths": [1, 1, 2, 1]},
    "base": {"embed_dim": [128, 256, 512, 1024], "num_heads": [4, 8, 16, 32]},
    "large": {"embed_dim": [256, 512, 1024, 2048], "num_heads": [8, 16, 32, 64]},
}
_TEXT = {
    "tiny": {"d_model": 64, "layers": 2, "heads": 4, "ffn": 128, "vocab_size": 2560},
    "base": {"d_model": 768, "layers": 6, "heads": 12, "ffn": 3072, "vocab_size": 51289},
    "large": {"d_model": 1024, "layers": 12, "heads": 16, "ffn": 4096, "vocab_size": 51289},
}


def write_checkpoint(
    folder: Path,
    architecture: str,
    *,
    seed: int = 0,
    image_size: int = 768,
    outliers: float = 1.0,
    positions: int = 1024,
) -> None:
    """Write a checkpoint in the native layout with seeded random weights.

    Args:
        folder: where to; made if need be.
        architecture: `tiny`, or Florence-2's `base` or `large`.
        seed: of the weights; equal seeds give equal files.
        image_size: what its image processor makes of a picture.
        outliers: factor by which some channels stick out (see `_plant_outliers`); 1 plants none.
        positions: of the encoder and of the decoder; Florence-2's large has 1024 or 4096.

    The tokenizer has a token for each byte; other ids of a larger vocabulary mean nothing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder / "config.json", _config(architecture, positions))
    _write_json(folder / "generation_config.json", _GENERATION)
    size = {"height": image_size, "width": image_size}
    _write_json(folder / "preprocessor_config.json", {"size": size})
    byte_tokenizer().save(str(folder / "tokenizer.json"))
    config = read_config(folder)
    rng = np.random.default_rng(seed)
    tensors = {name: _random(rng, name, shape) for name, shape in native_shapes(config)}
    if outliers != 1.0:
        _plant_outliers(rng, tensors, np.float32(outliers))
    save_file(
        {f"model.{name}": tensor for name, tensor in tensors.items()},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )


def native_shapes(config: CheckpointConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and shape of every tensor of a native checkpoint (without the prefix `model.`)."""
    vision, text = config.vision, config.text
    width, positions = vision.dims[-1], vision.position_embeddings
    projector = "multi_modal_projector"
    columns = f"{projector}.image_position_embed.column_embeddings.weight"
    yield f"{projector}.image_position_embed.row_embeddings.weight", (positions, width // 2)
    yield columns, (positions, width - width // 2)
    given: set[str] = set()
    modules: tuple[Module, ...] = (
        VisionEncoder(vision, image_size=768),
        TextEncoder(text),
        Decoder(text),
    )
    for module in modules:
        for path, parameter in module.named_parameters():
            parameter_name = f"{module.name}.{_named_by_class(path)}"
            name = checkpoint_name(parameter_name)
            if name in given or name.endswith(_NOT_STORED):
                continue
            given.add(name)
            yield name, checkpoint_shape(parameter_name, parameter_shape(parameter))


# Parameters that are computed at export (see graphs/weights.py).
_NOT_STORED = ("normalize.scale", "normalize.shift", "position_embed", "final_logits_bias")


def _named_by_class(path: str) -> str:
    """Attention modules carry their class's name in place of the attribute `attention`."""
    return path.replace("spatial_block.attention", "spatial_block.window_attn").replace(
        "channel_block.attention", "channel_block.channel_attn"
    )


_GENERATION = {
    "num_beams": 3,
    "early_stopping": True,
    "no_repeat_ngram_size": 3,
    "forced_bos_token_id": 0,
    "forced_eos_token_id": 2,
    "decoder_start_token_id": 2,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "pad_token_id": 1,
}


def _config(architecture: str, positions: int) -> Mapping[str, Any]:
    vision, text = _VISION[architecture], _TEXT[architecture]
    layers, heads, ffn = text["layers"], text["heads"], text["ffn"]
    return {
        "architectures": ["Florence2ForConditionalGeneration"],
        "model_type": "florence2",
        "image_token_id": 4,  # unused: features are joined without placeholders here
        "is_encoder_decoder": True,
        "vision_config": {
            "model_type": "florence_vision",
            "num_groups": vision["num_heads"],
            "projection_dim": text["d_model"],
            **vision,
        },
        "text_config": {
            "model_type": "bart",
            "vocab_size": text["vocab_size"],
            "d_model": text["d_model"],
            "encoder_layers": layers,
            "decoder_layers": layers,
            "encoder_attention_heads": heads,
            "decoder_attention_heads": heads,
            "encoder_ffn_dim": ffn,
            "decoder_ffn_dim": ffn,
            "max_position_embeddings": positions,
            "activation_function": "gelu",
        },
    }


def _random(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Weights that keep activations near 1, so that numerics are those of a trained model."""
    values = rng.standard_normal(shape, dtype=np.float32)
    if name.endswith("bias"):
        return values * np.float32(0.02)
    if "norm" in name:
        return 1 + values * np.float32(0.1)
    if "embed" in name or "shared" in name:
        return values * np.float32(0.1)
    if "conv1" in name or "conv2" in name:  # added to their inputs: larger ones would pile up
        return values * np.float32(0.05)
    if "channel_attn.qkv" in name:  # summed over thousands of tokens: larger ones would saturate
        values *= np.float32(0.2)
    return values / np.float32(np.sqrt(np.prod(shape[1:])))


def _plant_outliers(
    rng: np.random.Generator, tensors: dict[str, npt.NDArray[np.float32]], factor: np.float32
) -> None:
    """Let 1 % of the channels before some linears stick out by `factor`; the function stays.

    DaViT: a layer norm's channels grow and the next linear's columns shrink. BART: rows of v_proj
    grow and columns of out_proj shrink.
    """
    for name in [name for name in tensors if name.endswith((".qkv.weight", ".fc1.weight"))]:
        if "vision_tower" not in name:
            continue
        block, attends = name.rsplit(".", 3)[0], name.endswith(".qkv.weight")
        norm = f"{block}.norm{1 if attends else 2}"
        channels = _some(rng, tensors[name].shape[1])
        tensors[f"{norm}.weight"][channels] *= factor
        tensors[f"{norm}.bias"][channels] *= factor
        tensors[name][:, channels] /= factor
    for name in [name for name in tensors if name.endswith(".v_proj.weight")]:
        attention = name.removesuffix(".v_proj.weight")
        channels = _some(rng, tensors[name].shape[0])
        tensors[name][channels] *= factor
        tensors[f"{attention}.v_proj.bias"][channels] *= factor
        tensors[f"{attention}.out_proj.weight"][:, channels] /= factor


def _some(rng: np.random.Generator, count: int) -> npt.NDArray[np.int64]:
    return rng.choice(count, size=max(1, count // 100), replace=False)


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
