"""Looking at pictures in two steps: `prepare` needs no engine and may run ahead in a thread.

images ──prepare──> Prepared (decoded, resized) ──look_at──> views
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .answers.regions import Convention
from .backends.base import Pixels
from .options import GenerationOptions
from .pictures import Picture, PictureLike, load_pictures, squares
from .stopwatch import Stopwatch
from .view import View

if TYPE_CHECKING:
    from .model import Florence2


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)  # arrays have no one truth value
class Prepared:
    """Pictures that are ready for the vision encoder."""

    pictures: Sequence[Picture]
    seen: Pixels
    watch: Stopwatch


def prepare(images: Sequence[PictureLike], side: int) -> Prepared:
    """Decode pictures and squash them to squares of `side` pixels.

    Raises:
        ImageError: a picture cannot be read.
    """
    watch = Stopwatch()
    with watch.stage("image"):
        pictures = load_pictures(images)
        seen = squares(pictures, side)
    return Prepared(pictures=pictures, seen=seen, watch=watch)


def join_prepared(parts: Sequence[Prepared]) -> Prepared:
    """Pictures that were prepared one by one as one batch; all on the host or all on the GPU."""
    if len(parts) == 1:
        return parts[0]
    watch = Stopwatch()
    for part in parts:
        watch.add(part.watch)
    arrays = [part.seen for part in parts if isinstance(part.seen, np.ndarray)]
    return Prepared(
        pictures=[picture for part in parts for picture in part.pictures],
        seen=np.concatenate(arrays) if arrays else [frame for part in parts for frame in part.seen],
        watch=watch,
    )


def look_at(
    model: "Florence2",
    prepared: Prepared,
    options: GenerationOptions | None,
    convention: Convention,
) -> list[View]:
    """A view of each picture, all encoded in one run."""
    watch, count = prepared.watch, len(prepared.pictures)
    with watch.stage("vision"):
        features = model.backend.look(prepared.seen)
    return [
        View(
            model=model,
            picture=picture,
            features=features[i : i + 1],
            options=options,
            convention=convention,
            seconds=watch.share(count),
        )
        for i, picture in enumerate(prepared.pictures)
    ]
