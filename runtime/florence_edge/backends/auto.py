"""What device="auto" is on this machine: what was measured to be the fastest, or a usual order.

`florence-doctor BUNDLE --speed` measures a bundle on what is installed. What it found is kept in

    $XDG_CACHE_HOME/florence-edge/speed/KEY.json         (~/.cache where the variable is not set)

KEY is made of the bundle's files, its TensorRT engines, the processor, its usable cores, the GPU
and the engines' versions: a record that is found is one for here. Without a record, `usual_choice`
has the order.
"""

import hashlib
import json
import logging
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from ..bundle import Bundle
from ..contract import CONTRACT_VERSION
from ..cpu import processor_identity, usable_cores
from ..devices import Device, EngineSettings
from ..errors import FlorenceEdgeError, RequestError
from ..files import from_json, read_json, write_whole
from ..tensorrt.driver import GpuInfo, find_gpu
from ..tensorrt.find import engines_of, engines_root, find_engines
from ..tensorrt.install import find_tensorrt
from ..tensorrt.manifest import ENGINE_MANIFEST, this_device
from .ort_package import CUDA, import_onnxruntime
from .provider_trial import try_provider

logger = logging.getLogger(__name__)

_PACKAGES = (
    *("florence-edge", "onnxruntime", "onnxruntime-gpu", "openvino"),
    *("tensorrt-cu12", "tensorrt-cu13", "tensorrt-rtx-cu13"),
)
_RECORD_BYTES = 1 << 20
_DIGITS = 24  # of a hash; enough to tell bundles and machines apart


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredEngine:
    """How long a bundle's answer took on one engine, as it was set up."""

    device: str
    threads: int | None = None
    spinning: bool | None = None
    precision: str | None = None
    seconds: float = 0.0
    """Of an answer: the median."""
    processor: float = 0.0
    """What all threads together took of the processor for it."""
    vision: float = 0.0
    prefill: float = 0.0
    token: float = 0.0
    """Of a step of the decoder."""
    times_fastest: float = 1.0
    """The median over the rounds that it shares with the fastest."""
    rounds: int = 0
    rounds_more: bool = False
    """Whether it rounds more than the bundle does (bfloat16)."""

    @property
    def settings(self) -> EngineSettings:
        """The settings that this was measured with."""
        return EngineSettings(
            device=Device.parse(self.device),
            threads=self.threads,
            spinning=self.spinning,
            precision=self.precision,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeedRecord:
    """What was measured for a bundle here: when, and the engines, the fastest first."""

    measured: str
    engines: tuple[MeasuredEngine, ...]


def remember(bundle: Bundle, record: SpeedRecord, *, engine_dir: Path | None = None) -> Path:
    """Keep a record for later loads with device="auto"; gives its file.

    It holds as long as the TensorRT engines in the bundle, or in `engine_dir`, are what they are.

    Raises:
        OSError: it cannot be written.
        RequestError: there is no home folder, or another process is writing it.
    """
    path = _record_file(bundle, engine_dir)
    if path is None:
        raise RequestError(
            "There is no folder to remember this in: neither XDG_CACHE_HOME nor HOME is set."
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        **asdict(record),
        "bundle": {
            "model": bundle.model,
            "precision": bundle.precision,
            "target": bundle.target,
        },
        "here": here(),
    }
    write_whole(path, json.dumps(content, indent=1) + "\n")
    return path


def remembered(bundle: Bundle, *, engine_dir: Path | None = None) -> SpeedRecord | None:
    """The record for this bundle and its engines here; None where nothing was measured."""
    path = _record_file(bundle, engine_dir)
    if path is None:
        return None
    try:
        return from_json(SpeedRecord, read_json(path, most=_RECORD_BYTES))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        logger.warning(
            "What was measured for %s cannot be read: %s: %s. Measure again: florence-doctor %s "
            "--speed",
            bundle.folder,
            path,
            error,
            bundle.folder,
        )
        return None


def choose(
    bundle: Bundle, *, engine_dir: Path | None = None, may_round: bool = False
) -> EngineSettings:
    """What a bundle runs on with device="auto", and why; it is logged, too.

    The fastest that was measured here and that keeps the bundle's precision, or with `may_round`
    any; without a record the first of `usual_choice`'s order.
    """
    record = remembered(bundle, engine_dir=engine_dir)
    measured = () if record is None else _fastest_first(record, may_round=may_round)
    best = next((each for each in measured if _is_here(bundle, each.device, engine_dir)), None)
    if record is not None and best is not None:
        why = f"the fastest here, {_milliseconds(best.seconds)} an answer, on {record.measured}"
        chosen = replace(best.settings, reason=why)
    else:
        chosen = usual_choice(bundle, engine_dir)
    logger.info("device='auto' is %s for %s: %s.", chosen.device, bundle.folder, chosen.reason)
    return chosen


def _fastest_first(record: SpeedRecord, *, may_round: bool) -> list[MeasuredEngine]:
    ordered = sorted(record.engines, key=lambda each: (each.times_fastest, each.seconds))
    return [each for each in ordered if may_round or not each.rounds_more]


def _is_here(bundle: Bundle, device: str, engine_dir: Path | None) -> bool:
    """Whether this version knows a measured device and, for TensorRT, finds its engines."""
    try:
        wanted = Device.parse(device)
    except RequestError:  # of a newer version
        return False
    if wanted.family == "tensorrt":
        return _tensorrt(bundle, engine_dir, []) == wanted
    return wanted.engine != "auto"


def usual_choice(bundle: Bundle, engine_dir: Path | None = None) -> EngineSettings:
    """The first of these that is here and runs the bundle, and why.

    1. TensorRT, where the bundle or `engine_dir` has engines for this GPU
    2. ONNX Runtime's CUDA, where there is an NVIDIA GPU
    3. for portable int8 and int4: OpenVINO on x86-64, which multiplies Q/DQ pairs as int8
    4. ONNX Runtime on the CPU, or where that is not installed, OpenVINO
    """
    measure = f"nothing was measured (florence-doctor {bundle.folder} --speed)"
    left_out: list[str] = []
    if (engines := _tensorrt(bundle, engine_dir, left_out)) is not None:
        return EngineSettings(device=engines, reason=f"{measure}; it has engines for this GPU")
    if _cuda(bundle, left_out):
        return EngineSettings(device=Device("cuda"), reason=f"{measure}; there is a GPU")
    why = "; ".join([measure, *left_out])
    installed = {name for name in ("onnxruntime", "openvino") if find_spec(name) is not None}
    runs = {name for name in ("cpu", "openvino") if bundle.runs_on(name)}
    portable = bundle.precision in ("int8", "int4") and bundle.target in ("any", "onnxruntime")
    prefers_openvino = portable and platform.machine() in ("x86_64", "AMD64")
    if "openvino" in installed & runs and (prefers_openvino or "onnxruntime" not in installed):
        return EngineSettings(device=Device("openvino"), reason=why)
    return EngineSettings(device=Device("cpu"), reason=why)


def _tensorrt(bundle: Bundle, engine_dir: Path | None, left_out: list[str]) -> Device | None:
    if not any(engines_root(bundle, engine_dir).glob(f"[!.]*/{ENGINE_MANIFEST}")):
        return None
    try:
        bundle.check_engine("tensorrt")
        here = this_device(find_tensorrt())
        find_engines(bundle, here, engine_dir=engine_dir)
    except FlorenceEdgeError as error:
        left_out.append(f"TensorRT is left out: {_first_sentence(error)}")
        return None
    return Device("tensorrt" if here.flavour == "tensorrt" else "tensorrt-rtx")


def _cuda(bundle: Bundle, left_out: list[str]) -> bool:
    if _gpu() is None or not bundle.runs_on("cuda") or find_spec("onnxruntime") is None:
        return False
    problem = try_provider(import_onnxruntime(), CUDA).problem
    if problem:
        left_out.append(f"CUDA is left out: {problem}")
    return not problem


def _record_file(bundle: Bundle, engine_dir: Path | None) -> Path | None:
    folder = cache_folder()
    if folder is None:
        return None
    files = sorted((name, stored.sha256) for name, stored in bundle.files.items())
    engines = [
        sorted((name, plan.sha256) for name, plan in manifest.plans.items())
        for manifest in engines_of(bundle, engine_dir)
    ]
    content = json.dumps([files, sorted(engines), here()], sort_keys=True)
    return folder / "speed" / f"{hashlib.sha256(content.encode()).hexdigest()[:_DIGITS]}.json"


def cache_folder() -> Path | None:
    """Where this user's programs may keep what can be made again; None without a home.

    By the XDG base directory specification, which has relative paths ignored.
    """
    given = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(given):
        return Path(given, "florence-edge")
    try:
        return Path.home() / ".cache" / "florence-edge"
    except RuntimeError:
        return None


def here() -> dict[str, object]:
    """What a measurement holds for: processor, cores, GPU, and versions of what computes."""
    gpu = _gpu()
    return {
        "contract": CONTRACT_VERSION,
        "processor": processor_identity(),
        "cores": usable_cores().count,
        "gpu": None if gpu is None else f"{gpu.name} ({gpu.compute_capability}), {gpu.driver}",
        "versions": installed_versions(_PACKAGES),
    }


def installed_versions(packages: Sequence[str]) -> dict[str, str]:
    """The versions of those packages that are installed."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _gpu() -> GpuInfo | None:
    try:
        return find_gpu()
    except FlorenceEdgeError:
        return None


def _first_sentence(error: Exception) -> str:
    return str(error).partition(". ")[0].removesuffix(".")


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms"
