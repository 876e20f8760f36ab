"""A bundle on disk: its manifest, and whether what the manifest names is really there."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import contract
from .errors import BackendError, BundleError, BundleNotFoundError
from .files import from_json
from .options import GenerationConfig, resolve

MANIFEST = "manifest.json"
TOKENIZER = "tokenizer.json"
WEIGHTS = "weights.bin"
FIDELITY = "fidelity.json"
ENGINES = "engines"
PRODUCER = "florence-edge"

PRECISIONS = ("fp32", "fp16", "int8")  # of a bundle's weights: what florence-export makes


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file of the bundle as it was written."""

    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class _Checkpoint:
    """What a bundle was exported from: the name that was given, and the hash of its weights."""

    name: str
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Manifest:
    """manifest.json, key by key; what a newer export adds is ignored."""

    model: _Checkpoint
    precision: str
    target: str
    floats: str
    size: contract.ModelSize
    generation: GenerationConfig
    files: Mapping[str, StoredFile]
    in_place: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """An exported model: what `manifest.json` says of it.

    `checkpoint` is the hash of what it was exported from, `precision` that of the weights (one of
    PRECISIONS), `floats` numpy's dtype of features and caches ("float32" or "float16"), `target`
    the engine it was made for ("any" where all can run it). `in_place` is the cache capacity of its
    in-place decoder, None where it has none.
    """

    folder: Path
    model: str
    checkpoint: str
    precision: str
    target: str
    floats: str
    size: contract.ModelSize
    generation: GenerationConfig
    files: Mapping[str, StoredFile]
    in_place: int | None = None

    @staticmethod
    def load(folder: str | Path) -> "Bundle":
        """Read and check a bundle: contract version, presence and size of every file.

        All but the weights are compared with their hashes, too; `check_content` takes those in.

        Raises:
            BundleNotFoundError: there is no such folder.
            BundleError: what is wrong, what was expected, and what to run.
        """
        folder = Path(folder)
        content = _read_manifest(folder)
        version = content.get("contract")
        if version != contract.CONTRACT_VERSION:
            raise BundleError(
                f"{folder} was exported for contract {version}, this runtime speaks "
                f"{contract.CONTRACT_VERSION}. Export it again with florence-export, or install "
                "the florence-edge that made it."
            )
        try:
            bundle = _bundle_from_manifest(folder, from_json(_Manifest, content))
        except ValueError as error:
            raise BundleError(
                f"{folder / MANIFEST} lacks or garbles a field: {error}. Export the bundle again."
            ) from error
        bundle._check_files()
        bundle.check_content(weights=False)
        return bundle

    def graph_file(self, graph: str) -> Path:
        """Path of one of the three graphs, or of the in-place decoder."""
        return self.folder / f"{graph}.onnx"

    def check_engine(self, engine: str) -> None:
        """Refuse an engine that this bundle was not made for.

        Raises:
            BackendError: with the export command that makes a fitting bundle.
        """
        if self.target not in ("any", engine):
            pictures = " --calibration-images DIR" if self.precision == "int8" else ""
            raise BackendError(
                f"{self.folder} was made for {self.target} and does not run on {engine}. Run: "
                f"florence-export {self.model} --precision {self.precision}{pictures} --output NEW."
            )

    def check_content(self, *, weights: bool = True) -> None:
        """Compare the files with the hashes they were written with; weights take seconds.

        Raises:
            BundleError: naming the first file that is not what was exported.
        """
        for name, stored in self.files.items():
            if name == WEIGHTS and not weights:
                continue
            if sha256(self.folder / name) != stored.sha256:
                raise BundleError(
                    f"{self.folder / name} is not what was exported: its content was changed. "
                    "Copy it again, or export the bundle again."
                )

    def _check_files(self) -> None:
        graphs = (*contract.GRAPHS, *(() if self.in_place is None else (contract.IN_PLACE,)))
        for name in (TOKENIZER, WEIGHTS, *(f"{graph}.onnx" for graph in graphs)):
            if name not in self.files:
                raise BundleError(
                    f"{self.folder / MANIFEST} does not list {name}. Export the bundle again."
                )
        for name, stored in self.files.items():
            path = self.folder / name
            if not path.is_file():
                raise BundleError(
                    f"{self.folder} lacks {name}, which its manifest lists. Copy the whole folder, "
                    "or export the bundle again."
                )
            if path.stat().st_size != stored.bytes:
                raise BundleError(
                    f"{path} has {path.stat().st_size} bytes, expected {stored.bytes}: it was "
                    "changed or cut short. Copy it again, or export the bundle again."
                )


def sha256(*paths: Path) -> str:
    """Hash of the content of files, one after the other."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    if folder.is_file():
        raise BundleError(
            f"There is no bundle at {folder}, which is a file. Expected the folder that "
            "florence-export wrote."
        )
    if not folder.is_dir():
        raise BundleNotFoundError(
            f"There is no bundle at {folder}. Make one: florence-export MODEL --output {folder}."
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BundleError(
            f"{folder} is not a bundle: it has no {MANIFEST}. If it is a checkpoint, export it: "
            f"florence-export {folder} --output BUNDLE."
        ) from None
    except (OSError, ValueError) as error:
        raise BundleError(f"{path} cannot be read: {error}. Export the bundle again.") from error
    if not isinstance(content, dict):
        raise BundleError(f"{path} is not a manifest. Export the bundle again.")
    return content


def _bundle_from_manifest(folder: Path, manifest: _Manifest) -> Bundle:
    return Bundle(
        folder=folder,
        model=manifest.model.name,
        checkpoint=manifest.model.sha256,
        precision=manifest.precision,
        target=manifest.target,
        floats=manifest.floats,
        size=manifest.size,
        generation=resolve(None, manifest.generation, manifest.size),
        files=manifest.files,
        in_place=manifest.in_place,
    )
