"""Manifests (manifest.json, engine.json) that a test edits, with a digest that fits again."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from florence_edge.bundle import DIGEST, MANIFEST, digest_of, sha256

Edit = Callable[[dict[str, Any]], object]


def edit_manifest(folder: Path, edit: Edit, name: str = MANIFEST) -> None:
    """Let a test change what a manifest says, as if it had been exported so."""
    path = folder / name
    content = json.loads(path.read_text(encoding="utf-8"))
    edit(content)
    content[DIGEST] = digest_of(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def write_hash(folder: Path, name: str) -> None:
    """Let the manifest agree with what a file of the bundle holds now."""
    stored = {"sha256": sha256(folder / name), "bytes": (folder / name).stat().st_size}
    edit_manifest(folder, lambda manifest: manifest["files"][name].update(stored))
