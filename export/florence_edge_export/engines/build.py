"""All engines of a bundle: each graph in its own process, stored together or not at all."""

import logging
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from florence_edge import __version__, contract
from florence_edge.bundle import PRODUCER, Bundle, StoredFile, sha256
from florence_edge.engines import engines_root, this_device
from florence_edge.engines.flavours import TensorRT
from florence_edge.engines.profiles import EngineOptions, profiles
from florence_edge.engines.record import (
    LAYOUT_VERSION,
    TIMING_CACHE,
    Device,
    EngineRecord,
    fingerprint,
    plan_name,
    read_record,
    source,
    sources,
    write_record,
)
from florence_edge.errors import BackendError

from .forecast import available_memory, check_room, forecast
from .job import Built, Job, Message, Progress
from .worker import build_in_process

logger = logging.getLogger(__name__)

Show = Callable[[Progress], None]
Accept = Callable[["Outcome"], None]  # looks at a finished set, and raises if it is not to be kept


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
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
class Outcome:
    """Where the engines are; `built` says of each graph what it took, nothing if all were there."""

    folder: Path
    record: EngineRecord
    built: dict[str, Built]


def build_engines(
    bundle: Bundle, tensorrt: TensorRT, wish: Wish, *, show: Show, accept: Accept
) -> Outcome:
    """Build what is not there yet; `show` is told of the progress.

    `accept` sees the set before it takes its place; if it raises, the set is dropped.

    Raises:
        BundleError: the bundle's files are not what was exported.
        BackendError: the bundle is for another engine, there is no such device, memory will not
            do, or TensorRT fails. Nothing half-written is left, and what was there stays.
        RequestError: the options are out of range.
    """
    bundle.check_engine("tensorrt")
    wish.options.check(bundle.size)
    device = target_device(tensorrt, wish.ahead_of_time, wish.gpu)
    root = engines_root(bundle, wish.engine_dir)
    folder = root / fingerprint(bundle, device, wish.options)
    if not wish.refresh and (record := _existing(folder)) is not None:
        return Outcome(folder, record, {})
    bundle.check_content()  # seconds, against minutes of building from a damaged file
    with _temporary_folder(root) as temporary:
        work = temporary / folder.name
        work.mkdir()
        _seed_timings(root, device, work)
        built = {
            job.graph.name: _build(bundle, job, wish.options, show)
            for job in _jobs(bundle, tensorrt, wish, work)
        }
        record = _record(bundle, device, wish.options, work)
        write_record(work, record)
        accept(Outcome(work, record, built))
        _put(work, folder)
    return Outcome(folder, record, built)


def target_device(tensorrt: TensorRT, ahead_of_time: str | None, gpu: int = 0) -> Device:
    """The device to build for: a GPU of this machine, or any of a compute capability.

    Raises:
        BackendError: there is no GPU, or only TensorRT-RTX could build without it.
    """
    if ahead_of_time is None:
        return _this_device(tensorrt, gpu)
    if not tensorrt.is_rtx:
        raise BackendError(
            "TensorRT builds on the GPU that will run the engine; only TensorRT-RTX builds ahead "
            "of time. Leave --compute-capability out, or choose --engine rtx."
        )
    return Device(
        gpu=None,
        multiprocessors=None,
        compute_capability=ahead_of_time,
        flavour=tensorrt.flavour,
        tensorrt=tensorrt.version,
        driver=None,
        l4t=None,
    )


def _this_device(tensorrt: TensorRT, gpu: int) -> Device:
    try:
        return this_device(tensorrt, gpu)
    except BackendError as error:
        hint = " Or build ahead of time: --compute-capability 8.6, or your GPU's."
        raise BackendError(f"{error}{hint if tensorrt.is_rtx else ''}") from error


def _jobs(bundle: Bundle, tensorrt: TensorRT, wish: Wish, work: Path) -> Iterator[Job]:
    of_graphs = profiles(bundle.size, wish.options)
    for name in contract.GRAPHS:
        graph, onnx = source(bundle, name, wish.options)
        yield Job(
            graph=graph,
            onnx=onnx,
            plan=work / plan_name(name),
            timing_cache=work / TIMING_CACHE,
            profiles=of_graphs[name],
            workspace_mb=wish.options.workspace_mb,
            flavour=tensorrt.flavour,
            ahead_of_time=wish.ahead_of_time,
            gpu=wish.gpu,
        )


def _build(bundle: Bundle, job: Job, options: EngineOptions, show: Show) -> Built:
    needed = forecast(job.graph.name, job.onnx, bundle.size, job.profiles, options)
    logger.info("%s", needed)
    warning = check_room(needed, available_memory())
    if warning is not None:
        logger.warning("%s", warning)
    errors = []
    for event in build_in_process(job):
        if isinstance(event, Progress):
            show(event)
        elif isinstance(event, Message) and event.level >= logging.ERROR:
            errors.append(event)  # one that ends the build is told by its exception
        elif isinstance(event, Message):
            _log(job, event)
        elif isinstance(event, Built):
            for survived in errors:
                _log(job, survived)
            return event
    raise BackendError(f"The build of {job.graph.name} ended without a plan.")


def _log(job: Job, message: Message) -> None:
    logger.log(message.level, "TensorRT, %s: %s", job.graph.name, message.text)


def _existing(folder: Path) -> EngineRecord | None:
    """The record of a complete set; one that is damaged is built again."""
    if not folder.is_dir():
        return None
    try:
        return read_record(folder)
    except BackendError as error:
        logger.warning("%s Building them again now.", error)
        return None


def _record(bundle: Bundle, device: Device, options: EngineOptions, work: Path) -> EngineRecord:
    plans = (work / plan_name(graph) for graph in contract.GRAPHS)
    return EngineRecord(
        layout=LAYOUT_VERSION,
        producer=f"{PRODUCER} {__version__}",
        model=bundle.model,
        precision=bundle.precision,
        device=device,
        options=options,
        sources=sources(bundle, options),
        plans={plan.name: StoredFile(plan.stat().st_size, sha256(plan)) for plan in plans},
    )


def _seed_timings(root: Path, device: Device, work: Path) -> None:
    """Begin with the timings of an earlier build for this device, whatever it was built for."""
    for timings in sorted(
        root.glob(f"[!.]*/{TIMING_CACHE}"), key=lambda path: path.stat().st_mtime
    ):
        try:
            if read_record(timings.parent).device == device:
                shutil.copyfile(timings, work / TIMING_CACHE)
        except BackendError:  # a damaged set: its timings are not worth a warning
            continue


@contextmanager
def _temporary_folder(root: Path) -> Iterator[Path]:
    """A folder in `root`, hidden from `find_engines`, gone afterwards however the build ended."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".building-", dir=root))
    except OSError as error:
        raise BackendError(
            f"Cannot write engines to {root}: {error}. Choose another folder with --engine-dir."
        ) from error
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _put(work: Path, folder: Path) -> None:
    """Move the finished set to its place; an older one steps aside first, and back on failure."""
    aside = work.with_name("replaced")
    try:
        if folder.exists():
            folder.rename(aside)
        work.rename(folder)
    except BaseException:
        if aside.exists() and not folder.exists():
            aside.rename(folder)
        raise
