"""A bundle on disk: its manifest, and whether what the manifest names is really there."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from . import contract
from .errors import BackendError, BundleError
from .options import Generation, resolve

MANIFEST = "manifest.json"
TOKENIZER = "tokenizer.json"
WEIGHTS = "weights.bin"
FIDELITY = "fidelity.json"
ENGINES = "engines"
PRODUCER = "florence-edge"

PRECISIONS = ("fp32", "fp16", "int8")

_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file of the bundle as it was written."""

    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """An exported model: what `manifest.json` says of it.

    `checkpoint` is the hash of what it was exported from, `precision` that of the weights, `floats`
    the dtype of features and caches, `target` the engine it was made for ("any" where all can run
    it). `in_place` is the cache capacity of its in-place decoder, None where it has none.
    """

    folder: Path
    model: str
    checkpoint: str
    precision: str
    target: str
    floats: str
    size: contract.ModelSize
    generation: Generation
    files: Mapping[str, StoredFile]
    in_place: int | None = None

    @staticmethod
    def load(folder: str | Path) -> "Bundle":
        """Read and check a bundle: contract version, presence and size of every file.

        All but the weights are compared with their hashes, too; `check_content` takes those in.

        Raises:
            BundleError: what is wrong, what was expected, and what to run.
        """
        folder = Path(folder)
        manifest = _read_manifest(folder)
        version = manifest.get("contract")
        if version != contract.CONTRACT_VERSION:
            raise BundleError(
                f"{folder} was exported for contract {version}, this runtime speaks "
                f"{contract.CONTRACT_VERSION}. Export it again with florence-export, or install "
                "the florence-edge that made it."
            )
        try:
            bundle = _bundle_from_manifest(folder, manifest)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
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
    if not folder.is_dir():
        raise BundleError(
            f"There is no bundle at {folder}. Make one: florence-export MODEL --output {folder}."
        )
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BundleError(
            f"{folder} is not a bundle: it has no {MANIFEST}. If it is a checkpoint, export it: "
            f"florence-export {folder} --output BUNDLE."
        ) from None
    except (OSError, ValueError) as error:
        raise BundleError(f"{path} cannot be read: {error}. Export the bundle again.") from error
    if not isinstance(manifest, dict):
        raise BundleError(f"{path} is not a manifest. Export the bundle again.")
    return manifest


def _bundle_from_manifest(folder: Path, manifest: Mapping[str, Any]) -> Bundle:
    size = _value(contract.ModelSize, manifest["size"])
    return Bundle(
        folder=folder,
        model=str(manifest["model"]["name"]),
        checkpoint=str(manifest["model"]["sha256"]),
        precision=str(manifest["precision"]),
        target=str(manifest["target"]),
        floats=str(manifest["floats"]),
        size=size,
        generation=resolve(None, _value(Generation, manifest["generation"]), size),
        files={name: _value(StoredFile, entry) for name, entry in manifest["files"].items()},
        in_place=_capacity(manifest.get("in_place")),
    )


def _capacity(stated: object) -> int | None:
    if stated is not None and not isinstance(stated, int):
        raise TypeError(f"in_place is {stated!r}, expected a whole number")
    return stated


def _value(kind: type[_Value], stated: Mapping[str, Any]) -> _Value:
    """A dataclass from the manifest's object of the same fields; what it has beyond is ignored."""
    values = {field.name: stated[field.name] for field in fields(kind)}  # type: ignore[arg-type]
    for field in fields(kind):  # type: ignore[arg-type]
        if field.type is int and not isinstance(values[field.name], int):
            raise TypeError(f"{field.name} is {values[field.name]!r}, expected a whole number")
    return kind(**values)
