"""Writing a video: to a temporary name first, so that what was there stays until it is finished."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from ..errors import FlorenceEdgeError, RequestError
from .pyav import import_av

_TICKS = 1000  # a second: frames keep their own times, which a live source does not space evenly
_CODECS = ("libx264", "h264_v4l2m2m", "mpeg4")  # the first that this FFmpeg has
# Of a live source, a second at a time is written (in microseconds or milliseconds), each piece of
# an mp4 with its own index; otherwise one index for all frames is written at the end.
_MP4 = {"movflags": "empty_moov+default_base_moof", "frag_duration": "1000000"}
_FRAGMENTS = {".mp4": _MP4, ".mov": _MP4, ".mkv": {"cluster_time_limit": "1000"}}
_SUFFIXES = (".mp4", ".mkv", ".mov")


class VideoWriter:
    """A video that is being written; all its frames have the size of the first."""

    def __init__(self, path: Path, live: bool = False) -> None:
        if path.suffix.lower() not in _SUFFIXES:
            raise RequestError(
                f"{path} is not the name of a video; expected one of {', '.join(_SUFFIXES)}."
            )
        self.path = path
        self._live = live
        self._av = import_av()
        self._unfinished = path.with_name(f".{path.stem}.unfinished{path.suffix}")
        self._container: Any = None
        self._stream: Any = None
        self._first = 0.0
        self._last = -1

    def write(self, image: Image.Image, timestamp: float) -> None:
        """Append a frame; one of another size is fitted into that of the first.

        Raises:
            FlorenceEdgeError: the disk is full, or the file cannot be written.
        """
        with self._wrapped():
            if self._stream is None:
                self._open(image, timestamp)
            size = (self._stream.width, self._stream.height)
            frame = self._av.VideoFrame.from_ndarray(_fitted(image, size), format="rgb24")
            # Times must grow, even where the source's do not.
            self._last = max(self._last + 1, round((timestamp - self._first) * _TICKS))
            frame.pts, frame.time_base = self._last, Fraction(1, _TICKS)
            self._container.mux(self._stream.encode(frame))

    def finish(self) -> None:
        """Complete the file and give it its name; without a frame there is none."""
        if self._container is None:
            return
        with self._wrapped():
            self._container.mux(self._stream.encode(None))
            self._container.close()
            self._unfinished.replace(self.path)
            self._container = None

    def discard(self) -> None:
        """Leave nothing of an unfinished file."""
        if self._container is not None:
            container, self._container = self._container, None
            with suppress(self._av.FFmpegError, OSError):  # a full disk a second time
                container.close()
        self._unfinished.unlink(missing_ok=True)

    def _open(self, image: Image.Image, timestamp: float) -> None:
        self._first = timestamp
        fragments = {"flush_packets": "1", **_FRAGMENTS[self.path.suffix.lower()]}
        options = fragments if self._live else {}
        self._container = self._av.open(str(self._unfinished), "w", options=options)
        stream = self._container.add_stream(self._codec(), rate=30)
        if self._live and stream.codec_context.name == "libx264":
            stream.options = {"tune": "zerolatency"}  # else it holds back some 50 frames
        stream.width, stream.height = (side + side % 2 for side in image.size)  # even, for yuv420p
        stream.pix_fmt = "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, _TICKS)
        self._stream = stream

    def _codec(self) -> str:
        return next(name for name in _CODECS if name in self._av.codecs_available)

    @contextmanager
    def _wrapped(self) -> Iterator[None]:
        try:
            yield
        except (self._av.FFmpegError, OSError) as error:
            self.discard()
            what = getattr(error, "strerror", None) or str(error)
            raise FlorenceEdgeError(
                f"Cannot write {self.path}: {what}. What was there before is untouched. Make room "
                "or choose another --save."
            ) from error


@contextmanager
def open_writer(path: Path, live: bool = False) -> Iterator[VideoWriter]:
    """A video that is finished at the end, also where the source fails or a user stops it.

    That of a `live` source is written second by second: should the process be killed or the board
    lose its power, `.NAME.unfinished.mp4` can be played up to there.

    Raises:
        RequestError: the name is not that of a video.
        MissingPackageError: PyAV is not installed.
        FlorenceEdgeError: the file cannot be written.
    """
    new = VideoWriter(path, live)
    try:
        yield new
    finally:
        try:
            new.finish()
        finally:
            new.discard()


def _fitted(image: Image.Image, size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """[H, W, 3] uint8: the picture as it is, or as large as fits on black."""
    if image.size == size:
        return np.asarray(image)
    ground = Image.new("RGB", size)
    if size[0] - image.width not in (0, 1) or size[1] - image.height not in (0, 1):
        share = min(size[0] / image.width, size[1] / image.height)
        image = image.resize(
            (max(1, round(image.width * share)), max(1, round(image.height * share)))
        )
    ground.paste(image, ((size[0] - image.width) // 2, (size[1] - image.height) // 2))
    return np.asarray(ground)
