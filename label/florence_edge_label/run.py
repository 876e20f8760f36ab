"""A run: what is left to be done goes to an engine, and what comes back to the disk.

The one place that writes parts. A shard whose part is there is done; one that comes twice, since a
worker was thought lost, replaces itself by its equal.
"""

import json
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from florence_edge import (
    Bundle,
    Convention,
    Device,
    GenerationOptions,
    ImageOptions,
)
from florence_edge.cli.answers_file import origin_of
from florence_edge.files import lock

from . import arrow
from .engines.capacity import Workers, check_known, plan_workers
from .engines.processes import answer_in_processes
from .engines.ray_cluster import Cluster, RayOptions, answer_on_ray, joined_cluster
from .labeller import Part, Shard, WorkerSettings
from .ontology import Question
from .own_file import own_file, remove_unfinished
from .parts import ERROR, Row, part_path, read_part, write_part
from .picture_list import PictureList
from .plan import Plan, RunFolder, Slice, begin
from .progress import Progress
from .sources.find import Source
from .supervised import PATIENCE


@dataclass(frozen=True, slots=True)
class Say:
    """Where a run says what it does."""

    line: Callable[[str], None]
    """A line that stays."""
    progress: Callable[[str], None]
    """The progress, which replaces itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelRequest:
    """All that a run is told."""

    bundle: Path
    source: Source
    output: Path
    questions: tuple[Question, ...]
    shown: dict[str, object]
    """What changes answers or what is kept of them, under the names that users know."""
    device: Device = field(default_factory=lambda: Device.parse("cpu"))
    options: GenerationOptions = field(default_factory=GenerationOptions)
    convention: Convention = "native"
    engine_precision: str | None = None
    engine_dir: Path | None = None
    image_options: ImageOptions = field(default_factory=ImageOptions)
    column: str | None = None
    batch: int = 8
    shard_size: int | None = None
    shards: Slice = field(default_factory=Slice)
    workers: int | None = None
    threads: int | None = None
    one_gpu: bool = False
    """Whether `device` names a single GPU, the first one among them (`cuda:0`)."""
    address: str | None = None
    """Of a Ray cluster; None is this machine's processes."""
    patience: float = PATIENCE
    retry_errors: bool = False
    """Whether shards with a picture that failed are answered again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelled:
    """What a run came to."""

    plan: Plan
    answered: int
    """Pictures that this run answered, or found broken."""
    failed: int
    """Pictures with an error, of the whole folder."""
    missing: int
    """Shards of the whole folder that have no part yet."""
    left: int
    """Those of them that this machine should have answered: 0, or something went wrong."""
    rate: float
    """Pictures a second of this run, the start of workers included."""


def label(request: LabelRequest, say: Say) -> Labelled:
    """Label what is not labelled yet.

    Raises:
        FlorenceEdgeError: what the run needs is not there, does not fit, or fails for good. Parts
            that were written stay, and the same request goes on.
    """
    arrow.check_installed()
    bundle = Bundle.load(request.bundle)
    folder, shards = RunFolder(request.output), request.shards
    folder.check_usable()
    with _capacity(request) as capacity:
        folder.path.mkdir(parents=True, exist_ok=True)
        with lock(folder.path / f"shards-{shards.number}-of-{shards.of}"):
            plan = begin(
                folder,
                origin_of(bundle, request.options, request.shown),
                request.source,
                batch=request.batch,
                shard_size=request.shard_size,
            )
            remove_unfinished(folder.parts)
            remove_unfinished(folder.path)
            progress = _label(request, plan, folder, capacity, say)
            failed = write_errors(folder, plan)
    missing = folder.missing(plan)
    return Labelled(
        plan=plan,
        answered=progress.answered,
        failed=failed,
        missing=len(missing),
        left=sum(map(shards.has, missing)),
        rate=progress.rate,
    )


@contextmanager
def _capacity(request: LabelRequest) -> "Iterator[Workers | Cluster]":
    """What is there to work on, before anything starts: this machine, or a cluster."""
    if request.address is None:
        yield plan_workers(
            request.device, request.workers, request.threads, one_gpu=request.one_gpu
        )
        return
    check_known(request.device)
    options = RayOptions(address=request.address, workers=request.workers, threads=request.threads)
    with joined_cluster(options, request.device) as cluster:
        yield cluster


def _label(
    request: LabelRequest, plan: Plan, folder: RunFolder, capacity: Workers | Cluster, say: Say
) -> Progress:
    """Answer the shards of this machine that have no part, or whose part is to be made again."""
    wanted = {*folder.missing(plan), *(_failed(folder, plan) if request.retry_errors else ())}
    todo = [number for number in sorted(wanted) if request.shards.has(number)]
    mine = [number for number in range(plan.shards) if request.shards.has(number)]
    total = sum(plan.pictures_of(number) for number in mine)
    progress = Progress(total, total - sum(plan.pictures_of(number) for number in todo))
    if not todo:
        return progress
    say.line(str(capacity))
    with closing(PictureList(folder.pictures)) as pictures:
        shards = _shards(plan, todo, pictures)
        with closing(_answers(request, plan, shards, capacity)) as parts:
            for part in parts:
                write_part(folder.parts, part.number, part.content)
                progress.add(part.pictures, part.failed)
                say.progress(str(progress))
    return progress


def _failed(folder: RunFolder, plan: Plan) -> set[int]:
    """The shards whose parts have a row with an error."""
    rows = _error_rows(folder, plan, columns=())
    return {number for number, _ in rows}


def _shards(plan: Plan, numbers: Sequence[int], pictures: PictureList) -> Iterator[Shard]:
    for number in numbers:
        entries = pictures.slice(number * plan.shard_size, plan.shard_size)
        yield Shard(number=number, entries=tuple(entries))


def _answers(
    request: LabelRequest, plan: Plan, shards: Iterator[Shard], capacity: Workers | Cluster
) -> Generator[Part, None, None]:
    """The parts, by the engine that fits."""
    settings = replace(_settings(request, plan), threads=capacity.threads)
    if isinstance(capacity, Workers):
        return answer_in_processes(shards, settings, capacity, request.patience)
    return answer_on_ray(shards, settings, capacity, patience=request.patience)


def _settings(request: LabelRequest, plan: Plan) -> WorkerSettings:
    engine_dir = request.engine_dir
    return WorkerSettings(
        bundle=str(request.bundle.resolve()),
        questions=request.questions,
        run=plan.fingerprint,
        device=str(request.device),
        batch=request.batch,
        options=request.options,
        convention=request.convention,
        engine_precision=request.engine_precision,
        engine_dir=None if engine_dir is None else str(engine_dir.resolve()),
        image_options=request.image_options,
        column=request.column,
    )


def write_errors(folder: RunFolder, plan: Plan) -> int:
    """Write what could not be answered, as the parts have it, and count those pictures."""
    failed: set[int] = set()
    with own_file(folder.errors) as unfinished, unfinished.open("w", encoding="utf-8") as file:
        for number, row in _error_rows(folder, plan, ("task", "text_input", "error")):
            failed.add(row.image_id)
            part = part_path(folder.parts, number).name
            file.write(json.dumps({**_reason(row), "part": part}) + "\n")
    return len(failed)


def _error_rows(folder: RunFolder, plan: Plan, columns: Sequence[str]) -> Iterator[tuple[int, Row]]:
    """The rows of all parts that have an error, with the numbers of their shards."""
    for number in sorted(set(range(plan.shards)) - set(folder.missing(plan))):
        for row in read_part(part_path(folder.parts, number), plan.fingerprint, columns):
            if row.status == ERROR:
                yield number, row


def _reason(row: Row) -> dict[str, object]:
    about = {"image": row.image, "image_id": row.image_id, "task": row.task}
    return {**about, "text_input": row.text_input, "error": row.error}
