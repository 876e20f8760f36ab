"""A source of frames: a camera, a stream, a video or pictures."""

import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from ..image import ImageLike
from ..image_file import Color


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Captured:
    """A frame as its source gives it; its pixels are made when `picture` is called."""

    timestamp: float
    """Seconds from the start of a file; of a live source Unix time in seconds, by the system's
    clock, which may be set at any moment."""
    picture: Callable[[], ImageLike]
    taken: float = field(default_factory=time.monotonic)
    """When it came, on the clock `time.monotonic`."""


Frames: TypeAlias = Generator[Captured, None, None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where frames come from."""

    name: str
    """What to call it; without the secrets of a URL."""
    live: bool
    """Whether it goes on without us, so that frames must be dropped; else every frame is read."""
    endless: bool
    """Whether its end means that it was lost and is to be opened again."""
    frames: Callable[[], Frames]
    """Opens it; the iterator is to be closed. It raises a SourceError, or a
    MissingPackageError."""
    file: Path | None = None
    """Where it is one of this machine."""
    color: Color = "rgb"
    """The order of channels of those pictures that are arrays."""
