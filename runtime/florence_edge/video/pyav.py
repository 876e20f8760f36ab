"""Frames of files, cameras and network streams through PyAV, which brings FFmpeg's libraries."""

import errno
import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import MissingPackageError, SourceError
from .source import Captured, Frames

_logger = logging.getLogger(__name__)

_DEFAULT_RATE = 25  # frames a second, as FFmpeg assumes of bare H.264

_ADVICE = {
    FileNotFoundError: "Look which cameras there are: ls /dev/video*; or correct the path.",
    PermissionError: "Add yourself to the group that may read it: sudo usermod -aG video $USER",
    ConnectionRefusedError: "Look whether the server runs and the port is right.",
    ValueError: "It is damaged, or not a video that FFmpeg can read.",
}
_NO_CAMERA = "It is a device of another kind than a camera. Look for yours: ls /dev/video*"


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """How FFmpeg opens a source; `timeout` is in seconds, for URLs."""

    target: str
    format: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    timeout: float | None = None


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
            "Install it with: pip install 'florence-edge[camera]'"
        ) from error
    return av


def frames(name: str, live: bool, opening: Opening) -> Frames:
    """The frames, one after the other; packets that cannot be decoded are left out.

    Raises:
        SourceError: it cannot be opened or read, stalls, or holds no video.
        MissingPackageError: PyAV is not installed.
    """
    av = import_av()
    try:
        with _open(av, name, opening) as container:
            if not container.streams.video:
                raise SourceError(f"{name} holds no video.")
            stream = container.streams.video[0]
            if not live:
                stream.thread_type = "AUTO"  # by frames, which would delay a live picture
            yield from _decoded(av, name, opening, container, stream, live)
    except av.error.ExitError as error:  # its own way of saying that the time is up
        raise _stalled(name, opening) from error
    except (av.FFmpegError, OSError) as error:
        if opening.format and opening.options and getattr(error, "errno", None) == errno.EINVAL:
            raise SourceError(_no_such_mode(name)) from error
        raise SourceError(_message(name, error)) from error


def _open(av: Any, name: str, opening: Opening) -> Any:
    begin = time.monotonic()
    try:
        return av.open(
            opening.target,
            format=opening.format,
            options=dict(opening.options),
            timeout=opening.timeout,
        )
    except av.error.InvalidDataError as error:
        # FFmpeg's error for an RTSP server that accepts the connection and then sends nothing.
        if opening.timeout is not None and time.monotonic() - begin >= 0.9 * opening.timeout:
            raise _stalled(name, opening) from error
        raise


def _stalled(name: str, opening: Opening) -> SourceError:
    return SourceError(f"{name} stalled: nothing came for {opening.timeout:g} s.")


def _decoded(
    av: Any, name: str, opening: Opening, container: Any, stream: Any, live: bool
) -> Frames:
    damaged = good = 0
    rate = float(stream.average_rate or _DEFAULT_RATE)  # where frames carry no time of their own
    for packet in _in_time(name, opening, container.demux(stream)):
        try:
            decoded = packet.decode()
        except av.error.InvalidDataError as error:
            damaged += 1
            if damaged == 1:
                _logger.warning("%s is damaged in places, which are left out: %s", name, error)
            continue
        for frame in decoded:
            seconds = good / rate if frame.time is None else float(frame.time)
            good += 1
            yield Captured(timestamp=time.time() if live else seconds, picture=partial(rgb, frame))
    if not good:
        raise SourceError(f"{name} holds no frame that can be decoded.")


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


def _no_such_mode(name: str) -> str:
    return (
        f"{name} does not have the size, rate or format that was requested. List those it has: "
        f"v4l2-ctl --list-formats-ext -d {name}"
    )


def _message(name: str, error: Exception) -> str:
    # Not str(error), which repeats the URL, password included.
    what = getattr(error, "strerror", None) or type(error).__name__
    advice = next((text for kind, text in _ADVICE.items() if isinstance(error, kind)), "")
    if getattr(error, "errno", None) == errno.ENOTTY:
        advice = _NO_CAMERA
    return f"{name} cannot be read: {what}. {advice}".rstrip()
