"""engine.json: what TensorRT engines were built from, for which device, for which calls."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from .. import contract
from ..bundle import WEIGHTS, Bundle, StoredFile
from ..errors import BackendError
from ..files import from_json
from .driver import find_gpu, l4t_release
from .install import Flavour, TensorRT
from .profiles import EngineOptions

ENGINE_MANIFEST = "engine.json"
TIMING_CACHE = "timing.cache"
_DEFAULT = EngineOptions()
LAYOUT_VERSION = 1  # of engine.json and of the profiles: an engine of another is built again


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
    return contract.graphs(bundle.size, bundle.floats)[graph], bundle.graph_file(graph)


def plan_name(graph: str) -> str:
    """File name of a graph's engine."""
    return f"{graph}.plan"


def read_manifest(folder: Path) -> EngineManifest:
    """Read engine.json and check that every plan is there in full.

    Raises:
        BackendError: it is missing, damaged or of another layout.
    """
    try:
        manifest = _manifest_from_text((folder / ENGINE_MANIFEST).read_text(encoding="utf-8"))
        for graph in contract.GRAPHS:
            plan = plan_name(graph)
            if plan not in manifest.plans:
                raise ValueError(f"{ENGINE_MANIFEST} does not list {plan}")
            if (folder / plan).stat().st_size != manifest.plans[plan].bytes:
                raise ValueError(f"{plan} was cut short")
    except (OSError, ValueError) as error:
        raise BackendError(
            f"The engines in {folder} cannot be used: {error}. Build them again: florence-build "
            "BUNDLE --refresh"
        ) from error
    return manifest


def _manifest_from_text(text: str) -> EngineManifest:
    content = json.loads(text)
    layout = content.get("layout") if isinstance(content, dict) else None
    if layout != LAYOUT_VERSION:
        raise ValueError(f"layout {layout}, expected {LAYOUT_VERSION}")
    return from_json(EngineManifest, content)


def write_manifest(folder: Path, manifest: EngineManifest) -> None:
    """Write engine.json."""
    text = json.dumps(asdict(manifest), indent=2, ensure_ascii=False)
    (folder / ENGINE_MANIFEST).write_text(text + "\n", encoding="utf-8")
