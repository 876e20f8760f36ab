"""A checkpoint: where it comes from (a folder, the built-in miniature, a hub), and its tensors.

Tensors are read lazily, under transformers' native names without the leading `model.`; Microsoft's
names are translated.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np

from florence_edge.bundle import sha256
from florence_edge.errors import BundleError, BundleNotFoundError, MissingPackageError

from .config import CheckpointConfig, Layout, read_config, read_json
from .tensors import StoredTensor, read_tensors

MINIATURE = "miniature"
DEFAULT_MODEL = "florence-community/Florence-2-base-ft"

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def find_checkpoint(model: str) -> Path:
    """The folder of the checkpoint that `model` names; a hub id is downloaded (and cached).

    Raises:
        BundleNotFoundError: `model` is neither a folder nor of a hub id's form.
        BundleError: the hub does not have it, or cannot be reached.
        MissingPackageError: huggingface_hub is not installed.
    """
    if model == MINIATURE:
        return Path(str(files("florence_edge_calibration") / "miniature" / "checkpoint"))
    if Path(model).is_dir():
        return Path(model)
    if not _HUB_ID.fullmatch(model) or model.startswith("."):
        raise BundleNotFoundError(
            f"There is no checkpoint folder {model}. Give a folder, a hub id such as "
            f"{DEFAULT_MODEL}, or 'miniature'."
        )
    return _download(model)


def _download(hub_id: str) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise MissingPackageError(
            f"{hub_id} is not a folder here, and downloading it needs huggingface_hub. Install "
            "florence-edge[export]."
        ) from None
    try:
        folder = Path(snapshot_download(hub_id, allow_patterns=["*.json", "*.safetensors"]))
        if not any(folder.glob("*.safetensors")):
            snapshot_download(hub_id, allow_patterns=["pytorch_model*.bin"])
    except Exception as error:  # the hub's own, and those of the HTTP library it happens to use
        raise BundleError(
            f"{hub_id} is not a folder here and could not be downloaded: {_first_line(error)}. "
            "Check the name and the network, or give a local folder."
        ) from error
    return folder


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].removesuffix(".")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A Florence-2 checkpoint: its configuration and its tensors by native name."""

    folder: Path
    config: CheckpointConfig
    tensors: Mapping[str, StoredTensor]
    weight_files: tuple[Path, ...]

    def sha256(self) -> str:
        """Hash of the weight files, in order of name."""
        return sha256(*sorted(self.weight_files))


def read_checkpoint(folder: Path) -> Checkpoint:
    """Open the checkpoint in `folder`; tensors are read when they are asked for.

    Raises:
        BundleNotFoundError: there is no such folder.
        BundleError: no config or weights, a LoRA adapter, a damaged file, another architecture.
        MissingPackageError: the weights are PyTorch's, and PyTorch is not installed.
    """
    if not folder.is_dir():
        raise BundleNotFoundError(
            f"{folder} is not a folder. Give a checkpoint folder or a hub id."
        )
    if (folder / "adapter_config.json").exists():
        raise BundleError(
            f"{folder} is a LoRA adapter, not a whole model. Merge it first: "
            "PeftModel.from_pretrained(model, folder).merge_and_unload().save_pretrained(new)."
        )
    config = read_config(folder)
    weight_files = _weight_files(folder)
    stored: dict[str, StoredTensor] = {}
    for path in weight_files:
        stored.update(read_tensors(path))
    translate = _native_name if config.layout is Layout.NATIVE else _name_from_microsoft
    tensors = {translate(name): tensor for name, tensor in stored.items()}
    if config.layout is Layout.MICROSOFT:
        _transpose_projection(tensors)
    _check_tied(tensors, config)
    _resolve_tied_embedding(tensors, folder)
    return Checkpoint(folder, config, tensors, weight_files)


def _weight_files(folder: Path) -> tuple[Path, ...]:
    for single in ("model.safetensors", "pytorch_model.bin"):
        if (folder / single).exists():
            return (folder / single,)
        index = folder / f"{single}.index.json"
        if index.exists():
            return _shards(index)
    raise BundleError(
        f"{folder} has no weights: expected model.safetensors (or its shards) or "
        "pytorch_model.bin. Download the checkpoint again."
    )


def _shards(index: Path) -> tuple[Path, ...]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise BundleError(f"{index} names no shards. Download the checkpoint again.")
    shards = sorted({str(shard) for shard in weight_map.values()})
    missing = [shard for shard in shards if not (index.parent / shard).exists()]
    if missing:
        raise BundleError(
            f"{index.parent} lacks the shards {missing} that {index.name} names. "
            "Download the checkpoint again."
        )
    return tuple(index.parent / shard for shard in shards)


def _native_name(name: str) -> str:
    return name.removeprefix("model.")


# Microsoft's module tree -> the native one; the first pattern that matches rewrites the name.
_FROM_MICROSOFT = (
    (re.compile(r"^(vision_tower\.convs\.\d+)\.proj\."), r"\1.conv."),
    (re.compile(r"\.(conv[12])\.fn\.dw\."), r".\1."),
    (re.compile(r"\.(?:window|channel)_attn\.norm\."), r".norm1."),
    (re.compile(r"\.(window|channel)_attn\.fn\."), r".\1_attn."),
    (re.compile(r"\.ffn\.norm\."), r".norm2."),
    (re.compile(r"\.ffn\.fn\.net\."), r".ffn."),
    (re.compile(r"^image_projection$"), r"multi_modal_projector.image_projection.weight"),
    (re.compile(r"^image_proj_norm\."), r"multi_modal_projector.image_proj_norm."),
    (re.compile(r"^image_pos_embed\."), r"multi_modal_projector.image_position_embed."),
    (re.compile(r"^visual_temporal_embed\."), r"multi_modal_projector.visual_temporal_embed."),
    (re.compile(r"^language_model\.(lm_head|final_logits_bias)"), r"\1"),
    (re.compile(r"^language_model\.model\."), r"language_model."),
)


def _name_from_microsoft(name: str) -> str:
    for pattern, replacement in _FROM_MICROSOFT:
        renamed, count = pattern.subn(replacement, name)
        if count:
            return renamed
    return name


def _transpose_projection(tensors: dict[str, StoredTensor]) -> None:
    """Microsoft's image_projection is a bare [in, out] matrix, the native one a Linear's weight."""
    name = "multi_modal_projector.image_projection.weight"
    if name in tensors:
        load = tensors[name].load
        tensors[name] = StoredTensor(tensors[name].shape[::-1], lambda: load().T)


_EMBEDDING = "language_model.shared.weight"
_TIED_TO_EMBEDDING = (
    "lm_head.weight",
    "language_model.encoder.embed_tokens.weight",
    "language_model.decoder.embed_tokens.weight",
)


def _check_tied(tensors: Mapping[str, StoredTensor], config: CheckpointConfig) -> None:
    """Refuse a head of its own; where config.json ties the names, all are the embedding."""
    head, embedding = tensors.get("lm_head.weight"), tensors.get(_EMBEDDING)
    if config.raw.get("tie_word_embeddings", True) or head is None or embedding is None:
        return
    if not np.array_equal(head.load(), embedding.load()):
        raise BundleError(
            "config.json says tie_word_embeddings = false, and lm_head.weight differs from the "
            "embedding. Florence-2 has one matrix for both, and so have these graphs."
        )


def _resolve_tied_embedding(tensors: dict[str, StoredTensor], folder: Path) -> None:
    """Savers keep one of four tied names; call it `shared` whichever it was."""
    tied = [tensors.pop(name) for name in _TIED_TO_EMBEDDING if name in tensors]
    if _EMBEDDING in tensors:
        return
    if not tied:
        raise BundleError(
            f"{folder} has no token embedding ({_EMBEDDING}). Its weights are incomplete or "
            "belong to another architecture."
        )
    tensors[_EMBEDDING] = tied[0]
