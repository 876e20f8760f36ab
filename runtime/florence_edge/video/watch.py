"""Watching a source: each frame is encoded once and asked every task.

for frame, results, stats in model.watch("rtsp://camera/stream", ["OD", "CAPTION"]): ...
"""

import math
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from statistics import median
from threading import Event
from typing import TYPE_CHECKING, NamedTuple

from PIL import Image

from ..answers.regions import Convention, check_convention
from ..answers.result import Result
from ..errors import RequestError
from ..looking import Prepared, look_at, prepare
from ..options import GenerationOptions
from ..series.ahead import read_ahead
from ..series.asking import Asked
from ..view import View
from .latest import Latest, Waiting
from .opening import CameraMode, SourceLike, source_of
from .source import Captured, Frames, Source
from .tracking import Tracker

if TYPE_CHECKING:
    from ..model import Florence2

_AHEAD = 2  # frames of a file that are decoded while one is answered
_RECENT = 30  # answers that rate and latency are taken over


@dataclass(frozen=True, slots=True, kw_only=True)
class Watching:
    """How to watch a source."""

    every: int = 1
    """Of this many frames one is answered."""
    live: bool | None = None
    """Whether to drop frames that come while one is answered; None decides by the source."""
    track: bool = False
    """Whether to number objects over the frames (`Region.track_id`)."""
    timeout: float = 10.0
    """Seconds without data after which a URL or pipeline counts as lost, and is opened again."""
    patience: float = 60.0
    """Seconds without a frame after which a live source is given up; may be infinite."""
    wait: bool = False
    """Whether to be as patient with a live source that is not there at first."""
    mode: CameraMode | None = None
    """Size, rate and format that a v4l2 camera is asked for."""
    idle: Callable[[], object] | None = None
    """Called ten times a second while a live source is silent, by the thread that iterates."""

    def check(self) -> None:
        """Raise a RequestError where a value is out of range."""
        if self.every < 1:
            raise RequestError(f"every is {self.every}; it must be 1 (each frame) or more.")
        if not 0 < self.timeout < math.inf:
            raise RequestError(f"timeout is {self.timeout}; it must be above 0 seconds.")
        if not self.patience >= 0:
            raise RequestError(f"patience is {self.patience}; it must be 0 seconds or more.")


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoFrame:
    """A frame that was answered; its view takes further questions."""

    index: int
    """Its number in the source, from 0, those that were dropped included."""
    timestamp: float
    """Seconds from the start of a file; of a live source Unix time in seconds."""
    view: View

    @property
    def image(self) -> Image.Image:
        """The frame as PIL's."""
        return self.view.image


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """How the watching goes."""

    answered: int = 0
    dropped: int = 0
    """Frames that a newer one replaced before their turn."""
    reconnects: int = 0
    fps: float = 0.0
    """Answers a second, over the last 30."""
    latency: float = 0.0
    """Seconds from the frame's coming to its answers, the median of the last 30."""


class Watched(NamedTuple):
    """A frame, one result a task, and how it goes."""

    frame: VideoFrame
    results: tuple[Result, ...]
    stats: Stats


def watch(  # noqa: PLR0913 - what Florence2.watch has, checked
    model: "Florence2",
    source: SourceLike,
    asked: Asked,
    options: GenerationOptions | None,
    convention: Convention,
    cancel: Event | None,
    how: Watching,
) -> Generator[Watched, None, None]:
    """See `Florence2.watch`; mistakes are raised at once, the source is opened by the iterator."""
    check_convention(convention)
    model.resolve(options)
    how.check()
    watcher = _Watcher(
        model=model,
        source=source_of(source, live=how.live, timeout=how.timeout, mode=how.mode or CameraMode()),
        asked=asked,
        options=options,
        convention=convention,
        cancel=cancel or Event(),
        how=how,
    )
    tracker = Tracker.open(len(asked.questions(None))) if how.track else None
    return watcher.live(tracker) if watcher.source.live else watcher.file(tracker)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Watcher:
    """One source and what is asked about its frames."""

    model: "Florence2"
    source: Source
    asked: Asked
    options: GenerationOptions | None
    convention: Convention
    cancel: Event
    how: Watching

    def live(self, tracker: Tracker | None) -> Generator[Watched, None, None]:
        """The newest frame, whenever the one before is answered."""
        pace = _Pace()
        waiting = Waiting(
            patience=self.how.patience,
            at_first=self.how.wait,
            cancel=self.cancel,
            idle=self.how.idle,
        )
        with Latest(self.source, every=self.how.every, waiting=waiting) as latest:
            for index, captured in latest:
                seen = self._answer(index, captured, self._prepared(captured), tracker)
                if seen is None:
                    return
                pace.note(captured.taken)
                stats = pace.stats(dropped=latest.dropped, reconnects=latest.reconnects)
                yield Watched(*seen, stats)

    def file(self, tracker: Tracker | None) -> Generator[Watched, None, None]:
        """Every n-th frame in order; the next ones are decoded while one is answered."""
        pace = _Pace()
        with (
            closing(self.source.frames()) as frames,
            closing(read_ahead(self._chosen(frames), _AHEAD)) as chosen,
        ):
            for index, captured, prepared in chosen:
                begin = time.monotonic()
                seen = self._answer(index, captured, prepared, tracker)
                if seen is None:
                    return
                pace.note(begin)
                yield Watched(*seen, pace.stats())

    def _chosen(self, frames: Frames) -> Iterator[tuple[int, Captured, Prepared]]:
        for index, captured in enumerate(frames):
            if self.cancel.is_set():
                return
            if index % self.how.every == 0:
                yield index, captured, self._prepared(captured)

    def _prepared(self, captured: Captured) -> Prepared:
        return prepare([captured.picture()], self.model.bundle.size.image_size)

    def _answer(
        self, index: int, captured: Captured, prepared: Prepared, tracker: Tracker | None
    ) -> tuple[VideoFrame, tuple[Result, ...]] | None:
        """The frame and its results; None once the watching is cancelled."""
        if self.cancel.is_set():
            return None
        (view,) = look_at(self.model, prepared, self.options, self.convention)
        results = self.asked.answers(view, self.cancel)
        if self.cancel.is_set():  # what was cut short by it is no answer
            return None
        if tracker is not None:
            results = tracker.follow(results, captured.timestamp)
        return VideoFrame(index=index, timestamp=captured.timestamp, view=view), results


class _Pace:
    """Rate and latency of the last answers."""

    def __init__(self) -> None:
        self._answered = 0
        self._ends: deque[float] = deque(maxlen=_RECENT + 1)
        self._ends.append(time.monotonic())
        self._latencies: deque[float] = deque(maxlen=_RECENT)

    def note(self, begin: float) -> None:
        """An answer is there, to a frame that came at `begin`."""
        now = time.monotonic()
        self._answered += 1
        self._ends.append(now)
        self._latencies.append(now - begin)

    def stats(self, *, dropped: int = 0, reconnects: int = 0) -> Stats:
        took = self._ends[-1] - self._ends[0]
        return Stats(
            answered=self._answered,
            dropped=dropped,
            reconnects=reconnects,
            fps=(len(self._ends) - 1) / took if took else 0.0,
            latency=median(self._latencies),
        )
