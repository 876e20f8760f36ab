"""Whether a bundle and a checkpoint are the same model, before they are compared."""

from pathlib import Path

from florence_edge.bundle import Bundle
from florence_edge.errors import RequestError


def check_same_weights(bundle: Path, checkpoint: str) -> None:
    """Compare the checkpoint's weights with the hash in the bundle's manifest; takes seconds.

    Raises:
        RequestError: the bundle was exported from other weights.
        BundleError: bundle or checkpoint cannot be read.
    """
    from florence_edge_export.checkpoint.folder import read_checkpoint  # needs the export extra
    from florence_edge_export.checkpoint.source import find_checkpoint

    folder = find_checkpoint(checkpoint)
    if Bundle.load(bundle).checkpoint != read_checkpoint(folder).sha256():
        raise RequestError(
            f"{bundle} was not exported from {folder}: the weights have another hash. Give the "
            "checkpoint that it was exported from: --checkpoint DIR."
        )
