"""Which source a user means by `0`, a URL, a path, a pipeline or pictures."""

import re
import time
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import TypeAlias

from ..errors import SourceError
from ..pictures import PictureLike
from . import gstreamer, libav
from .source import Captured, Frames, Source

SourceLike: TypeAlias = "int | str | Path | Iterable[PictureLike]"

_VIDEO_SUFFIXES = (".mp4", ".mkv", ".mov", ".avi", ".webm", ".m4v", ".ts")


def source_of(wanted: SourceLike, *, live: bool | None = None, timeout: float = 10.0) -> Source:
    """The source that a user means.

    Args:
        wanted: a camera's number or `/dev/video0`; a URL (rtsp, http, udp, ...); a GStreamer
            pipeline, which is told by its ` ! `; the path of a video; or any iterable of pictures.
        live: None decides by the kind: cameras, pipelines and URLs that name no video file are
            live, files and iterables are not.
        timeout: seconds without data after which a URL counts as lost.

    Raises:
        SourceError: there is no such file.
    """
    if isinstance(wanted, bytes) or not isinstance(wanted, int | str | Path | Iterable):
        raise SourceError(
            f"A source is a camera's number, a URL, a path, a pipeline or pictures, got {wanted!r}."
        )
    if not isinstance(wanted, int | str | Path):
        return _from_pictures(wanted, bool(live))
    text = str(wanted).strip()
    if re.fullmatch(r"\d+|/dev/video\d+", text):
        device = f"/dev/video{text}" if text.isdigit() else text
        return _from(device, live is not False, libav.Opening(target=device, format="v4l2"))
    if " ! " in text:
        frames = gstreamer.frames_of(text, timeout, live=live is not False)
        return Source(name="the pipeline", live=live is not False, endless=False, frames=frames)
    if "://" in text:
        a_file = text.split("?")[0].lower().endswith(_VIDEO_SUFFIXES)
        over_tcp = {"rtsp_transport": "tcp"} if text.startswith("rtsp") else {}
        opening = libav.Opening(target=text, options=over_tcp, timeout=timeout)
        return _from(_without_password(text), live if live is not None else not a_file, opening)
    if not Path(text).is_file():
        raise SourceError(
            f"There is no file {text}. A source is a camera's number, a URL such as rtsp://..., "
            "the path of a video, or a GStreamer pipeline ('... ! ... ! appsink')."
        )
    return _from(text, bool(live), libav.Opening(target=text))


def _from(name: str, live: bool, opening: libav.Opening) -> Source:
    return Source(
        name=name, live=live, endless=live, frames=lambda: libav.frames(name, live, opening)
    )


def _from_pictures(pictures: Iterable[PictureLike], live: bool) -> Source:
    def frames() -> Frames:
        begin = time.monotonic()
        for picture in pictures:
            timestamp = time.time() if live else time.monotonic() - begin
            yield Captured(timestamp=timestamp, picture=partial(_itself, picture))

    return Source(name="the pictures", live=live, endless=False, frames=frames)


def _itself(picture: PictureLike) -> PictureLike:
    return picture


def _without_password(url: str) -> str:
    return re.sub(r"(://[^/@:]*):[^/]*@", r"\1:***@", url)
