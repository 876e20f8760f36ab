"""Writing a bundle: all files into a temporary folder, then one rename."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import onnx_ir as ir

from florence_edge.bundle import ENGINES, MANIFEST, PRODUCER, WEIGHTS, sha256
from florence_edge.errors import BundleError

_INLINE_BYTES = 1024  # smaller tensors (shapes, scalars) stay inside the .onnx file
_ALIGNMENT = 64


@contextmanager
def new_folder(target: Path, *, overwrite: bool) -> Iterator[Path]:
    """A temporary folder beside `target` that takes its place when the block succeeds.

    Raises:
        BundleError: `target` exists and `overwrite` is not given, or its parent cannot be written.
            Whatever goes wrong, what was at `target` before is still there.
    """
    check_target(target, overwrite=overwrite)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    except OSError as error:
        raise BundleError(
            f"Cannot write beside {target}: {error}. Choose another --output."
        ) from error
    try:
        temporary.chmod(0o755)  # mkdtemp makes it private
        yield temporary
        check_target(target, overwrite=overwrite)  # minutes have passed
        _swap(temporary, target)
    except OSError as error:
        raise BundleError(
            f"Writing {target} failed: {error}. Nothing was changed there."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_target(target: Path, *, overwrite: bool) -> None:
    """Refuse to write where something is that `overwrite` does not cover.

    Raises:
        BundleError: `target` exists without `overwrite`, or is not a bundle and nothing but one.
    """
    if not target.exists():
        return
    if not overwrite:
        raise BundleError(
            f"{target} exists. Choose another --output, or pass --overwrite to replace it."
        )
    others = _not_of_a_bundle(target)
    if others:
        raise BundleError(
            f"{target} holds what is no bundle's ({others[0]}), so it will not be replaced. "
            "Choose another --output."
        )


def _not_of_a_bundle(target: Path) -> list[str]:
    """Names in `target` that no bundle's manifest lists; engines are a bundle's, too."""
    if not target.is_dir():
        return [target.name]
    try:
        manifest = json.loads((target / MANIFEST).read_text(encoding="utf-8"))
        is_ours = str(manifest["producer"]).startswith(PRODUCER)
        listed = {MANIFEST, ENGINES, *manifest["files"]} if is_ours else set()
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        listed = set()
    return sorted(entry.name for entry in target.iterdir() if entry.name not in listed)


def _swap(new: Path, target: Path) -> None:
    if not target.exists():
        os.rename(new, target)
        return
    holding = Path(tempfile.mkdtemp(prefix=f".{target.name}-old-", dir=target.parent))
    old = holding / "bundle"
    try:
        os.rename(target, old)
        os.rename(new, target)
    except BaseException:
        if old.exists() and not target.exists():
            os.rename(old, target)
        with suppress(OSError):  # not empty if even the way back failed: then nothing is deleted
            holding.rmdir()
        raise
    shutil.rmtree(holding, ignore_errors=True)


def save_graphs(folder: Path, graphs: Mapping[str, ir.Model]) -> None:
    """Write `<name>.onnx` for each graph, and weights.bin with every tensor of theirs once."""
    (folder / WEIGHTS).unlink(missing_ok=True)  # an engine may still have the one before open
    with (folder / WEIGHTS).open("wb") as file:
        weights = _WeightFile(file)
        for model in graphs.values():
            for value in model.graph.initializers.values():
                if value.const_value is not None:
                    value.const_value = weights.add(value.const_value)
        for name, model in graphs.items():
            ir.save(model, folder / f"{name}.onnx")


class _WeightFile:
    """Appends tensors to the shared data file; equal ones share their bytes."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._places: dict[bytes, int] = {}

    def add(self, tensor: ir.TensorProtocol) -> ir.TensorProtocol:
        data = tensor.tobytes()
        if len(data) < _INLINE_BYTES:
            return tensor
        digest = hashlib.blake2b(data, digest_size=16).digest()
        if digest not in self._places:
            self._file.write(bytes(-self._file.tell() % _ALIGNMENT))
            self._places[digest] = self._file.tell()
            self._file.write(data)
        return ir.ExternalTensor(
            WEIGHTS,
            offset=self._places[digest],
            length=len(data),
            dtype=tensor.dtype,
            shape=ir.Shape(tensor.shape.numpy()),
            name=tensor.name or "",
            base_dir="",
        )


def write_manifest(folder: Path, facts: Mapping[str, Any] | None = None) -> None:
    """Write manifest.json: `facts`, and every file of the folder with its size and hash.

    Without facts those of the manifest that is there stay, and only what was added is hashed.
    """
    path = folder / MANIFEST
    stated = json.loads(path.read_text(encoding="utf-8")) if facts is None else {**facts}
    listed = stated.pop("files", {})
    files = {
        file.name: listed.get(file.name) or {"bytes": file.stat().st_size, "sha256": sha256(file)}
        for file in sorted(folder.iterdir())
        if file != path
    }
    text = json.dumps({**stated, "files": files}, indent=2, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")
