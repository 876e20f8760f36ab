"""Which bundle and which data a figure is of, wherever they lay and whatever they were called."""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from florence_edge.bundle import MANIFEST, sha256

_DIGITS = 16  # of 64: enough to tell apart what one report compares


def bundle_fingerprint(folder: Path) -> str:
    """Of what was exported: the manifest has the hashes of all files and how answers are generated.

    Engines that were built from it later are no part of it.
    """
    return sha256(folder / MANIFEST)[:_DIGITS]


def data_fingerprint(files: Sequence[Path], pictures: Iterable[int]) -> str:
    """Of the files of truth, and of which pictures were taken of those they name, by id."""
    taken = ",".join(map(str, pictures))
    content = sha256(*sorted(files, key=lambda path: path.name))
    return hashlib.sha256(f"{content} {taken}".encode()).hexdigest()[:_DIGITS]
