"""The source that a user means by `0`, a URL, a path, a pipeline or pictures."""

import os
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeAlias
from urllib.parse import unquote_to_bytes

from ..errors import RequestError, SourceError, SourceNotFoundError
from ..image import ImageLike
from ..image_file import MAX_PIXELS, Color, check_color
from . import gstreamer, pyav
from .advice import why_no_file
from .formats import SCHEMES, protocols_of
from .redact import without_secrets
from .source import Captured, Frames, Source

SourceLike: TypeAlias = "int | str | Path | Iterable[ImageLike]"

_SCHEME = r"[A-Za-z][A-Za-z0-9+.-]*://"
_OF_A_FILE = re.compile(r"file:(//(localhost)?)?(?=/)", re.IGNORECASE)
_VIDEO_SUFFIXES = (".mp4", ".mkv", ".mov", ".avi", ".webm", ".m4v", ".ts")


@dataclass(frozen=True, slots=True, kw_only=True)
class CameraMode:
    """What is requested of a v4l2 camera; the driver takes the nearest size and rate it has."""

    size: tuple[int, int] | None = None
    """Width and height."""
    fps: float | None = None
    format: str | None = None
    """FFmpeg's name of what it sends: mjpeg, yuyv422, h264, ..."""

    def options(self) -> dict[str, str]:
        """As FFmpeg's v4l2 input takes it."""
        size = f"{self.size[0]}x{self.size[1]}" if self.size else None
        fps = f"{self.fps:g}" if self.fps else None
        options = {"video_size": size, "framerate": fps, "input_format": self.format}
        return {name: value for name, value in options.items() if value}


_ANY_MODE = CameraMode()


def source_of(
    source: SourceLike,
    *,
    live: bool | None = None,
    timeout: float = 10.0,
    mode: CameraMode = _ANY_MODE,
    max_pixels: int = MAX_PIXELS,
    color: Color = "rgb",
) -> Source:
    """The source that a user means.

    Args:
        source: a camera's number or a device (`/dev/video0`, `/dev/v4l/by-id/...`); a URL (rtsp,
            http, udp, ...); a GStreamer pipeline, recognised by its `!`; the path of a video
            (also as file:///...); or any iterable of pictures.
        live: None decides by the kind: cameras, pipelines and URLs that name no video file are
            live, files and iterables are not.
        timeout: seconds without data after which a URL counts as lost.
        mode: size, rate and format, of a camera alone.
        max_pixels: larger frames of files and URLs are not decoded.
        color: the order of channels of pictures that are arrays; other sources know theirs.

    Raises:
        SourceNotFoundError: there is no such file.
        SourceError: what is there is not a file: a folder, a pipe, a device.
        RequestError: it is not a source, a mode is requested of something else than a camera, or
            there is no such order of channels.
    """
    check_color(color)
    text = str(source).strip() if isinstance(source, int | str | Path) else ""
    a_camera = text.isdigit() or _is_device(text)
    if mode.options() and not a_camera:
        raise RequestError(
            "Size, rate and format can be requested of a camera (a number or /dev/...) alone; put "
            "them into the pipeline, or set them in the camera that the URL is of."
        )
    if isinstance(source, bytes | bool) or not isinstance(source, int | str | Path | Iterable):
        raise RequestError(
            "A source is a camera's number, a URL, a path, a pipeline or pictures, got "
            f"{without_secrets(repr(source))}."
        )
    if not isinstance(source, int | str | Path):
        return replace(_from_pictures(source, bool(live)), color=color)
    if a_camera:
        device = f"/dev/video{text}" if text.isdigit() else text
        opening = pyav.Opening(kind="camera", target=device, options=mode.options())
        return _from(device, live is not False, opening)
    if _is_pipeline(text):
        spaced = text if " ! " in text else " ! ".join(text.split("!"))  # as GStreamer needs it
        frames = gstreamer.frames_of(spaced, timeout, live=live is not False)
        return Source(name="the pipeline", live=live is not False, endless=False, frames=frames)
    if found := _OF_A_FILE.match(text):
        text = os.fsdecode(unquote_to_bytes(text[found.end() :]))
    elif re.match(_SCHEME, text):
        return _from_url(text, live, timeout, max_pixels)
    return _from_file(text, bool(live), max_pixels)


def _from_url(url: str, live: bool | None, timeout: float, max_pixels: int) -> Source:
    name = without_secrets(_with_lowercase_scheme(url))
    protocols = protocols_of(scheme := url.partition("://")[0].lower())
    if protocols is None:
        raise RequestError(
            f"{name} begins with {scheme}://, which is not read. Expected a URL of one of "
            f"{', '.join(SCHEMES)}; or the path of a video."
        )
    options = {"protocol_whitelist": protocols}
    if scheme.startswith("rtsp"):
        options["rtsp_transport"] = "tcp"
    a_file = url.split("?")[0].lower().endswith(_VIDEO_SUFFIXES)
    opening = pyav.Opening(
        kind="stream",
        target=_with_lowercase_scheme(url),
        options=options,
        timeout=timeout,
        max_pixels=max_pixels,
    )
    return _from(name, live if live is not None else not a_file, opening)


def _from_file(path: str, live: bool, max_pixels: int) -> Source:
    if not os.path.exists(path):
        raise SourceNotFoundError(
            f"There is no file {without_secrets(path)}. A source is a camera's number, a URL such "
            "as rtsp://..., the path of a video, or a GStreamer pipeline ('... ! ... ! appsink')."
        )
    if (problem := why_no_file(path)) is not None:
        raise SourceError(problem)
    opening = pyav.Opening(kind="file", target=path, max_pixels=max_pixels)
    return replace(_from(path, live, opening), file=Path(path))


def names_frames(text: str) -> bool:
    """Whether a word means a camera or a video, beside words that mean pictures.

    A number and a device are cameras unless there is a picture of that name; so is what `source_of`
    takes for a URL or a pipeline. Of files, the suffix decides.
    """
    if _is_device(text) or text.lower().endswith(_VIDEO_SUFFIXES):
        return True
    if os.path.exists(text):
        return False
    return text.isdigit() or _is_pipeline(text) or re.match(_SCHEME, text) is not None


def _is_device(text: str) -> bool:
    """Also one that is not there yet: udev makes such names when the camera is plugged in."""
    if not text.startswith("/dev/") or "!" in text:
        return False
    a_file = os.path.isfile(text) or text.lower().endswith(_VIDEO_SUFFIXES)
    return not a_file


def _is_pipeline(text: str) -> bool:
    if " ! " in text:
        return True
    return "!" in text and not re.match(_SCHEME, text) and not os.path.isfile(text)


def _with_lowercase_scheme(url: str) -> str:
    """FFmpeg knows rtsp://, and not RTSP://."""
    return re.sub(_SCHEME, lambda scheme: scheme[0].lower(), url)


def _from(name: str, live: bool, opening: pyav.Opening) -> Source:
    return Source(
        name=name, live=live, endless=live, frames=lambda: pyav.frames(name, live, opening)
    )


def _from_pictures(pictures: Iterable[ImageLike], live: bool) -> Source:
    def frames() -> Frames:
        begin = time.monotonic()
        for picture in pictures:
            timestamp = time.time() if live else time.monotonic() - begin
            yield Captured(timestamp=timestamp, picture=partial(_itself, picture))

    return Source(name="the pictures", live=live, endless=False, frames=frames)


def _itself(picture: ImageLike) -> ImageLike:
    return picture
