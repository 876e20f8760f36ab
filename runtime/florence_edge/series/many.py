"""Many pictures in turn: while the engine answers about one, a thread decodes the next.

images ──prepare, at most AHEAD of them (thread)──> look ──> questions ──> Answered
"""

from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..answers.regions import Convention, check_convention
from ..answers.result import Result
from ..errors import RequestError
from ..looking import Prepared, look_at, prepare
from ..options import GenerationOptions
from ..pictures import PictureLike
from ..view import View
from .ahead import read_ahead
from .asking import Asked

if TYPE_CHECKING:
    from ..model import Florence2

AHEAD = 2  # pictures in memory beside the one at hand: one that is ready, one in the making


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
) -> Iterator[Answered]:
    """See `Florence2.run_many`; mistakes that hold for all pictures are raised at once."""
    check_convention(convention)
    model.resolve(options)
    side = model.bundle.size.image_size
    ready = ((image, _prepared(image, side)) for image in images)

    def answered() -> Iterator[Answered]:
        with closing(read_ahead(ready, AHEAD)) as pictures:
            for image, prepared in pictures:
                if isinstance(prepared, RequestError):
                    yield Answered(image=image, error=prepared)
                    continue
                (view,) = look_at(model, prepared, options, convention)
                try:
                    results = asked.answers(view)
                except RequestError as error:
                    yield Answered(image=image, view=view, error=error)
                else:
                    yield Answered(image=image, view=view, results=results)

    return answered()


def _prepared(image: PictureLike, side: int) -> Prepared | RequestError:
    try:
        return prepare([image], side)
    except RequestError as error:
        return error
