"""Writing a bundle: every file of it into a temporary folder, then one rename.

new_folder     the folder that becomes the bundle when everything in it is written
save_bundle    what a bundle has to have; it can be loaded afterwards
write_manifest once more, with the files that were added since
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import onnx_ir as ir
from tokenizers import Tokenizer as TokenizerFile

from florence_edge import __version__, contract
from florence_edge.bundle import (
    DIGEST,
    ENGINES,
    MANIFEST,
    PRODUCER,
    TOKENIZER,
    WEIGHTS,
    Bundle,
    digest_of,
    sha256,
)
from florence_edge.contract import ModelSize
from florence_edge.errors import BundleError, FlorenceEdgeError, RequestError
from florence_edge.files import folder_beside, read_json, replace_folder
from florence_edge.tasks import Task
from florence_edge_calibration.fp16 import drop_island_casts
from florence_edge_calibration.tensorrt_vision import for_tensorrt

from .checkpoint.defaults import GenerationDefaults, ImageProcessing
from .checkpoint.loader import Checkpoint

_INLINE_BYTES = 1024  # smaller tensors (shapes, scalars) stay inside the .onnx file
_ALIGNMENT = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleSource:
    """A checkpoint, read and checked: what every bundle of it is made from.

    `model` is what the user called it; `tensorrt_decoders` is whether bundles get the decoders for
    TensorRT, too, and `cuda_graphs` whether they may get those for ONNX Runtime's CUDA provider.
    """

    model: str
    checkpoint: Checkpoint
    size: ModelSize
    image: ImageProcessing
    tokenizer: TokenizerFile
    defaults: GenerationDefaults
    tensorrt_decoders: bool = False
    cuda_graphs: bool = False
    tasks: tuple[Task, ...] = ()
    """Its own, beside the 15."""


@dataclass(frozen=True, slots=True)
class BundleFormat:
    """How a bundle's graphs compute; the fields are the manifest's (see `Bundle`)."""

    precision: str
    target: str = "any"
    floats: str = "float32"
    exact_products: bool = True  # on every processor: what int8 weights are rounded for


@contextmanager
def new_folder(target: Path, *, overwrite: bool) -> Iterator[Path]:
    """A temporary folder beside `target` that takes its place when the block succeeds.

    Raises:
        RequestError: `target` exists, and `overwrite` does not cover it.
        BundleError: it cannot be written. Whatever goes wrong, what was at `target` before is still
            there.
    """
    check_target(target, overwrite=overwrite)
    with ExitStack() as stack:
        try:
            temporary = stack.enter_context(folder_beside(target)) / target.name
            temporary.mkdir()  # beside it there is room for what else the export needs on this disk
        except OSError as error:
            raise BundleError(
                f"Cannot write beside {target}: {error}. Choose another --output."
            ) from error
        try:
            yield temporary
            check_target(target, overwrite=overwrite)  # minutes have passed
            replace_folder(temporary, target)
        except FlorenceEdgeError:  # some of ours are OSErrors, too, and say what happened
            raise
        except OSError as error:
            raise BundleError(
                f"Writing {target} failed: {error}. Nothing was changed there."
            ) from error


@contextmanager
def kept_if_refused(folder: Path, aside: Path | None) -> Iterator[None]:
    """Move the bundle in `folder` to `aside`, if that is given, where the block refuses it.

    Raises:
        BundleError: what the block raised, and where the bundle is.
    """
    try:
        yield
    except BundleError as error:
        if aside is None:
            raise
        with folder_beside(aside):
            replace_folder(folder, aside)
        raise BundleError(f"{error} The bundle that was refused is in {aside}.") from error


def check_target(target: Path, *, overwrite: bool) -> None:
    """Refuse to write where something is that `overwrite` does not cover.

    Raises:
        RequestError: `target` exists without `overwrite`, or is not a bundle and nothing but one.
    """
    if not target.exists():
        return
    if not overwrite:
        raise RequestError(
            f"{target} exists. Choose another --output, or pass --overwrite to replace it."
        )
    others = _not_of_a_bundle(target)
    if others:
        raise RequestError(
            f"{target} holds something that is not a bundle's ({others[0]}), so it will not be "
            "replaced. Choose another --output."
        )


def _not_of_a_bundle(target: Path) -> list[str]:
    """What is in `target` that its manifest does not list; engines are a bundle's, too."""
    if not target.is_dir():
        return [target.name]
    listed: set[str] = set()
    try:
        manifest = read_json(target / MANIFEST)
        if str(manifest["producer"]).startswith(PRODUCER):
            files = [Path(name) for name in (MANIFEST, *manifest["files"])]
            listed = {each.as_posix() for file in files for each in (file, *file.parents)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        listed = set()
    found = (entry.relative_to(target) for entry in target.rglob("*"))
    ours = {ENGINES} if listed else set()
    return sorted(
        path.as_posix()
        for path in found
        if path.as_posix() not in listed and path.parts[0] not in ours
    )


def save_bundle(
    folder: Path, source: BundleSource, form: BundleFormat, graphs: Mapping[str, ir.Model]
) -> Bundle:
    """Write graphs, weights, tokenizer and manifest; a bundle that was there is written anew.

    Raises:
        OSError: a file cannot be written.
    """
    (folder / MANIFEST).unlink(missing_ok=True)
    vision = graphs[contract.VISION_ENCODER]
    if form.target not in ("cpu", "onnxruntime"):
        graphs = {**graphs, contract.VISION_TENSORRT: for_tensorrt(vision)}
    for name in (contract.VISION_ENCODER, contract.VISION_CUDA):
        if name in graphs:
            drop_island_casts(graphs[name].graph)  # TensorRT needs them, and has its own graph
    for path in folder.glob("*.onnx"):
        if path.stem not in graphs:  # of an earlier round, whose weights go
            path.unlink()
    weight_bytes = save_graphs(folder, graphs)
    (folder / TOKENIZER).write_text(source.tokenizer.to_str(pretty=True), encoding="utf-8")
    write_manifest(folder, {**_facts(source, form), "weight_bytes": weight_bytes})
    return Bundle.load(folder)


def _origin(source: BundleSource) -> dict[str, Any]:
    """Who made a folder, and of what."""
    adapters = source.checkpoint.adapters
    return {
        "producer": f"{PRODUCER} {__version__}",
        "model": {
            "name": _name_that_travels(source.model),
            **({} if (commit := source.checkpoint.revision) is None else {"revision": commit}),
            "layout": source.checkpoint.config.layout.value,
            "sha256": source.checkpoint.sha256(),
            **({"adapters": [asdict(each) for each in adapters]} if adapters else {}),
        },
    }


def _facts(source: BundleSource, form: BundleFormat) -> dict[str, Any]:
    """The manifest, but for what is known of the files."""
    return {
        "contract": contract.CONTRACT_VERSION,
        **_origin(source),
        **asdict(form),
        "tensorrt_decoders": source.tensorrt_decoders,
        "size": asdict(source.size),
        "image": {
            "mean": list(source.image.mean),
            "std": list(source.image.std),
            "resample": "bicubic",
        },
        "generation": asdict(source.defaults.generation),
        "generation_from": list(source.defaults.sources),
        **({"tasks": list(map(_task_facts, source.tasks))} if source.tasks else {}),
    }


def _task_facts(task: Task) -> dict[str, str]:
    return {**asdict(task), "answer": task.answer.value, "needs": task.needs.value}


def _name_that_travels(model: str) -> str:
    """A folder's own name, or an id on the hub: where things lie on this machine is its own."""
    folder = Path(model)
    return folder.resolve().name if folder.is_dir() or folder.is_absolute() else model


def save_graphs(folder: Path, graphs: Mapping[str, ir.Model]) -> dict[str, int]:
    """Write `<name>.onnx` for each graph, and weights.bin with every tensor of theirs once.

    Returns:
        For each graph, the bytes that its tensors have in weights.bin: what an engine of it loads.
    """
    (folder / WEIGHTS).unlink(missing_ok=True)  # an engine may still have the one before open
    weight_bytes = dict.fromkeys(graphs, 0)
    with (folder / WEIGHTS).open("wb") as file:
        weights = _WeightFile(file)
        for name, model in graphs.items():
            for value in model.graph.initializers.values():
                if value.const_value is not None:
                    value.const_value = stored = weights.add(value.const_value)
                    if isinstance(stored, ir.ExternalTensor):
                        weight_bytes[name] += stored.nbytes
        for name, model in graphs.items():
            ir.save(model, folder / f"{name}.onnx")
    return weight_bytes


class _WeightFile:
    """Appends tensors to the shared data file; equal ones share their bytes."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._offsets: dict[bytes, int] = {}  # by the hash of the content

    def add(self, tensor: ir.TensorProtocol) -> ir.TensorProtocol:
        """The tensor as one that lies in the file, or as it is where it is small."""
        data = tensor.tobytes()
        if len(data) < _INLINE_BYTES:
            return tensor
        digest = hashlib.blake2b(data, digest_size=16).digest()
        if digest not in self._offsets:
            self._file.write(bytes(-self._file.tell() % _ALIGNMENT))
            self._offsets[digest] = self._file.tell()
            self._file.write(data)
        return ir.ExternalTensor(
            WEIGHTS,
            offset=self._offsets[digest],
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
    content = read_json(path) if facts is None else {**facts}
    listed = content.pop("files", {})
    files = {
        file.name: listed.get(file.name) or {"bytes": file.stat().st_size, "sha256": sha256(file)}
        for file in sorted(folder.iterdir())
        if file != path
    }
    content = {**content, "files": files}
    text = json.dumps(
        {**content, DIGEST: digest_of(content)}, indent=2, ensure_ascii=False, allow_nan=False
    )
    path.write_text(text + "\n", encoding="utf-8")


def write_contents(folder: Path, source: BundleSource, facts: Mapping[str, Any]) -> None:
    """Write manifest.json of a folder that is no bundle: who made it of what, and every file.

    By it the folder is known to be ours, which `--overwrite` may replace.
    """
    files = {
        file.relative_to(folder).as_posix(): {"bytes": file.stat().st_size, "sha256": sha256(file)}
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }
    content = {**_origin(source), **facts, "files": files}
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")
