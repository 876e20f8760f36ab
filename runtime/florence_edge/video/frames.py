"""The frames of a source without answers: what a server or a program of its own asks about.

for frame in frames("rtsp://camera/stream"): ...
"""

from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from threading import Event

from ..image import ImageLike
from ..image_file import MAX_PIXELS
from .capture import Latest, Waiting
from .source import Source
from .sources import CameraMode, SourceLike, source_of
from .watch import Watching


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)  # a picture may be an array
class SourceFrame:
    """A frame as it came; the numbers are those of `VideoFrame` and `WatchStats`."""

    index: int
    """Its number in the source, from 0, those that were dropped included."""
    timestamp: float
    """Seconds from the start of a file; of a live source Unix time in seconds."""
    taken: float
    """When it came, on the clock `time.monotonic`."""
    picture: Callable[[], ImageLike]
    """Its pixels, which are made when this is called."""
    dropped: int = 0
    """Frames so far that a newer one replaced before they were taken."""
    reconnects: int = 0


def frames(
    source: SourceLike,
    *,
    cancel: Event | None = None,
    how: Watching | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Generator[SourceFrame, None, None]:
    """The frames of a camera, a stream or a video, as `watch` takes them but without answers.

    A live source gives the newest frame whenever one is asked for, and is opened again if it is
    lost; of a file every `how.every`-th frame comes. Setting `cancel` ends it, from any thread.
    Mistakes are raised at once; the source is opened by the iterator, which is to be closed.

    Raises:
        RequestError: the source or `how` does not fit.
        SourceError: the source cannot be read, or is lost for good.
        MissingPackageError: the package that reads the source is not installed.
    """
    how = how or Watching()
    how.check()
    found = source_of(
        source,
        live=how.live,
        timeout=how.timeout,
        mode=how.camera or CameraMode(),
        max_pixels=max_pixels,
    )
    cancel = cancel or Event()
    return _live(found, how, cancel) if found.live else _file(found, how, cancel)


def _live(source: Source, how: Watching, cancel: Event) -> Generator[SourceFrame, None, None]:
    waiting = Waiting(patience=how.patience, at_first=how.wait, cancel=cancel, idle=how.idle)
    with Latest(source, every=how.every, waiting=waiting) as latest:
        for index, captured in latest:
            yield SourceFrame(
                index=index,
                timestamp=captured.timestamp,
                taken=captured.taken,
                picture=captured.picture,
                dropped=latest.dropped,
                reconnects=latest.reconnects,
            )


def _file(source: Source, how: Watching, cancel: Event) -> Generator[SourceFrame, None, None]:
    with closing(source.frames()) as read:
        for index, captured in enumerate(read):
            if cancel.is_set():
                return
            if index % how.every == 0:
                yield SourceFrame(
                    index=index,
                    timestamp=captured.timestamp,
                    taken=captured.taken,
                    picture=captured.picture,
                )
