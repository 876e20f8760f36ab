"""A checkpoint: where it comes from (a folder, the built-in miniature, a hub), and its tensors.

Tensors are read lazily, under transformers' native names without the leading `model.`; Microsoft's
names are translated.
"""

import hashlib
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from florence_edge.bundle import sha256
from florence_edge.errors import BundleError, BundleNotFoundError, MissingPackageError, RequestError
from florence_edge.extras import pip_install

from .adapter_files import is_adapter
from .config import CheckpointConfig, Layout, read_config, read_json
from .embeddings import resolve_embeddings, same_values
from .names import native_names
from .tensors import StoredTensor, read_tensors

logger = logging.getLogger(__name__)

BIAS = "final_logits_bias"
MINIATURE = "miniature"
DEFAULT_MODEL = "florence-community/Florence-2-base-ft"

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_COMMIT = re.compile(r"[0-9a-f]{40}")


def find_checkpoint(model: str, revision: str | None = None) -> Path:
    """The folder of the checkpoint that `model` names; a hub id is downloaded (and cached).

    Args:
        model: a folder, a hub id or 'miniature'.
        revision: commit, tag or branch on the hub; None is the newest of its main branch.

    Raises:
        BundleNotFoundError: `model` is neither a folder nor of a hub id's form.
        BundleError: the hub does not have it, or cannot be reached.
        MissingPackageError: huggingface_hub is not installed.
        RequestError: a revision of what is not on the hub.
    """
    if revision is not None and (model == MINIATURE or Path(model).is_dir()):
        raise RequestError(
            f"The revision {revision} is for models on the hub, and {model} is a folder here. "
            "Leave it out."
        )
    if model == MINIATURE:
        return Path(str(files("florence_edge_calibration") / "miniature" / "checkpoint"))
    if Path(model).is_dir():
        return Path(model)
    if not _HUB_ID.fullmatch(model) or model.startswith("."):
        raise BundleNotFoundError(
            f"There is no checkpoint folder {model}. Give a folder, a hub id such as "
            f"{DEFAULT_MODEL}, or 'miniature'."
        )
    return _download(model, revision)


def _download(hub_id: str, revision: str | None) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise MissingPackageError(
            f"{hub_id} is not a folder here, and downloading it needs huggingface_hub. Install "
            f"it with: {pip_install('export')}"
        ) from None
    try:
        patterns = ["*.json", "*.safetensors", "adapter_model.bin"]
        folder = Path(snapshot_download(hub_id, revision=revision, allow_patterns=patterns))
        if not any(folder.glob("*.safetensors")):
            # Of the same commit, should the branch move in between.
            commit = commit_of(folder) or revision
            snapshot_download(hub_id, revision=commit, allow_patterns=["pytorch_model*.bin"])
    except Exception as error:  # the hub's own, and those of the HTTP library it happens to use
        at = "" if revision is None else f" at revision {revision}"
        raise BundleError(
            f"{hub_id}{at} is not a folder here and could not be downloaded: {_first_line(error)}. "
            "Check the name, the revision and the network, or give a local folder; a private or "
            "gated model takes the token in HF_TOKEN, or that of `hf auth login`."
        ) from error
    return folder


def commit_of(folder: Path) -> str | None:
    """The commit of a folder in the hub's cache (snapshots/COMMIT); None of any other folder."""
    at_commit = folder.parent.name == "snapshots" and _COMMIT.fullmatch(folder.name)
    return folder.name if at_commit else None


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].removesuffix(".")


@dataclass(frozen=True, slots=True)
class AppliedAdapter:
    """An adapter that was merged: its name, how much of it counts, and the hash of its weights."""

    name: str
    weight: float
    sha256: str


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A Florence-2 checkpoint: its configuration and its tensors by native name.

    `weight_files` are its own, without those of `adapters`, which are in `tensors` already.
    """

    folder: Path
    config: CheckpointConfig
    tensors: Mapping[str, StoredTensor]
    weight_files: tuple[Path, ...]
    adapters: tuple[AppliedAdapter, ...] = ()

    @property
    def revision(self) -> str | None:
        """The commit on the hub, if it was downloaded from there."""
        return commit_of(self.folder)

    def sha256(self) -> str:
        """Hash of the weight files, in order of name, and of what adapters make of them.

        With adapters it is that of the weight files' own, and of each adapter's hash and weight.
        """
        digest = sha256(*sorted(self.weight_files))
        if not self.adapters:
            return digest
        parts = [digest, *(f"{each.sha256} {each.weight!r}" for each in self.adapters)]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


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
    if is_adapter(folder):
        raise BundleError(
            f"{folder} is an adapter, not a whole model. Name the model that it was trained on, "
            f"and this with it: florence-export MODEL --adapter {folder} --output DIR."
        )
    config = read_config(folder)
    weight_files = _weight_files(folder)
    tensors = _by_native_name(_read_all(weight_files), config.layout)
    if config.layout is Layout.MICROSOFT:
        _transpose_projection(tensors)
    else:
        _drop_bias(tensors)
    resolve_embeddings(tensors, config)
    return Checkpoint(folder, config, tensors, weight_files)


def _read_all(weight_files: tuple[Path, ...]) -> dict[str, StoredTensor]:
    """The tensors of all files by the names under which they are stored."""
    stored: dict[str, StoredTensor] = {}
    for path in weight_files:
        for name, tensor in read_tensors(path):
            if name in stored:
                raise BundleError(
                    f"{name} is in two of the weight files, {path} and another. Delete what an "
                    "earlier download or save has left in the folder."
                )
            stored[name] = tensor
    return stored


def _by_native_name(stored: dict[str, StoredTensor], layout: Layout) -> dict[str, StoredTensor]:
    tensors: dict[str, StoredTensor] = {}
    sources: dict[str, str] = {}
    for name, native in native_names(stored, layout).items():
        if native.endswith("position_ids"):  # 0, 1, 2, ... of an older BART
            continue
        if native in tensors and not same_values(tensors[native], stored[name]):
            raise BundleError(
                f"{sources[native]} and {name} are two names of one tensor, and their values "
                "differ. Delete the one that is not meant."
            )
        tensors[native], sources[native] = stored[name], name
    return tensors


def _weight_files(folder: Path) -> tuple[Path, ...]:
    for single in ("model.safetensors", "pytorch_model.bin"):
        if (folder / single).exists():
            return (folder / single,)
        index = folder / f"{single}.index.json"
        if index.exists():
            return _shards(index)
    raise BundleError(
        f"{folder} has no weights: expected model.safetensors (or its shards) or "
        "pytorch_model.bin. Finish the download, or save the model there with save_pretrained."
    )


def _shards(index: Path) -> tuple[Path, ...]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise BundleError(
            f"{index} names no shards: expected names of tensors and files under weight_map. Take "
            "it from the original checkpoint, or save the model again with save_pretrained."
        )
    shards = sorted({str(shard) for shard in weight_map.values()})
    outside = [shard for shard in shards if Path(shard).name != shard]
    if outside:
        raise BundleError(f"{index} names {outside[0]!r}, which is no file beside it.")
    missing = [shard for shard in shards if not (index.parent / shard).exists()]
    if missing:
        raise BundleError(
            f"{index.parent} lacks the shards {missing} that {index.name} names. "
            "Finish the download."
        )
    return tuple(index.parent / shard for shard in shards)


def _transpose_projection(tensors: dict[str, StoredTensor]) -> None:
    """Microsoft's image_projection is a bare [in, out] matrix, the native one a Linear's weight."""
    name = "multi_modal_projector.image_projection.weight"
    if name in tensors:
        load = tensors[name].load
        tensors[name] = StoredTensor(tensors[name].shape[::-1], lambda: load().T)


def _drop_bias(tensors: dict[str, StoredTensor]) -> None:
    """transformers' native class has no place for BART's bias of the scores, and leaves it out."""
    bias = tensors.pop(BIAS, None)
    if bias is not None and bias.load().any():
        logger.warning(
            "%s is stored and not used: transformers' native class, whose layout this checkpoint "
            "has, does not know it.",
            BIAS,
        )
