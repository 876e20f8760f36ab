"""What a worker does, whatever engine it serves: a shard of pictures in, a part out.

    entries ──read, decode (thread, few ahead)──> batches ──> encode ──> questions ──> rows

A batch is always the same pictures of a shard, whoever answers it, so that parts are equal to the
last bit on one process, on many and on a cluster.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace

from florence_edge import (
    Answer,
    Convention,
    Florence2,
    FlorenceEdgeError,
    GenerationOptions,
    ImageOptions,
    PreparedImages,
    Region,
    RequestError,
    prepare_images,
)
from florence_edge.batch import AHEAD, in_batches, read_ahead
from florence_edge.processing import join_images

from .ontology import Question, is_about
from .parts import ERROR, Row, encode
from .picture_list import Entry
from .sources.reading import PictureReader


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """All that a worker is told once; it travels to other processes and machines."""

    bundle: str
    questions: tuple[Question, ...]
    run: str
    """The fingerprint that its parts carry."""
    device: str = "cpu"
    threads: int | None = None
    batch: int = 8
    options: GenerationOptions = field(default_factory=GenerationOptions)
    convention: Convention = "native"
    engine_precision: str | None = None
    engine_dir: str | None = None
    image_options: ImageOptions = field(default_factory=ImageOptions)
    column: str | None = None
    """Of tables: which holds the pictures."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """Neighbouring pictures of the list: the unit of work, of retries and of resuming."""

    number: int
    entries: tuple[Entry, ...]
    broken: Mapping[int, str] = field(default_factory=dict)
    """Pictures that are not touched, by their place in the shard, with the reason."""
    only: int | None = None
    """Answer about this one alone, to find out whether it ends the worker."""
    one_by_one: bool = False
    """Whether each picture is read and answered before the next one is touched."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What became of a shard."""

    number: int
    content: bytes
    """A Parquet file; see `parts`."""
    pictures: int
    failed: int
    """Pictures with a row of status `error`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Watcher:
    """Is told which pictures a worker has in its hands, by their places in the shard."""

    begun: Callable[[int], None] = lambda _: None
    alive: Callable[[], None] = lambda: None
    """A step of a batch is done: all questions about it may take longer than anybody waits."""
    ended: Callable[[Sequence[int]], None] = lambda _: None


_Prepared = tuple[int, PreparedImages | RequestError]


class Labeller:
    """A model that answers the questions of a run; `close` frees its engine.

    Raises:
        FlorenceEdgeError: the model cannot be loaded.
    """

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._model = Florence2.load(
            settings.bundle,
            settings.device,
            convention=settings.convention,
            threads=settings.threads,
            engine_dir=settings.engine_dir,
            engine_precision=settings.engine_precision,
            max_pixels=settings.image_options.max_pixels,
            deep_range=settings.image_options.deep_range,
        )

    def answer(self, shard: Shard, watcher: Watcher) -> Part:
        """All questions about all pictures of a shard; what cannot be read is an error row.

        Raises:
            BackendError: the engine failed.
        """
        rows: list[Row] = []
        batch = 1 if shard.one_by_one else self._settings.batch
        ahead = 0 if shard.one_by_one else AHEAD + batch - 1
        with ExitStack() as stack:
            reader = stack.enter_context(PictureReader(self._settings.column))
            pictures = self._pictures(shard, reader, watcher)
            if ahead:
                pictures = stack.enter_context(closing(read_ahead(pictures, ahead)))
            for some in in_batches(pictures, batch):
                rows += self._answer_batch(shard.entries, some, watcher)
                watcher.ended([place for place, _ in some])
        failed = {row.image_id for row in rows if row.status == ERROR}
        return Part(
            number=shard.number,
            content=encode(rows, self._settings.run),
            pictures=len(shard.entries),
            failed=len(failed),
        )

    def close(self) -> None:
        """Free the engine."""
        self._model.close()

    def _pictures(
        self, shard: Shard, reader: PictureReader, watcher: Watcher
    ) -> Iterator[_Prepared]:
        for place, entry in enumerate(shard.entries):
            if shard.only not in (None, place):
                continue
            if place in shard.broken:
                yield place, RequestError(shard.broken[place])
                continue
            watcher.begun(place)
            yield place, self._prepared(entry, reader)

    def _prepared(self, entry: Entry, reader: PictureReader) -> PreparedImages | RequestError:
        side, options = self._model.bundle.size.image_size, self._settings.image_options
        try:
            return prepare_images([reader.read(entry)], side, options).without_pictures()
        except RequestError as error:
            return error

    def _answer_batch(
        self, entries: Sequence[Entry], some: Sequence[_Prepared], watcher: Watcher
    ) -> list[Row]:
        good = [each for _, each in some if isinstance(each, PreparedImages)]
        questions, options = self._settings.questions, self._settings.options
        views = self._model.encode_prepared(join_images(good), options) if good else []
        watcher.alive()
        columns = [
            self._model.answer_questions(
                [view.question(each.task, each.text) for view in views],
                on_answer=lambda _, answer: watcher.alive(),
            )
            for each in (questions if views else ())
        ]
        numbers = iter(range(len(views)))
        rows: list[Row] = []
        for place, prepared in some:
            entry = entries[place]
            if isinstance(prepared, RequestError):
                rows.append(_error_row(entry, prepared))
                continue
            number = next(numbers)
            size = views[number].size
            answered = zip(questions, columns, strict=True)
            rows += [_row(entry, size, each, column[number]) for each, column in answered]
        return rows


def _error_row(entry: Entry, error: RequestError) -> Row:
    return Row(image_id=_id(entry), image=entry.name, status=ERROR, error=str(error))


def _row(entry: Entry, size: tuple[int, int], question: Question, answer: Answer) -> Row:
    asked = Row(
        image_id=_id(entry),
        image=entry.name,
        width=size[0],
        height=size[1],
        task=question.task,
        text_input=question.text,
        status=ERROR,
    )
    if isinstance(answer, FlorenceEdgeError):
        return replace(asked, error=str(answer))
    return replace(
        asked,
        text=answer.text,
        score=answer.score,
        status=answer.status,
        raw_text=answer.raw_text,
        regions=tuple(_classed(answer.regions, question)),
    )


def _classed(regions: Sequence[Region], question: Question) -> Sequence[Region]:
    """The regions, of a phrase those that are about it, under the name of its class."""
    if question.label is None:
        return regions
    phrase = question.text or ""
    return [replace(each, label=question.label) for each in regions if is_about(each.label, phrase)]


def _id(entry: Entry) -> int:
    if entry.image_id is None:  # the list gives every entry one
        raise RequestError(f"{entry.name} is not of a list.")
    return entry.image_id
