"""Frames of files, cameras and network streams through PyAV, which brings FFmpeg's libraries."""

import errno
import logging
import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import MissingPackageError, SourceError
from ..extras import pip_install
from ..image_file import MAX_PIXELS
from .advice import NO_DECODER, Kind, advice_for, no_such_mode, why_no_camera, why_no_file
from .clock import FrameClock
from .formats import OF_A_FILE
from .source import Captured, Frames

_logger = logging.getLogger(__name__)

_DEFAULT_RATE = 25  # frames a second, as FFmpeg assumes of bare H.264
_MAX_RATE = 1000  # FFmpeg takes the ticks of a clock for frames, where it knows no better
# Seconds: in a stream whose clock may jump (MPEG-TS), a longer gap is a jump, as FFmpeg has it.
_LONGEST_GAP = 10.0
_ENOUGH = 3  # packets that a track has which is not a single picture


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """How FFmpeg opens a source; `timeout` is in seconds, for URLs."""

    kind: Kind
    target: str
    options: Mapping[str, str] = field(default_factory=dict)
    timeout: float | None = None
    max_pixels: int = MAX_PIXELS
    """Larger frames are not decoded."""

    def all_options(self) -> dict[str, str]:
        """As FFmpeg takes them; a camera's frames come as large as was requested of it."""
        limit = {} if self.kind == "camera" else {"max_pixels": str(self.max_pixels)}
        return {**limit, **(OF_A_FILE if self.kind == "file" else {}), **self.options}


def import_av() -> Any:
    """PyAV.

    Raises:
        MissingPackageError: it is not installed; the message says how to get it.
    """
    try:
        import av
    except ImportError as error:
        raise MissingPackageError(
            f"Video is read and written by PyAV, which cannot be imported ({error}). "
            f"Install it with: {pip_install('camera')}"
        ) from error
    return av


def frames(name: str, live: bool, opening: Opening) -> Frames:
    """The frames, one after the other; packets that cannot be decoded are left out.

    Raises:
        SourceError: it cannot be opened or read, stalls, or holds no video.
        MissingPackageError: PyAV is not installed.
    """
    av = import_av()
    _check_kind(opening)
    with _wrapped(av, name, opening), _open(av, name, opening) as container:
        stream = _video_of(av, name, opening, container)
        _limit(name, opening, stream)
        if not live:
            stream.thread_type = "AUTO"  # by frames, which would delay a live picture
        yield from _decoded(av, name, opening, container, stream, live)


def _check_kind(opening: Opening) -> None:
    """Whatever it was when it was named: now it is opened."""
    problem = None
    if opening.kind == "camera":
        problem = why_no_camera(opening.target)
    elif opening.kind == "file" and os.path.exists(opening.target):
        problem = why_no_file(opening.target)
    if problem is not None:
        raise SourceError(problem)


@contextmanager
def _wrapped(av: Any, name: str, opening: Opening) -> Iterator[None]:
    try:
        yield
    except av.error.ExitError as error:  # its own way of saying that the time is up
        raise _stalled(name, opening) from error
    except MemoryError as error:
        raise SourceError(_out_of_memory(name)) from error
    except (av.FFmpegError, OSError) as error:
        a_camera = opening.kind == "camera" and opening.options
        if a_camera and getattr(error, "errno", None) == errno.EINVAL:
            raise SourceError(no_such_mode(name)) from error
        raise SourceError(_message(name, opening, error)) from error


def _open(av: Any, name: str, opening: Opening) -> Any:
    begin = time.monotonic()
    try:
        return av.open(
            # Else the name of a file may be taken for a URL.
            f"file:{opening.target}" if opening.kind == "file" else opening.target,
            format="v4l2" if opening.kind == "camera" else None,
            options=opening.all_options(),
            timeout=opening.timeout,
            metadata_errors="replace",  # titles are in whatever encoding; nobody asks for them
        )
    except av.error.InvalidDataError as error:
        # FFmpeg's error for an RTSP server that accepts the connection and then sends nothing.
        if opening.timeout is not None and time.monotonic() - begin >= 0.9 * opening.timeout:
            raise _stalled(name, opening) from error
        raise


def _stalled(name: str, opening: Opening) -> SourceError:
    return SourceError(f"{name} stalled: nothing came for {opening.timeout:g} s.")


def _video_of(av: Any, name: str, opening: Opening, container: Any) -> Any:
    """The track that FFmpeg holds for the best, unless that is a single picture: a cover."""
    kinds = av.stream.Disposition
    pictures = kinds.attached_pic | kinds.timed_thumbnails | kinds.still_image
    tracks = [s for s in container.streams.video if not int(s.disposition) & pictures.value]
    if not tracks:
        covers = len(container.streams.video)
        raise SourceError(f"{name} holds no video{', only a cover picture' if covers else ''}.")
    if len(tracks) == 1:
        return tracks[0]
    best = container.streams.best("video")
    counts = _packets_of(av, name, opening, [track.index for track in tracks])

    def rank(track: Any) -> tuple[bool, int, bool]:
        return track.codec_context is not None, counts[track.index], track.index == best.index

    return max(tracks, key=rank)


def _packets_of(av: Any, name: str, opening: Opening, tracks: list[int]) -> dict[int, int]:
    """How many packets each track has among the first hundred, up to three.

    A file does not tell beforehand, and FFmpeg prefers a cover that stands first. Only a file is
    read twice for it: streams over the network carry no covers.
    """
    counts = dict.fromkeys(tracks, 0)
    if opening.kind != "file":
        return counts
    with _open(av, name, opening) as container:
        videos = [stream for stream in container.streams.video if stream.index in counts]
        for packet in islice(container.demux(videos), 100):
            counts[packet.stream.index] += packet.size > 0
            if min(counts.values()) >= _ENOUGH:
                break
    return {index: min(count, _ENOUGH) for index, count in counts.items()}


def _limit(name: str, opening: Opening, stream: Any) -> None:
    """Have the decoder refuse frames that are too large, which may come midway, too."""
    codec = stream.codec_context
    if codec is None:  # PyAV 17 crashes where it is to decode it
        raise SourceError(f"{name} cannot be read: {NO_DECODER}")
    pixels = codec.width * codec.height
    if pixels > opening.max_pixels:
        raise SourceError(
            f"{name} is too large: {codec.width} x {codec.height} are {pixels:,} pixels, and at "
            f"most {opening.max_pixels:,} are read. Shrink it, or allow it: max_pixels={pixels} "
            "(on the command line: --max-pixels)."
        )
    if opening.kind != "camera":
        codec.options = {"max_pixels": str(opening.max_pixels)}


def _decoded(
    av: Any, name: str, opening: Opening, container: Any, stream: Any, live: bool
) -> Frames:
    damaged = good = 0
    clock = _FileTime(av, container, stream)
    for packet in _in_time(name, opening, container.demux(stream)):
        try:
            decoded = packet.decode()
        except (av.error.InvalidDataError, av.error.ArgumentError) as error:
            damaged += 1
            if damaged == 1:
                _logger.warning(
                    "%s is damaged in places, which are left out: %s", name, error.strerror
                )
            continue
        for frame in decoded:
            good += 1
            yield Captured(
                timestamp=time.time() if live else clock.seconds(frame.time),
                picture=partial(_picture, av, name, opening, frame),
            )
    if not good:
        raise SourceError(
            f"{name} holds no frame that can be decoded: it is empty or damaged, or has frames of "
            f"more than {opening.max_pixels:,} pixels, which only a higher max_pixels allows (on "
            "the command line: --max-pixels)."
        )


class _FileTime:
    """Seconds from the start of a file, which need not be where its clock begins."""

    def __init__(self, av: Any, container: Any, stream: Any) -> None:
        rate = float(stream.average_rate or _DEFAULT_RATE)
        jumps = int(container.format.flags) & av.format.Flags.ts_discont.value
        self._gap = _LONGEST_GAP if jumps else math.inf
        self._clock = FrameClock(
            1 / (rate if 0 < rate <= _MAX_RATE else _DEFAULT_RATE), longest_gap=self._gap
        )
        self._begin = (container.start_time or 0) / av.time_base
        self._origin: float | None = None

    def seconds(self, time: float | None) -> float:
        if time is None:
            return self._clock.next(None)
        if self._origin is None:
            self._origin = self._start_before(time)
        return self._clock.next(time - self._origin)

    def _start_before(self, first: float) -> float:
        """Where the file starts: sound may begin before the picture, and shortly before 0."""
        begin = max(self._begin, 0.0)
        return begin if begin <= first <= begin + self._gap else first


def _in_time(name: str, opening: Opening, packets: Iterator[Any]) -> Iterator[Any]:
    """The packets; a stream that stalls ends with an error, whatever is still handed out then.

    What a demuxer kept back for want of more, as that of MPEG-TS does with the last picture, it
    hands out once the time is up: a picture that is as old as the wait was long.
    """
    while True:
        begin = time.monotonic()
        packet = next(packets, None)
        if packet is None:
            return
        if opening.timeout is not None and time.monotonic() - begin >= opening.timeout:
            raise _stalled(name, opening)
        yield packet


def rgb(frame: Any) -> npt.NDArray[np.uint8]:
    """[H, W, 3] uint8, turned upright as a phone's video asks for."""
    pixels: npt.NDArray[np.uint8] = frame.to_ndarray(format="rgb24")
    quarters = round(frame.rotation / 90) % 4  # counterclockwise
    return np.ascontiguousarray(np.rot90(pixels, quarters)) if quarters else pixels


def _picture(av: Any, name: str, opening: Opening, frame: Any) -> npt.NDArray[np.uint8]:
    with _wrapped(av, name, opening):
        return rgb(frame)


def _out_of_memory(name: str) -> str:
    return (
        f"{name} cannot be read: there is not enough memory for its frames. Close other programs, "
        "or choose a smaller video."
    )


def _message(name: str, opening: Opening, error: Exception) -> str:
    # Not str(error), which repeats the URL, password included.
    what = getattr(error, "strerror", None) or type(error).__name__
    advice = advice_for(opening.kind, opening.target, error)
    return f"{name} cannot be read: {what}. {advice}".rstrip()
