"""engine.json: what TensorRT engines were built from, for which device, for which calls."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from shlex import quote
from typing import Any

from .. import contract
from ..bundle import DIGEST, ENGINES, WEIGHTS, Bundle, StoredFile, digest_of
from ..errors import BackendError
from ..files import from_json, open_plain, read_json, write_whole
from .driver import find_gpu, l4t_release
from .install import Flavour, TensorRT
from .profiles import EngineOptions

ENGINE_MANIFEST = "engine.json"
TIMING_CACHE = "timing.cache"
_MANIFEST_BYTES = 1 << 20
_DEFAULT = EngineOptions()
LAYOUT_VERSION = 3  # of engine.json and of the profiles: an engine of another is built again


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetDevice:
    """What an engine is tied to; `gpu` and `multiprocessors` are None if built ahead of time."""

    gpu: str | None
    multiprocessors: int | None
    compute_capability: str  # "8.7"
    flavour: Flavour
    tensorrt: str  # its version
    driver: str | None  # recorded, but engines outlive an update of the driver
    l4t: str | None  # release of Jetson Linux, None on other machines


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineManifest:
    """engine.json, key by key; `sources` are the SHA-256 of the bundle's files that went in."""

    layout: int
    producer: str
    model: str
    precision: str
    device: TargetDevice
    options: EngineOptions
    sources: Mapping[str, str | None]
    plans: Mapping[str, StoredFile]


def this_device(tensorrt: TensorRT, index: int = 0) -> TargetDevice:
    """This machine's GPU `index` with the TensorRT that is installed.

    Raises:
        BackendError: there is no driver, or no such GPU.
    """
    gpu = find_gpu(index)
    return TargetDevice(
        gpu=gpu.name,
        multiprocessors=gpu.multiprocessors,
        compute_capability=gpu.compute_capability,
        flavour=tensorrt.flavour,
        tensorrt=tensorrt.version,
        driver=gpu.driver,
        l4t=l4t_release(),
    )


def fingerprint(bundle: Bundle, device: TargetDevice, options: EngineOptions) -> str:
    """Name of an engine folder: 16 hexadecimal digits of all that must be equal to reuse it."""
    facts = {
        "layout": LAYOUT_VERSION,
        "device": {**asdict(device), "driver": None},
        "options": asdict(options),
        "sources": sources(bundle, options),
    }
    text = json.dumps(facts, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def sources(bundle: Bundle, options: EngineOptions = _DEFAULT) -> dict[str, str | None]:
    """SHA-256 of each file of the bundle that goes into engines; None of one that it lacks."""
    files = (source(bundle, graph, options)[1].name for graph in contract.GRAPHS)
    stored = {name: bundle.files.get(name) for name in (*files, WEIGHTS)}
    return {name: None if file is None else file.sha256 for name, file in stored.items()}


def source(
    bundle: Bundle, graph: str, options: EngineOptions
) -> tuple[contract.GraphSignature, Path]:
    """Signature and ONNX file of what the engine of a graph is built from."""
    if graph == contract.DECODER and options.in_place:
        signature = contract.in_place_decoder(bundle.size, bundle.floats, options.in_place)
        return signature, bundle.graph_file(contract.IN_PLACE)
    file = bundle.graph_file(graph)
    if graph == contract.DECODER and bundle.tensorrt_decoders:
        file = bundle.graph_file(contract.TENSORRT_DECODER)
    rewritten = bundle.graph_file(contract.VISION_TENSORRT)
    if graph == contract.VISION_ENCODER and rewritten.name in bundle.files:
        file = rewritten  # bundles of older exports have the plain one alone
    return contract.graphs(bundle.size, bundle.floats)[graph], file


def plan_name(graph: str) -> str:
    """File name of a graph's engine."""
    return f"{graph}.plan"


def read_manifest(folder: Path) -> EngineManifest:
    """Read engine.json and check that every plan is there in full.

    Raises:
        BackendError: it is missing, damaged or of another layout.
    """
    try:
        manifest = _manifest_from_json(read_json(folder / ENGINE_MANIFEST, most=_MANIFEST_BYTES))
        for graph in contract.GRAPHS:
            plan = plan_name(graph)
            if plan not in manifest.plans:
                raise ValueError(f"{ENGINE_MANIFEST} does not list {plan}")
            if (folder / plan).stat().st_size != manifest.plans[plan].bytes:
                raise ValueError(f"{plan} was cut short")
    except (OSError, ValueError) as error:
        raise _unusable(folder, error) from error
    return manifest


def read_plan(folder: Path, manifest: EngineManifest, graph: str, *, verify: bool = True) -> bytes:
    """The engine of a graph; with `verify`, compared with the hash that it was written with.

    Raises:
        BackendError: it cannot be read, or is not what was built.
    """
    plan = plan_name(graph)
    try:
        with open_plain(folder / plan) as file:
            content = file.read()
    except OSError as error:
        raise _unusable(folder, error) from error
    if verify and hashlib.sha256(content).hexdigest() != manifest.plans[plan].sha256:
        raise _unusable(folder, ValueError(f"{plan} is not what was built: it was changed"))
    return content


def _unusable(folder: Path, error: Exception) -> BackendError:
    root = folder.parent
    inside = root.name == ENGINES
    where = quote(str(root.parent)) if inside else f"BUNDLE --engine-dir {quote(str(root))}"
    return BackendError(
        f"The engines in {folder} cannot be used: {error}. Build them again: florence-build "
        f"{where} --refresh"
    )


def _manifest_from_json(content: Any) -> EngineManifest:
    layout = content.get("layout") if isinstance(content, dict) else None
    if layout != LAYOUT_VERSION or isinstance(layout, bool):
        raise ValueError(f"layout {layout!r:.40}, expected {LAYOUT_VERSION}")
    if content.get(DIGEST) != digest_of(content):
        raise ValueError(f"{ENGINE_MANIFEST} was changed since: it does not fit its digest")
    return from_json(EngineManifest, content)


def write_manifest(folder: Path, manifest: EngineManifest) -> None:
    """Write engine.json."""
    content = asdict(manifest)
    text = json.dumps({**content, DIGEST: digest_of(content)}, indent=2, ensure_ascii=False)
    write_whole(folder / ENGINE_MANIFEST, text + "\n")
