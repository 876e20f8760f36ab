"""All engines of a bundle: each graph in its own process, stored together or not at all."""

import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from florence_edge import __version__, contract
from florence_edge.backends.base import Backend
from florence_edge.backends.open import open_engine
from florence_edge.bundle import PRODUCER, Bundle, StoredFile, sha256
from florence_edge.devices import Device
from florence_edge.errors import BackendError, RequestError
from florence_edge.files import folder_beside, replace_folder
from florence_edge.selftest import self_test
from florence_edge.tensorrt.find import engines_root
from florence_edge.tensorrt.install import TensorRT, version_numbers
from florence_edge.tensorrt.manifest import (
    LAYOUT_VERSION,
    TIMING_CACHE,
    EngineManifest,
    TargetDevice,
    fingerprint,
    plan_name,
    read_manifest,
    source,
    sources,
    this_device,
    write_manifest,
)
from florence_edge.tensorrt.profiles import EngineOptions, profiles
from florence_edge_calibration.probes import answer, make_probes

from .builder import BuildProgress, Built, Job, Message
from .memory_forecast import available_memory, check_room, forecast
from .worker import build_in_process

logger = logging.getLogger(__name__)

# Largest absolute difference from reference.npz. Chosen: no engine has run on a GPU yet.
LIMITS = {"fp32": 0.01, "fp16": 0.1}
LIMIT_OF_OTHERS = 0.5

_OLDEST_FOR_INT4 = (10, 8)  # what `--precision int4` is made for; JetPack 6 has 10.3

ShowEvent = Callable[[BuildProgress], None]
Accept = Callable[["BuildOutcome"], None]  # raises if a finished set is not to be kept


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildRequest:
    """What to build, where to put it, and for which device.

    `ahead_of_time` is a compute capability such as "8.6": TensorRT-RTX builds for it without a GPU.
    Otherwise it is for GPU number `gpu` of this machine.
    """

    options: EngineOptions
    engine_dir: Path | None = None
    refresh: bool = False
    ahead_of_time: str | None = None
    gpu: int = 0


@dataclass(frozen=True, slots=True)
class BuildOutcome:
    """Where the engines are; `built` says of each graph what it took, nothing if all were there."""

    folder: Path
    manifest: EngineManifest
    built: dict[str, Built]


def build_engines(
    bundle: Bundle, tensorrt: TensorRT, request: BuildRequest, *, show: ShowEvent, accept: Accept
) -> BuildOutcome:
    """Build what is not there yet; `show` gets the progress.

    `accept` gets the set before it takes its place; if it raises, the set is dropped.

    Raises:
        BundleError: the bundle's files are not what was exported.
        BackendError: the bundle is for another engine or a newer TensorRT, there is no such
            device, memory will not do, or TensorRT fails. Nothing half-written is left, and what
            was there stays.
        RequestError: the options are out of range, or this TensorRT does not build ahead of time.
    """
    bundle.check_engine("tensorrt")
    check_int4(bundle, tensorrt)
    request.options.check(bundle.size)
    device = target_device(tensorrt, request.ahead_of_time, request.gpu)
    root = engines_root(bundle, request.engine_dir)
    folder = root / fingerprint(bundle, device, request.options)
    if not request.refresh and (manifest := _existing(folder)) is not None:
        return BuildOutcome(folder, manifest, {})
    bundle.check_content()  # seconds, against minutes of building from a damaged file
    with ExitStack() as stack:
        try:
            temporary = stack.enter_context(folder_beside(folder))
        except OSError as error:
            raise BackendError(
                f"Cannot write engines to {root}: {error}. Choose another folder with --engine-dir."
            ) from error
        work = temporary / folder.name  # the runtime looks for a set under its fingerprint
        work.mkdir()
        _seed_timings(root, device, work)
        built = {
            job.graph.name: _build(bundle, job, request.options, show)
            for job in _jobs(bundle, tensorrt, request, work)
        }
        manifest = _manifest(bundle, device, request.options, work)
        write_manifest(work, manifest)
        accept(BuildOutcome(work, manifest, built))
        replace_folder(work, folder)
    return BuildOutcome(folder, manifest, built)


def check_int4(bundle: Bundle, tensorrt: TensorRT) -> None:
    """Refuse blocks of 4 bits where TensorRT is older than what they are made for.

    Raises:
        BackendError: with the export commands whose bundles run here.
    """
    old = not tensorrt.is_rtx and version_numbers(tensorrt.version)[:2] < _OLDEST_FOR_INT4
    if bundle.precision == "int4" and old:
        raise BackendError(
            f"{bundle.folder} is int4, which is for TensorRT 10.8 or newer; here is "
            f"{tensorrt.version}. Export another one of the checkpoint {bundle.model}: "
            "florence-export CHECKPOINT --precision int8 --calibration-images DIR --output NEW for "
            "this TensorRT, or --precision int4 --target portable for ONNX Runtime's CUDA."
        )


def check_engines(bundle: Bundle, device: Device, engine_dir: Path) -> dict[str, float]:
    """The largest error of each sampled output, of the engines in `engine_dir` on `device`.

    Raises:
        BackendError: an output is not close to the reference, or not finite about pictures.
        BundleError: the bundle has no reference, or a value is not finite.
    """
    backend = open_engine(bundle, device, engine_dir=engine_dir).backend
    try:
        errors = self_test(bundle, backend)
        check_finite(bundle, backend)
    finally:
        backend.close()
    limit = LIMITS.get(bundle.precision, LIMIT_OF_OTHERS)
    far = {name: error for name, error in errors.items() if not error <= limit}
    if far:
        listed = ", ".join(f"{name} by {error:.3g}" for name, error in far.items())
        raise BackendError(
            f"The engines are off: {listed}, expected at most {limit}. They were not kept. Find "
            f"the graph with florence-build --compare{_or_more_range(bundle)}."
        )
    return errors


def check_finite(bundle: Bundle, backend: Backend) -> None:
    """Let engines answer about pictures: the self-test's ramps ask little of a precision's range.

    Raises:
        BackendError: a value is not finite.
    """
    for probe in make_probes(bundle):
        if broken := answer(bundle, backend, probe).not_finite():
            raise BackendError(
                f"The engines' {broken} are not finite about {probe.name}. They were not kept. "
                f"Find the graph with florence-build --compare{_or_more_range(bundle)}."
            )


def _or_more_range(bundle: Bundle) -> str:
    """The rest of an advice, where another precision has more range."""
    if bundle.precision == "fp32":
        return ""
    return ", or export the checkpoint again with --precision fp32"


def target_device(tensorrt: TensorRT, ahead_of_time: str | None, gpu: int = 0) -> TargetDevice:
    """The device to build for: a GPU of this machine, or any of a compute capability.

    Raises:
        BackendError: there is no such GPU.
        RequestError: this TensorRT does not build ahead of time.
    """
    if ahead_of_time is None:
        return _this_device(tensorrt, gpu)
    if not tensorrt.is_rtx:
        raise RequestError(
            "TensorRT builds on the GPU that will run the engine; only TensorRT-RTX builds ahead "
            "of time. Leave --compute-capability out, or choose --engine rtx."
        )
    return TargetDevice(
        gpu=None,
        multiprocessors=None,
        compute_capability=ahead_of_time,
        flavour=tensorrt.flavour,
        tensorrt=tensorrt.version,
        driver=None,
        l4t=None,
    )


def _this_device(tensorrt: TensorRT, gpu: int) -> TargetDevice:
    try:
        return this_device(tensorrt, gpu)
    except BackendError as error:
        hint = " Or build ahead of time: --compute-capability 8.6, or your GPU's."
        raise BackendError(f"{error}{hint if tensorrt.is_rtx else ''}") from error


def _jobs(bundle: Bundle, tensorrt: TensorRT, request: BuildRequest, work: Path) -> Iterator[Job]:
    of_graphs = profiles(bundle.size, request.options)
    for name in contract.GRAPHS:
        graph, onnx = source(bundle, name, request.options)
        yield Job(
            graph=graph,
            onnx=onnx,
            plan=work / plan_name(name),
            timing_cache=work / TIMING_CACHE,
            profiles=of_graphs[name],
            workspace_mb=request.options.workspace_mb,
            flavour=tensorrt.flavour,
            ahead_of_time=request.ahead_of_time,
            gpu=request.gpu,
        )


def _build(bundle: Bundle, job: Job, options: EngineOptions, show: ShowEvent) -> Built:
    needed = forecast(bundle, job.onnx, job.graph.name, job.profiles, options)
    logger.info("%s", needed)
    warning = check_room(needed, available_memory())
    if warning is not None:
        logger.warning("%s", warning)
    errors = []
    for event in build_in_process(job):
        if isinstance(event, BuildProgress):
            show(event)
        elif isinstance(event, Message) and event.level >= logging.ERROR:
            errors.append(event)  # one that ends the build is in the text of its exception
        elif isinstance(event, Message):
            _log(job, event)
        elif isinstance(event, Built):
            for survived in errors:
                _log(job, survived)
            return event
    raise BackendError(f"The build of {job.graph.name} ended without a plan.")


def _log(job: Job, message: Message) -> None:
    logger.log(message.level, "TensorRT, %s: %s", job.graph.name, message.text)


def _existing(folder: Path) -> EngineManifest | None:
    """The manifest of a complete set; one that is damaged is built again."""
    if not folder.is_dir():
        return None
    try:
        return read_manifest(folder)
    except BackendError as error:
        logger.warning("%s Building them again now.", error)
        return None


def _manifest(
    bundle: Bundle, device: TargetDevice, options: EngineOptions, work: Path
) -> EngineManifest:
    plans = (work / plan_name(graph) for graph in contract.GRAPHS)
    return EngineManifest(
        layout=LAYOUT_VERSION,
        producer=f"{PRODUCER} {__version__}",
        model=bundle.model,
        precision=bundle.precision,
        device=device,
        options=options,
        sources=sources(bundle, options),
        plans={plan.name: StoredFile(plan.stat().st_size, sha256(plan)) for plan in plans},
    )


def _seed_timings(root: Path, device: TargetDevice, work: Path) -> None:
    """Begin with the timings of an earlier build for this device, whatever it was built for."""
    for timings in sorted(
        root.glob(f"[!.]*/{TIMING_CACHE}"), key=lambda path: path.stat().st_mtime
    ):
        try:
            if read_manifest(timings.parent).device == device:
                shutil.copyfile(timings, work / TIMING_CACHE)
        except BackendError:  # a damaged set: its timings are not worth a warning
            continue
