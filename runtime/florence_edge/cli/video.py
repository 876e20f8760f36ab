"""florence-run about a camera, a stream or a video, frame by frame."""

import argparse
import re
import signal
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from threading import Event

from ..command import plain
from ..errors import RequestError
from ..model import Florence2
from ..results.result import Result
from ..tasks import Request
from ..video.display import ShowFrame, drawn, open_window
from ..video.source import Source
from ..video.sources import CameraMode, source_of
from ..video.watch import VideoFrame, Watched, Watching, WatchStats, watch
from ..video.writer import open_writer
from .answer_line import AnswerLines, Subject, print_lines
from .answers_file import open_frames
from .arguments import kept_from, options_from, origin_from
from .outputs import open_outputs
from .progress import StatusLine, say_written

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_NOT_IN_NAMES = re.compile(r"[^\w.-]+")
_MAX_NAME = 80  # characters of a URL or a pipeline, its secrets masked, that name files


def run_video(
    load: Callable[[], Florence2], request: Request, arguments: argparse.Namespace
) -> int:
    """Answer about the frames of a source until it ends, or a signal or the window stops it.

    Returns:
        0, also where SIGTERM or SIGHUP stopped it, as a service manager expects; 130 on Ctrl-C.
    """
    with ExitStack() as stack:
        source = source_of(arguments.source, mode=_mode(arguments))
        save = arguments.save
        _check_target(save, source)
        video = stack.enter_context(open_writer(save, source.live)) if save else None
        write = None
        if arguments.answers is not None:
            opened = open_frames(arguments.answers, origin_from(arguments))
            write = stack.enter_context(opened)
        called = str(source.file or source.name)
        outputs = stack.enter_context(open_outputs(arguments, request, called=called))
        named = source.file or Path(_NOT_IN_NAMES.sub("_", called)[-_MAX_NAME:])
        show = open_window() if arguments.show else None
        model = stack.enter_context(load())
        lines = AnswerLines.of(model, request, tracked=arguments.track)
        stop = stack.enter_context(_stopped_by_signals())
        how = _watching(arguments, show, stop.event)
        watched = stack.enter_context(closing(_watched(model, request, arguments, stop.event, how)))
        status_line = stack.enter_context(StatusLine())
        stats = WatchStats()
        for frame, unfiltered, stats in watched:
            results = [kept_from(arguments, result) for result in unfiltered]
            status_line.clear()
            said = lines.about(Subject.of_frame(called, frame, stats), results)
            if write is not None:
                write(said)
            if arguments.json:
                print_lines(said)
            elif video is None and show is None and write is None:
                _describe(frame, results)
            picture = frame.image
            outputs.write(named, picture, results, frame.index)
            if video is not None or show is not None:
                picture = drawn(picture, results, line_width=arguments.line_width)
            if video is not None:
                video.write(picture, frame.elapsed)
            if show is not None and not show(picture):
                break
            status_line.show(_summary(stats))
    with suppress(OSError):  # the terminal may be gone
        print(f"florence-run: {_summary(stats)}", file=sys.stderr, flush=True)
    video_written = [] if video is None else [f"the video in {save}"]
    answers_written = [] if write is None else [f"the answers in {arguments.answers}"]
    say_written(*video_written, *outputs.written(), *answers_written)
    return 128 + signal.SIGINT if stop.by == signal.SIGINT else 0


def _check_target(save: Path | None, source: Source) -> None:
    file = source.file
    if save is not None and file is not None and save.exists() and save.samefile(file):
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


def _describe(frame: VideoFrame, results: Sequence[Result]) -> None:
    print(f"frame {frame.index}:")
    for result in results:
        print(plain(result.describe()), flush=True)


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
        for each in _heard():  # a second one ends it at once, but a hang-up often comes as several
            again = each == signal.SIGHUP or (number, each) == (signal.SIGHUP, signal.SIGTERM)
            signal.signal(each, signal.SIG_IGN if again else signal.default_int_handler)


def _heard() -> list[signal.Signals]:
    """The signals that end it: hang-ups not where they are ignored, as under nohup."""
    ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    return [each for each in _SIGNALS if not (ignored and each == signal.SIGHUP)]


@contextmanager
def _stopped_by_signals() -> Iterator[_Stop]:
    """Ctrl-C, SIGTERM and SIGHUP let the frame at hand be dropped and everything be closed."""
    stop = _Stop()
    before = {number: signal.signal(number, stop.set) for number in _heard()}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            # What is ignored now stays so until the command ends: a video may be to be finished.
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, handler)
