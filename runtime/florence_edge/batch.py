"""Many pictures in turn: while the engine answers about some, a thread decodes the next.

images ──prepare, few ahead (thread)──> batches ──> encode ──> prompts ──> Answered, each
"""

from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TypeAlias, TypeVar, cast

from .counts import check_count
from .encoded_image import EncodedImage
from .errors import RequestError
from .image import ImageLike
from .image_file import Color, check_color
from .model import Florence2
from .options import GenerationOptions
from .processing import PreparedImages, join_images, prepare_images
from .regions import BoxLike
from .results.result import Result
from .tasks import Request, TasksLike, request_for, with_own

AHEAD = 2  # pictures in memory beside those at hand: one that is ready, one in the making

MAX_BATCH = 1024  # pictures at once; engines are fastest with far fewer

_Item = TypeVar("_Item")
_Prepared: TypeAlias = tuple[ImageLike, PreparedImages | RequestError]
_END = object()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)  # a picture may be an array
class Answered:
    """What became of one picture of many: a view and its results, or an error."""

    image: ImageLike
    """The picture as it was given."""
    view: EncodedImage | None = None
    results: tuple[Result, ...] = ()
    """One a task, in their order."""
    error: RequestError | None = None
    """Why there are no results: the picture cannot be read, or the region does not fit it."""


def run_many(  # noqa: PLR0913 - the door; all but three are named by the caller
    model: Florence2,
    images: Iterable[ImageLike],
    tasks: TasksLike,
    text: str | None = None,
    *,
    region: BoxLike | None = None,
    color: Color = "rgb",
    options: GenerationOptions | None = None,
    batch: int = 1,
) -> Iterator[Answered]:
    """Answer the same tasks about any number of pictures, in order, `batch` of them at once.

    The next ones are read meanwhile, and few are in memory at a time. One that cannot be read is
    `Answered` with its error. Of several tasks, text and region go to those that take them. Arrays
    are in RGB order, or with `color` "bgr" in OpenCV's.

    Raises:
        RequestError: at once, for what holds for all pictures: a task, its text, an option.
    """
    _check_several(images)
    request = request_for(with_own(tasks, model.bundle.tasks), text, region)
    model.generation_config(options)
    check_batch(batch)
    check_color(color)
    prepared = _prepare_each(model, images, color)
    return _answers(model, prepared, request, options, batch)


def _check_several(images: object) -> None:
    """Refuse one picture, which might be iterated by its letters, lines or rows."""
    one = isinstance(images, str | bytes | Path) or hasattr(images, "read")
    if one or not isinstance(images, Iterable) or getattr(images, "ndim", 4) != 4:
        folder = "; of a folder give its files: sorted(Path(...).glob('*.jpg'))"
        raise RequestError(
            f"run_many takes several pictures, got {_said(images)}. Put it into a list, or use "
            f"model.run for one picture{folder if isinstance(images, str | Path) else ''}."
        )


def _said(images: object) -> str:
    shape = getattr(images, "shape", None)
    return f"{images!r:.80}" if shape is None else f"an array of shape {list(shape)}"


def check_batch(batch: int) -> None:
    """Refuse what is not a number of pictures that an engine could answer at once.

    Raises:
        RequestError: it is out of range; the message says which range.
    """
    any_number = (
        "Any number of pictures may be given; this many are in memory, and answered, at once."
    )
    check_count("batch", batch, most=MAX_BATCH, hint=any_number)


def _prepare_each(
    model: Florence2, images: Iterable[ImageLike], color: Color
) -> Iterator[_Prepared]:
    """Each picture as it was given, and ready for the model or why it is not."""
    return ((image, _prepared(model, image, color)) for image in images)


def _answers(
    model: Florence2,
    ready: Iterator[_Prepared],
    request: Request,
    options: GenerationOptions | None,
    batch: int,
) -> Iterator[Answered]:
    with closing(read_ahead(ready, AHEAD + batch - 1)) as pictures:
        for some in in_batches(pictures, batch):
            good = [each for _, each in some if isinstance(each, PreparedImages)]
            views = _encode(model, good, options)
            results = zip(views, _results(model, views, request), strict=True)
            for image, prepared in some:
                if isinstance(prepared, RequestError):
                    yield Answered(image=image, error=prepared)
                else:
                    yield _answered(image, *next(results))


def in_batches(items: Iterable[_Item], size: int) -> Iterator[list[_Item]]:
    """Lists of `size` items, the last perhaps shorter.

    Where getting an item fails, those before it are given first, and the failure is raised then.
    """
    some: list[_Item] = []
    try:
        for item in items:
            some.append(item)
            if len(some) == size:
                full, some = some, []
                yield full
    except Exception:
        if some:
            yield some
        raise
    if some:
        yield some


def read_ahead(items: Iterator[_Item], depth: int) -> Generator[_Item, None, None]:
    """The items in their order, up to `depth` of them made before they are asked for.

    What making an item raises is raised where the item would have come. An iterator that is not
    used up is to be closed (`contextlib.closing`), which ends the thread.
    """
    thread = ThreadPoolExecutor(1, thread_name_prefix="florence-edge-ahead")
    try:
        waiting = deque(thread.submit(next, items, _END) for _ in range(depth))
        while (item := waiting.popleft().result()) is not _END:
            waiting.append(thread.submit(next, items, _END))
            yield cast(_Item, item)
    finally:
        thread.shutdown(cancel_futures=True)


def _prepared(model: Florence2, image: ImageLike, color: Color) -> PreparedImages | RequestError:
    side = model.bundle.size.image_size
    try:
        return prepare_images([image], side, model.image_options, color=color)
    except RequestError as error:
        return error


def _encode(
    model: Florence2, prepared: list[PreparedImages], options: GenerationOptions | None
) -> list[EncodedImage]:
    """A view of each picture; those on the host and those on the GPU are encoded apart."""
    alike = groupby(prepared, key=lambda each: type(each.pixels))
    return [
        view
        for _, group in alike
        for view in model.encode_prepared(join_images(list(group)), options)
    ]


def _results(
    model: Florence2, views: Sequence[EncodedImage], request: Request
) -> list[tuple[Result, ...] | RequestError]:
    """The results of each picture of a batch, or why there are none.

    Where a batch is refused, every picture is asked alone, so that it has its own error.
    """
    try:
        prompts = [request.prompts(view.size) for view in views]
        return [tuple(results) for results in model.answer_each(views, prompts)]
    except RequestError as error:
        if len(views) == 1:
            return [error]
        return [results for view in views for results in _results(model, [view], request)]


def _answered(
    image: ImageLike, view: EncodedImage, results: tuple[Result, ...] | RequestError
) -> Answered:
    if isinstance(results, RequestError):
        return Answered(image=image, view=view, error=results)
    return Answered(image=image, view=view, results=results)
