"""Where a checkpoint comes from: a local folder, the built-in miniature, or a hub."""

import re
from importlib.resources import files
from pathlib import Path

from florence_edge.errors import BundleError

MINIATURE = "miniature"
DEFAULT_MODEL = "florence-community/Florence-2-base-ft"

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def find_checkpoint(model: str) -> Path:
    """The folder of the checkpoint that `model` names; a hub id is downloaded (and cached).

    Raises:
        BundleError: there is no such folder or hub id, or the hub cannot be reached.
    """
    if model == MINIATURE:
        return Path(str(files("florence_edge_calibration") / "miniature" / "checkpoint"))
    if Path(model).is_dir():
        return Path(model)
    if not _HUB_ID.fullmatch(model) or model.startswith("."):
        raise BundleError(
            f"There is no checkpoint folder {model}. Give a folder, a hub id such as "
            f"{DEFAULT_MODEL}, or 'miniature'."
        )
    return _download(model)


def _download(hub_id: str) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise BundleError(
            f"{hub_id} is no folder here, and downloading it needs huggingface_hub. Install "
            "florence-edge[export]."
        ) from None
    try:
        folder = Path(snapshot_download(hub_id, allow_patterns=["*.json", "*.safetensors"]))
        if not any(folder.glob("*.safetensors")):
            snapshot_download(hub_id, allow_patterns=["pytorch_model*.bin"])
    except Exception as error:  # the hub's own, and those of the HTTP library it happens to use
        raise BundleError(
            f"{hub_id} is no folder here and could not be downloaded: {_first_line(error)}. "
            "Check the name and the network, or give a local folder."
        ) from error
    return folder


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].removesuffix(".")
