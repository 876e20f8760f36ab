"""A checkpoint folder as named tensors: both key layouts, every file format, read lazily.

Names are transformers' native ones without the leading `model.`; Microsoft's are translated.
"""

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from florence_edge.errors import BundleError

from .config import CheckpointConfig, Layout, read_config, read_json

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One tensor where it lies; `load` reads it as float32."""

    shape: tuple[int, ...]
    load: Callable[[], FloatArray]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A Florence-2 checkpoint: its configuration and its tensors by native name."""

    folder: Path
    config: CheckpointConfig
    tensors: Mapping[str, StoredTensor]
    weight_files: tuple[Path, ...]

    def sha256(self) -> str:
        """Hash of the weight files, in order of name."""
        digest = hashlib.sha256()
        for path in sorted(self.weight_files):
            with path.open("rb") as file:
                while block := file.read(1 << 22):
                    digest.update(block)
        return digest.hexdigest()


def read_checkpoint(folder: Path) -> Checkpoint:
    """Open the checkpoint in `folder`; tensors are read when they are asked for.

    Raises:
        BundleError: no config or weights, a LoRA adapter, a damaged file, another architecture.
    """
    if not folder.is_dir():
        raise BundleError(f"{folder} is not a folder. Give a checkpoint folder or a hub id.")
    if (folder / "adapter_config.json").exists():
        raise BundleError(
            f"{folder} is a LoRA adapter, not a whole model. Merge it first: "
            "PeftModel.from_pretrained(model, folder).merge_and_unload().save_pretrained(new)."
        )
    config = read_config(folder)
    weight_files = _weight_files(folder)
    stored: dict[str, StoredTensor] = {}
    for path in weight_files:
        read = _read_safetensors if path.suffix == ".safetensors" else _read_torch
        stored.update(read(path))
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


_SAFETENSORS_DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}


def _read_safetensors(path: Path) -> Iterator[tuple[str, StoredTensor]]:
    """Tensors of one file, memory-mapped.

    The format is a length, a JSON header and raw bytes; read here rather than through the
    `safetensors` package because its numpy door does not open bfloat16.
    """
    damaged = f"{path} is damaged or cut short. Download it again."
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            size = path.stat().st_size - 8 - length
            if size < 0:
                raise BundleError(damaged)
            entries = _entries(json.loads(file.read(length)))
        data = np.memmap(path, np.uint8, "r", 8 + length) if size else np.empty(0, np.uint8)
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error}.") from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise BundleError(damaged) from error
    for name, dtype, shape, begin, end in entries:
        if not 0 <= begin <= end <= size or end - begin != math.prod(shape) * dtype.itemsize:
            raise BundleError(damaged)
        yield name, StoredTensor(shape, _slice_loader(data[begin:end], dtype, shape))


_Entry = tuple[str, np.dtype[Any], tuple[int, ...], int, int]


def _entries(header: Mapping[str, Any]) -> list[_Entry]:
    """Name, dtype, shape and bytes; integer buffers (position ids) carry no weights."""
    entries = []
    for name, entry in header.items():
        dtype = _SAFETENSORS_DTYPES.get(entry.get("dtype", ""))
        if name != "__metadata__" and dtype is not None:
            shape = tuple(int(side) for side in entry["shape"])
            begin, end = entry["data_offsets"]
            entries.append((name, dtype, shape, int(begin), int(end)))
    return entries


def _slice_loader(
    raw: npt.NDArray[np.uint8], dtype: np.dtype[Any], shape: tuple[int, ...]
) -> Callable[[], FloatArray]:
    return lambda: np.asarray(raw.view(dtype).reshape(shape), dtype=np.float32)


def _read_torch(path: Path) -> Iterator[tuple[str, StoredTensor]]:
    try:
        import torch
    except ImportError:
        raise BundleError(
            f"{path.name} is a PyTorch file, and reading it needs PyTorch. Install "
            "florence-edge[verify], or convert the checkpoint to safetensors."
        ) from None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # its text advises to switch the safety off: keep the first line
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BundleError(f"{path} cannot be read by PyTorch: {reason} Fetch it again.") from error
    if not isinstance(state, dict) or not all(map(torch.is_tensor, state.values())):
        raise BundleError(f"{path} holds something else than named tensors. Fetch it again.")
    for name, tensor in state.items():
        if tensor.is_floating_point():
            yield name, StoredTensor(tuple(tensor.shape), _torch_loader(tensor))


def _torch_loader(tensor: Any) -> Callable[[], FloatArray]:
    return lambda: np.asarray(tensor.float().numpy())


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
