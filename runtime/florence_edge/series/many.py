"""Many pictures in turn: while the engine answers about some, a thread decodes the next.

images ──prepare, few ahead (thread)──> batches ──> look ──> questions ──> Answered, one a picture
"""

from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, TypeVar

from ..answers.regions import Convention, check_convention
from ..answers.result import Result
from ..errors import RequestError
from ..looking import Prepared, join_prepared, look_at, prepare
from ..options import GenerationOptions
from ..pictures import PictureLike
from ..view import View
from .ahead import read_ahead
from .asking import Asked

if TYPE_CHECKING:
    from ..model import Florence2

AHEAD = 2  # pictures in memory beside those at hand: one that is ready, one in the making

_Item = TypeVar("_Item")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)  # a picture may be an array
class Answered:
    """What became of one picture of many: a view and its results, or an error."""

    image: PictureLike
    """The picture as it was given."""
    view: View | None = None
    results: tuple[Result, ...] = ()
    """One a task, in their order."""
    error: RequestError | None = None
    """Why there are no results: the picture cannot be read, or the region does not fit it."""


def run_many(
    model: "Florence2",
    images: Iterable[PictureLike],
    asked: Asked,
    options: GenerationOptions | None,
    convention: Convention,
    batch: int = 1,
) -> Iterator[Answered]:
    """See `Florence2.run_many`; mistakes that hold for all pictures are raised at once."""
    check_convention(convention)
    model.resolve(options)
    if batch < 1:
        raise RequestError(f"batch is {batch}; it must be 1 or more.")
    side = model.bundle.size.image_size
    ready = ((image, _prepared(image, side)) for image in images)

    def answered() -> Iterator[Answered]:
        with closing(read_ahead(ready, AHEAD + batch - 1)) as pictures:
            for some in in_batches(pictures, batch):
                seen = [each for _, each in some if isinstance(each, Prepared)]
                views = _look(model, seen, options, convention)
                answers = zip(views, asked.answers_of(views) if views else [], strict=True)
                for image, prepared in some:
                    if isinstance(prepared, RequestError):
                        yield Answered(image=image, error=prepared)
                    else:
                        yield _answered(image, *next(answers))

    return answered()


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


def _look(
    model: "Florence2",
    prepared: list[Prepared],
    options: GenerationOptions | None,
    convention: Convention,
) -> list[View]:
    """A view of each picture; those on the host and those on the GPU are looked at apart."""
    alike = groupby(prepared, key=lambda each: type(each.seen))
    return [
        view
        for _, group in alike
        for view in look_at(model, join_prepared(list(group)), options, convention)
    ]


def _answered(
    image: PictureLike, view: View, answers: tuple[Result, ...] | RequestError
) -> Answered:
    if isinstance(answers, RequestError):
        return Answered(image=image, view=view, error=answers)
    return Answered(image=image, view=view, results=answers)


def _prepared(image: PictureLike, side: int) -> Prepared | RequestError:
    try:
        return prepare([image], side)
    except RequestError as error:
        return error
