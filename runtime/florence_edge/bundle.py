"""A bundle on disk: its manifest, and whether what the manifest names is really there."""

import hashlib
import json
import os
import shlex
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

from . import contract
from .errors import BackendError, BundleError, BundleNotFoundError
from .external_data import ExternalTensor, Locate, relocate
from .files import from_json, open_plain, read_json, recover_folder
from .options import GenerationConfig, resolve
from .stored_links import place_of
from .tasks import Task, check_own_tasks

MANIFEST = "manifest.json"
TOKENIZER = "tokenizer.json"
WEIGHTS = "weights.bin"
FIDELITY = "fidelity.json"
ENGINES = "engines"
PRODUCER = "florence-edge"
DIGEST = "digest"

PRECISIONS = ("fp32", "fp16", "int8", "int4")  # of a bundle's weights: what florence-export makes
_FLOATS = ("float32", "float16")
_MANIFEST_BYTES = 1 << 20
_GRAPH_BYTES = 256 << 20  # the largest graph of ours has one; tensors are in weights.bin


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file of the bundle as it was written."""

    bytes: int
    sha256: str


class Stamp(NamedTuple):
    """What tells that a file was written to, without reading it."""

    device: int  # this and the inode are the file, whatever it is called
    inode: int
    bytes: int
    modified: int  # nanoseconds


@dataclass(frozen=True, slots=True)
class _Checkpoint:
    """What a bundle was exported from: its name, and the hash of its weights."""

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
    tensorrt_decoders: bool = False
    exact_products: bool = False
    tasks: tuple[Task, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """An exported model: what `manifest.json` says of it.

    `model` is the name of the checkpoint's folder or its id on the hub, `checkpoint` the hash of
    its weights, `precision` that of the bundle's (one of PRECISIONS), `floats` numpy's dtype of
    features and caches ("float32" or "float16"), `target` the engine it was made for: "any" and
    "gpu" (made for GPUs) run on all, "onnxruntime" (with operators of its own, which OpenVINO
    reads, too) on all but TensorRT. `tensorrt_decoders` says that it has the decoders for TensorRT
    (contract.TENSORRT_DECODERS), too. `exact_products` says that no sum of its int8
    products exceeds 16 bits on the way, where processors without VNNI saturate; int8 of older
    exports lacks it.
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
    tensorrt_decoders: bool = False
    exact_products: bool = False
    tasks: tuple[Task, ...] = ()
    """The checkpoint's own tasks, beside the 15 (`florence-export --task-file`)."""
    stamp: Stamp | None = field(default=None, compare=False, repr=False)

    @staticmethod
    def load(folder: str | Path) -> "Bundle":
        """Read and check a bundle: contract version, digest, presence and size of every file.

        All but the weights are compared with their hashes, too; `check_weights` does those. Graphs
        may keep tensors in weights.bin alone, and links lead nowhere but into the cache of the
        Hugging Face hub or of DVC.

        Raises:
            BundleNotFoundError: there is no such folder.
            BundleError: what is wrong, what was expected, and what to run.
        """
        folder = Path(folder)
        content = _read_manifest(folder)
        _check_version_and_digest(folder, content)
        try:
            bundle = _bundle_from_manifest(folder, from_json(_Manifest, content))
            bundle = replace(bundle, stamp=_stamp_of(folder / WEIGHTS))
        except ValueError as error:
            raise BundleError(
                f"{folder / MANIFEST} is not one that florence-export writes: {error}. "
                "Export the bundle again."
            ) from error
        bundle._check_files()
        bundle.check_content(weights=False)
        bundle._check_graphs()
        return bundle

    def graph_file(self, graph: str) -> Path:
        """Path of one of the three graphs, or of the in-place decoder."""
        return self.folder / f"{graph}.onnx"

    def weights_file(self) -> Path:
        """Where the weights are, links followed.

        Raises:
            BundleError: a link leads out of the bundle, and not into a cache of bundles.
        """
        return place_of(self.folder, WEIGHTS)

    def has_linked_weights(self) -> bool:
        """Whether weights.bin is a link into a cache, which some engines do not follow."""
        return self.weights_file() != Path(os.path.realpath(self.folder), WEIGHTS)

    def check_unlinked(self) -> None:
        """Refuse weights behind a link, where a tool opens the graphs that follows none.

        Raises:
            BundleError: with how to copy the bundle.
        """
        if self.has_linked_weights():
            raise BundleError(
                f"{self.folder / WEIGHTS} is a link, which is not followed here. Copy the bundle "
                f"with what its links lead to: cp -rL {shlex.quote(str(self.folder))} NEW."
            )

    def relocated_graph(self, graph: str, locate: Locate) -> bytes:
        """A graph's file, with its tensors where `locate` says (`external_data.relocate`).

        Raises:
            BundleError: the file cannot be read, or is not a graph.
        """
        path = self.graph_file(graph)
        try:
            with open_plain(path) as file:
                return relocate(file.read(_GRAPH_BYTES), locate)
        except (OSError, ValueError) as error:
            raise BundleError(
                f"{path} is not a graph that florence-export writes: {error}. Copy it again, or "
                "export the bundle again."
            ) from error

    def runs_on(self, engine: str) -> bool:
        """Whether the bundle was made for an engine, which `Device.family` names."""
        if self.target == "onnxruntime":
            return engine != "tensorrt"
        return self.target in ("any", "gpu", engine)

    def check_engine(self, engine: str) -> None:
        """Refuse an engine that this bundle was not made for.

        Raises:
            BackendError: with the export command that makes a fitting bundle.
        """
        if not self.runs_on(engine):
            pictures = " --calibration-images DIR" if self.precision in ("int8", "int4") else ""
            raise BackendError(
                f"{self.folder} was made for {self.target} and does not run on {engine}. It was "
                f"made of the checkpoint {self.model}. Run: florence-export CHECKPOINT "
                f"--precision {self.precision}{pictures} --output NEW."
            )

    def may_saturate(self) -> bool:
        """Whether it multiplies in int8, with weights that leave room for saturation."""
        return self.precision == "int8" and self.target != "gpu" and not self.exact_products

    def check_content(self, *, weights: bool = True) -> None:
        """Compare the files with the hashes they were written with; weights take up to seconds.

        Raises:
            BundleError: naming the first file that is not what was exported.
        """
        for name in self.files:
            if weights or name != WEIGHTS:
                self._check_hash(name)

    def check_weights(self) -> None:
        """Compare the weights alone with their hash (1 to 2 GB a second).

        Raises:
            BundleError: they are not what was exported.
        """
        self._check_hash(WEIGHTS)

    def check_unchanged(self) -> None:
        """Refuse to go on where the weights were written to since the bundle was loaded.

        Takes microseconds. Engines on the CPU have the file mapped, so their answers would change
        with it. A file that took its name is another one, and changes nothing.

        Raises:
            BundleError: naming the file.
        """
        path = os.path.join(self.folder, WEIGHTS)  # faster than a Path, and this is at every step
        now = _stamp_of(path)
        if now is None or self.stamp is None or now == self.stamp or now[:2] != self.stamp[:2]:
            return
        raise BundleError(
            f"{path} was written to after it was loaded, so this model's answers could be "
            "wrong. Load it again; to replace a bundle that is in use, put a new folder in its "
            "place (florence-export --overwrite, or mv)."
        )

    def _check_hash(self, name: str) -> None:
        path = self.folder / name
        try:
            found = sha256(path)
        except OSError as error:
            raise BundleError(f"{path} cannot be read: {error}. Copy it again.") from error
        if found != self.files[name].sha256:
            raise BundleError(
                f"{path} is not what was exported: its content was changed. "
                "Copy it again, or export the bundle again."
            )

    def _check_files(self) -> None:
        graphs = (*contract.GRAPHS, *(contract.TENSORRT_DECODERS if self.tensorrt_decoders else ()))
        for name in (TOKENIZER, WEIGHTS, *(f"{graph}.onnx" for graph in graphs)):
            if name not in self.files:
                raise BundleError(
                    f"{self.folder / MANIFEST} does not list {name}. Export the bundle again."
                )
        for name, stored in self.files.items():
            path = self.folder / name
            if not path.exists():
                raise BundleError(
                    f"{self.folder} lacks {name}, which its manifest lists. Copy the whole folder, "
                    "or export the bundle again."
                )
            if not path.is_file():
                raise BundleError(f"{path} is not a file. Copy it again.")
            place_of(self.folder, name)
            if path.stat().st_size != stored.bytes:
                raise BundleError(
                    f"{path} has {path.stat().st_size} bytes, expected {stored.bytes}: it was "
                    "changed or cut short. Copy it again, or export the bundle again."
                )

    def _check_graphs(self) -> None:
        """Let no graph send its engine to another file than the weights, or beyond their end."""
        for name, stored in self.files.items():
            if name.endswith(".onnx"):
                if stored.bytes > _GRAPH_BYTES:
                    raise BundleError(
                        f"{self.folder / name} has {stored.bytes} bytes, expected at most "
                        f"{_GRAPH_BYTES}: its tensors belong into {WEIGHTS}. Export the bundle "
                        "again with florence-export."
                    )
                self.relocated_graph(name.removesuffix(".onnx"), self._in_weights)

    def _in_weights(self, tensor: ExternalTensor) -> ExternalTensor:
        if tensor.location != WEIGHTS:
            raise ValueError(f"a tensor lies in {tensor.location!r:.200}, expected in {WEIGHTS}")
        end = tensor.offset + (tensor.length or 0)
        if end > self.files[WEIGHTS].bytes:
            raise ValueError(f"a tensor ends at byte {end}, behind the end of {WEIGHTS}")
        return tensor


def _stamp_of(path: str | Path) -> Stamp | None:
    """A file's stamp; None where there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return Stamp(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


def sha256(*paths: Path) -> str:
    """Hash of the content of files, one after the other.

    Raises:
        OSError: one cannot be read, or is not a plain file.
    """
    digest = hashlib.sha256()
    for path in paths:
        with open_plain(path) as file:
            while block := file.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()


def digest_of(content: Mapping[str, Any]) -> str:
    """SHA-256 of a manifest (manifest.json, engine.json) without its own `digest`.

    Of its JSON with sorted keys, without spaces, in ASCII.
    """
    facts = {key: value for key, value in content.items() if key != DIGEST}
    text = json.dumps(facts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    if not folder.exists():
        with suppress(ValueError):  # a name that nothing can have
            recover_folder(folder)
    if folder.exists() and not folder.is_dir():
        raise BundleError(
            f"There is no bundle at {folder}, which is a file. Expected the folder that "
            "florence-export wrote."
        )
    if not folder.is_dir():
        raise BundleNotFoundError(
            f"There is no bundle at {folder}. Make one: florence-export MODEL --output {folder}."
        )
    try:
        content = read_json(path, most=_MANIFEST_BYTES)
    except FileNotFoundError:
        raise BundleError(
            f"{folder} is not a bundle: it has no {MANIFEST}. If it is a checkpoint, export it: "
            f"florence-export {folder} --output BUNDLE."
        ) from None
    except (OSError, ValueError) as error:
        raise BundleError(
            f"{path} cannot be read: {error}. Copy the bundle again, or export it again."
        ) from error
    if not isinstance(content, dict):
        raise BundleError(f"{path} is not a manifest. Copy the bundle again, or export it again.")
    return content


def _check_version_and_digest(folder: Path, content: Mapping[str, Any]) -> None:
    version = content.get("contract")
    if version is None and "layout" in content:
        raise BundleError(
            f"{folder} has files for {content['layout']!s:.40}, not a bundle. Export the "
            "checkpoint once more without --layout."
        )
    if version != contract.CONTRACT_VERSION or isinstance(version, bool):
        raise BundleError(
            f"{folder} was exported for contract {version!r:.40}, this runtime speaks "
            f"{contract.CONTRACT_VERSION}. Export it again with florence-export, or install "
            "the florence-edge that made it."
        )
    if content.get(DIGEST) != digest_of(content):
        raise BundleError(
            f"{folder / MANIFEST} was changed since the export: it does not fit its digest. To "
            "generate in another way, pass GenerationOptions (florence-run --beams, "
            "--max-new-tokens) instead of editing it; else copy the bundle again, or export it "
            "again."
        )


def _bundle_from_manifest(folder: Path, manifest: _Manifest) -> Bundle:
    _check_choices(manifest)
    manifest.size.check()
    _check_token_ids(manifest.generation, manifest.size)
    check_own_tasks(manifest.tasks)
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
        tensorrt_decoders=manifest.tensorrt_decoders,
        exact_products=manifest.exact_products,
        tasks=manifest.tasks,
    )


def _check_choices(manifest: _Manifest) -> None:
    for name, value, choices in (
        ("precision", manifest.precision, PRECISIONS),
        ("floats", manifest.floats, _FLOATS),
    ):
        if value not in choices:
            raise ValueError(f"{name} is {value!r:.40}, expected one of {', '.join(choices)}")
    for name, stored in manifest.files.items():
        if name in ("", ".", "..", MANIFEST) or set(name) & {"/", "\\", "\0"}:
            raise ValueError(f"it lists {name!r:.80}, expected names of files beside it")
        if stored.bytes < 0:
            raise ValueError(f"{name!r:.80} has {stored.bytes} bytes")


def _check_token_ids(generation: GenerationConfig, size: contract.ModelSize) -> None:
    """The tokens that are fed or looked for must exist; those that may be off are -1 then."""
    for name in (each.name for each in fields(generation)):
        if name.startswith("forced_") or not name.endswith("_token_id"):
            continue  # `resolve` checks the former
        value = getattr(generation, name)
        ids = value if isinstance(value, tuple | list) else (value,)
        if not all(0 <= each < size.vocab_size for each in ids):
            raise ValueError(
                f"{name} is {value!r:.40}, expected a token id up to {size.vocab_size - 1}"
            )
