"""Whether a bundle and a checkpoint are the same model, before they are compared."""

from pathlib import Path

from florence_edge.bundle import Bundle
from florence_edge.errors import BundleNotFoundError, RequestError


def check_same_weights(bundle: Path, checkpoint: str) -> Path:
    """Compare the checkpoint's weights with the hash in the bundle's manifest; takes seconds.

    Returns:
        The checkpoint's folder.

    Raises:
        RequestError: the bundle was exported from other weights.
        BundleError: bundle or checkpoint cannot be read.
    """
    from florence_edge_export.checkpoint.loader import find_checkpoint, read_checkpoint

    try:
        folder = find_checkpoint(checkpoint)
    except BundleNotFoundError as error:  # a manifest names a folder without its path
        raise BundleNotFoundError(
            f"{error} It is what {bundle} was exported from, or what --checkpoint names."
        ) from error
    if Bundle.load(bundle).checkpoint != read_checkpoint(folder).sha256():
        raise RequestError(
            f"{bundle} was not exported from {folder}: the weights have another hash. Give the "
            "checkpoint that it was exported from: --checkpoint DIR."
        )
    return folder
