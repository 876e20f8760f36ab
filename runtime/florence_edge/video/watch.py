"""Watching a source: each frame is encoded once and answered for every task.

for frame, results, stats in watch(model, "rtsp://camera/stream", ["OD", "CAPTION"]): ...
"""

import math
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from numbers import Integral
from statistics import median
from threading import Event
from typing import NamedTuple

from PIL import Image

from ..batch import read_ahead
from ..encoded_image import EncodedImage
from ..errors import RequestError
from ..image_file import Color
from ..model import Florence2
from ..options import GenerationOptions
from ..processing import PreparedImages, prepare_images
from ..regions import BoxLike
from ..results.result import Result
from ..tasks import Request, TasksLike, request_for, with_own
from .capture import Latest, Waiting
from .source import Captured, Frames, Source
from .sources import CameraMode, SourceLike, source_of
from .tracking import Tracker

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
    camera: CameraMode | None = None
    """Size, rate and format that are requested of a v4l2 camera."""
    idle: Callable[[], object] | None = None
    """Called ten times a second while a live source is silent, by the thread that iterates."""

    def check(self) -> None:
        """Raise a RequestError where a value is out of range."""
        if not isinstance(self.every, Integral) or self.every < 1:
            raise RequestError(f"every is {self.every}; it must be 1 (each frame) or more.")
        if not 0 < self.timeout < math.inf:
            raise RequestError(f"timeout is {self.timeout}; it must be above 0 seconds.")
        if not self.patience >= 0:
            raise RequestError(f"patience is {self.patience}; it must be 0 seconds or more.")


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoFrame:
    """A frame that was answered; its view takes further prompts."""

    index: int
    """Its number in the source, from 0, those that were dropped included."""
    timestamp: float
    """Seconds from the start of a file; of a live source Unix time in seconds, by the system's
    clock, which may be set at any moment: see `elapsed` for how much passed."""
    elapsed: float
    """Seconds of a file as `timestamp`; of a live source since its first answered frame, by a
    clock that nobody sets. It grows from frame to frame."""
    view: EncodedImage

    @property
    def image(self) -> Image.Image:
        """The frame as PIL's."""
        return self.view.image


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchStats:
    """Rate, latency and losses so far."""

    answered: int = 0
    dropped: int = 0
    """Frames that a newer one replaced before their turn."""
    reconnects: int = 0
    fps: float = 0.0
    """Answered frames a second, over the last 30."""
    latency: float = 0.0
    """Seconds from the frame's coming to its answers, the median of the last 30."""


class Watched(NamedTuple):
    """A frame, its results in the order of the tasks, and the statistics so far."""

    frame: VideoFrame
    results: tuple[Result, ...]
    stats: WatchStats


def watch(  # noqa: PLR0913 - the door; all but three are named by the caller
    model: Florence2,
    source: SourceLike,
    tasks: TasksLike,
    text: str | None = None,
    *,
    region: BoxLike | None = None,
    color: Color = "rgb",
    options: GenerationOptions | None = None,
    cancel: Event | None = None,
    how: Watching | None = None,
) -> Generator[Watched, None, None]:
    """Answer tasks about the frames of a camera (its number), a URL, a video file, a pipeline.

    Or of pictures that the caller iterates over: arrays among them are in RGB order, or with
    `color` "bgr" in OpenCV's; all other sources know theirs. A live source gives its newest frame,
    and those that came meanwhile are dropped; of a file every frame is answered. Setting `cancel`
    ends it, from whichever thread. Mistakes are raised at once; the source is opened by the
    iterator.

    Raises:
        RequestError: a task, its text, an option, the source or `how` does not fit.
        SourceError: the source cannot be read, or is lost for good.
        MissingPackageError: the package that reads the source, or trackers, is not installed.
        BackendError: the model was closed.
    """
    request = request_for(with_own(tasks, model.bundle.tasks), text, region)
    model.generation_config(options)
    how = how or Watching()
    how.check()
    watcher = _Watcher(
        model=model,
        source=source_of(
            source,
            live=how.live,
            timeout=how.timeout,
            mode=how.camera or CameraMode(),
            max_pixels=model.image_options.max_pixels,
            color=color,
        ),
        request=request,
        options=options,
        cancel=cancel or Event(),
        how=how,
    )
    tracker = Tracker.open(len(request.prompts(None))) if how.track else None
    return watcher.live(tracker) if watcher.source.live else watcher.file(tracker)


@dataclass(frozen=True, slots=True)
class _Moment:
    """Which frame it is, and when, as in `VideoFrame`."""

    index: int
    timestamp: float
    elapsed: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Watcher:
    """A source, and the request that each of its frames gets."""

    model: Florence2
    source: Source
    request: Request
    options: GenerationOptions | None
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
            begin: float | None = None
            for index, captured in latest:
                begin = captured.taken if begin is None else begin
                prepared = self._prepared(captured)
                moment = _Moment(index, captured.timestamp, captured.taken - begin)
                answered = self._answer(moment, prepared, tracker)
                if answered is None:
                    return
                pace.note(captured.taken)
                stats = pace.stats(dropped=latest.dropped, reconnects=latest.reconnects)
                yield Watched(*answered, stats)

    def file(self, tracker: Tracker | None) -> Generator[Watched, None, None]:
        """Every n-th frame in order; the next ones are decoded while one is answered."""
        pace = _Pace()
        with (
            closing(self.source.frames()) as frames,
            closing(read_ahead(self._chosen(frames), _AHEAD)) as chosen,
        ):
            for index, captured, prepared in chosen:
                begin = time.monotonic()
                moment = _Moment(index, captured.timestamp, captured.timestamp)
                answered = self._answer(moment, prepared, tracker)
                if answered is None:
                    return
                pace.note(begin)
                yield Watched(*answered, pace.stats())

    def _chosen(self, frames: Frames) -> Iterator[tuple[int, Captured, PreparedImages]]:
        for index, captured in enumerate(frames):
            if self.cancel.is_set():
                return
            if index % self.how.every == 0:
                yield index, captured, self._prepared(captured)

    def _prepared(self, captured: Captured) -> PreparedImages:
        model = self.model
        return prepare_images(
            [captured.picture()],
            model.bundle.size.image_size,
            model.image_options,
            color=self.source.color,
        )

    def _answer(
        self, moment: _Moment, prepared: PreparedImages, tracker: Tracker | None
    ) -> tuple[VideoFrame, tuple[Result, ...]] | None:
        """The frame and its results; None once the watching is cancelled."""
        if self.cancel.is_set():
            return None
        (view,) = self.model.encode_prepared(prepared, self.options)
        prompts = self.request.prompts(view.size)
        (results,) = self.model.answer_each([view], [prompts], cancel=self.cancel)
        if self.cancel.is_set():  # it cut the answer short
            return None
        if tracker is not None:
            results = list(tracker.follow(results, moment.elapsed))
        frame = VideoFrame(
            index=moment.index, timestamp=moment.timestamp, elapsed=moment.elapsed, view=view
        )
        return frame, tuple(results)


class _Pace:
    """Rate and latency of the last answered frames."""

    def __init__(self) -> None:
        self._answered = 0
        self._ends: deque[float] = deque(maxlen=_RECENT + 1)
        self._ends.append(time.monotonic())
        self._latencies: deque[float] = deque(maxlen=_RECENT)

    def note(self, begin: float) -> None:
        """Count a frame that came at `begin` and is answered now."""
        now = time.monotonic()
        self._answered += 1
        self._ends.append(now)
        self._latencies.append(now - begin)

    def stats(self, *, dropped: int = 0, reconnects: int = 0) -> WatchStats:
        took = self._ends[-1] - self._ends[0]
        return WatchStats(
            answered=self._answered,
            dropped=dropped,
            reconnects=reconnects,
            fps=(len(self._ends) - 1) / took if took else 0.0,
            latency=median(self._latencies),
        )
