"""florence-run --source: a camera, a stream or a video, frame by frame."""

import argparse
import json
import signal
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from threading import Event

from ..errors import RequestError
from ..model import Florence2
from ..results.result import Result
from ..tasks import Request
from ..video.display import ShowFrame, drawn, open_window
from ..video.sources import CameraMode, source_of
from ..video.watch import VideoFrame, Watched, Watching, WatchStats, watch
from ..video.writer import open_writer
from .arguments import options_from
from .progress import StatusLine

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def run_video(
    load: Callable[[], Florence2], request: Request, arguments: argparse.Namespace
) -> int:
    """Answer about the frames of a source until it ends, or a signal or the window stops it.

    Returns:
        0, also where SIGTERM stopped it, as a service manager expects; 130 on Ctrl-C.
    """
    with ExitStack() as stack:
        _check_target(arguments.save, arguments.source)
        live = source_of(arguments.source, mode=_mode(arguments)).live
        video = stack.enter_context(open_writer(arguments.save, live)) if arguments.save else None
        show = open_window() if arguments.show else None
        model = stack.enter_context(load())
        stop = stack.enter_context(_stopped_by_signals())
        how = _watching(arguments, show, stop.event)
        watched = stack.enter_context(closing(_watched(model, request, arguments, stop.event, how)))
        line = stack.enter_context(StatusLine())
        stats = WatchStats()
        for frame, unfiltered, stats in watched:
            results = [result.filter(arguments.min_score) for result in unfiltered]
            line.clear()
            if arguments.json:
                print(_json(frame, results, stats, arguments.track), flush=True)
            elif video is None and show is None:
                _describe(frame, results)
            picture = drawn(frame.image, results) if video or show else frame.image
            if video is not None:
                video.write(picture, frame.timestamp)
            if show is not None and not show(picture):
                break
            line.show(_summary(stats))
    print(f"florence-run: {_summary(stats)}", file=sys.stderr)
    return 128 + signal.SIGINT if stop.by == signal.SIGINT else 0


def _check_target(save: Path | None, source: str) -> None:
    if save is not None and save.exists() and save.resolve() == Path(source).resolve():
        raise RequestError(f"{save} is the source; it will not be replaced. Choose another --save.")


def _mode(arguments: argparse.Namespace) -> CameraMode:
    return CameraMode(
        size=arguments.camera_size, fps=arguments.camera_fps, format=arguments.camera_format
    )


def _watching(arguments: argparse.Namespace, show: ShowFrame | None, cancel: Event) -> Watching:
    def keep_window() -> None:
        if show is not None and not show(None):
            cancel.set()

    return Watching(
        every=arguments.every,
        track=arguments.track,
        patience=arguments.patience,
        wait=arguments.wait,
        camera=_mode(arguments),
        idle=keep_window,
    )


def _watched(
    model: Florence2,
    request: Request,
    arguments: argparse.Namespace,
    cancel: Event,
    how: Watching,
) -> Generator[Watched, None, None]:
    options = options_from(arguments)
    return watch(model, arguments.source, request, options=options, cancel=cancel, how=how)


def _json(frame: VideoFrame, results: Sequence[Result], stats: WatchStats, tracked: bool) -> str:
    """One line: which frame, the answers as they are for pictures, and rate and latency."""
    answers = [result.to_json() for result in results]
    if tracked:
        for answer, result in zip(answers, results, strict=True):
            answer["track_ids"] = [region.track_id for region in result.regions]
    line = {"frame": frame.index, "timestamp": frame.timestamp, "size": list(frame.view.size)}
    rates = {"fps": stats.fps, "latency": stats.latency, "dropped": stats.dropped}
    return json.dumps({**line, "results": answers, "stats": rates})


def _describe(frame: VideoFrame, results: Sequence[Result]) -> None:
    print(f"frame {frame.index}:")
    for result in results:
        print(result.describe(), flush=True)


def _summary(stats: WatchStats) -> str:
    again = f", {stats.reconnects} reconnects" if stats.reconnects else ""
    return (
        f"{stats.answered} frames answered, {stats.dropped} dropped, {stats.fps:.1f} a second, "
        f"latency {1000 * stats.latency:.0f} ms{again}"
    )


class _Stop:
    """Set by the signals of `_stopped_by_signals`."""

    def __init__(self) -> None:
        self.event = Event()
        self.by: int | None = None

    def set(self, number: int, _: object) -> None:
        self.event.set()
        self.by = number
        for each in _SIGNALS:  # a second one ends it at once
            signal.signal(each, signal.default_int_handler)


@contextmanager
def _stopped_by_signals() -> Iterator[_Stop]:
    """Ctrl-C and SIGTERM let the frame at hand be dropped and everything be closed."""
    stop = _Stop()
    before = {number: signal.signal(number, stop.set) for number in _SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
