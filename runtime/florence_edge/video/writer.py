"""Writing a video: to a temporary name first, so that what was there stays until it is finished."""

import errno
import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from fractions import Fraction
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from ..errors import FlorenceEdgeError, RequestError
from ..files import (
    lock,
    open_plain,
    put_in_place,
    synced_while_it_grows,
    unfinished_name,
)
from .clock import FrameClock
from .formats import OF_A_FILE
from .pyav import import_av

logger = logging.getLogger(__name__)

_TICKS = 1000  # a second: frames keep their own times, which a live source does not space evenly
_SPACING = 1 / 25  # seconds between two frames, where their times do not say it
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
        self._unfinished = unfinished_name(path.resolve())
        self._syncing = ExitStack()  # open while the file is brought to the disk as it grows
        self._synced = False
        self._container: Any = None
        self._stream: Any = None
        self._first = 0.0
        self._last = -1
        self._clock = FrameClock(_SPACING)

    def write(self, image: Image.Image, timestamp: float) -> None:
        """Append a frame; one of another size is fitted into that of the first.

        `timestamp` is in seconds, from wherever. Where it does not grow, as at a seam, the frames
        go on at the spacing that they had.

        Raises:
            FlorenceEdgeError: the disk is full, or the file cannot be written.
        """
        with self._wrapped():
            if self._stream is None:
                self._open(image, timestamp)
            size = (self._stream.width, self._stream.height)
            frame = self._av.VideoFrame.from_ndarray(_fitted(image, size), format="rgb24")
            # Times must grow, even where the source's do not, and by a tick at least.
            seconds = self._clock.next(timestamp - self._first)
            self._last = max(self._last + 1, round(seconds * _TICKS))
            frame.pts, frame.time_base = self._last, Fraction(1, _TICKS)
            self._container.mux(self._stream.encode(frame))
            self._sync_beside()

    def _sync_beside(self) -> None:
        """From when FFmpeg has made the file of a live source on: it can be played as it grows."""
        if self._live and not self._synced and self._unfinished.exists():
            file = self._syncing.enter_context(open_plain(self._unfinished))
            self._syncing.enter_context(synced_while_it_grows(file, self.path))
            self._synced = True

    def finish(self) -> None:
        """Complete the file and give it its name; without a frame there is none."""
        if self._container is None:
            return
        with self._wrapped():
            self._container.mux(self._stream.encode(None))
            self._container.close()
            self._syncing.close()
            put_in_place(self._unfinished, self.path.resolve())
            self._container = None

    def discard(self) -> None:
        """Leave nothing of an unfinished file; what a live source gave is kept under its own name.

        A live source cannot be read again, and its file can be played as far as it goes.
        """
        if self._container is not None:
            container, self._container = self._container, None
            with suppress(self._av.FFmpegError, OSError):  # a full disk a second time
                container.close()
        with suppress(FlorenceEdgeError):
            self._syncing.close()
        if self._live:
            _keep(self._unfinished, self.path)
        self._unfinished.unlink(missing_ok=True)

    def _open(self, image: Image.Image, timestamp: float) -> None:
        self._first, codec = timestamp, self._codec()
        fragments = {"flush_packets": "1", **_FRAGMENTS[self.path.suffix.lower()]}
        options = fragments if self._live else {}
        self._container = self._av.open(str(self._unfinished), "w", options=options)
        stream = self._container.add_stream(codec, rate=30)
        if self._live and stream.codec_context.name == "libx264":
            stream.options = {"tune": "zerolatency"}  # else it holds back some 50 frames
        stream.width, stream.height = (side + side % 2 for side in image.size)  # even, for yuv420p
        stream.pix_fmt = "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, _TICKS)
        self._stream = stream

    def _codec(self) -> str:
        for name in _CODECS:
            if name in self._av.codecs_available:
                return name
        raise FlorenceEdgeError(
            f"{self.path} cannot be written: this FFmpeg has no encoder of {', '.join(_CODECS)}. "
            "Install PyAV's own: pip install --force-reinstall --only-binary av av"
        )

    @contextmanager
    def _wrapped(self) -> Iterator[None]:
        try:
            yield
        except (self._av.FFmpegError, OSError, MemoryError) as error:
            self.discard()
            what = getattr(error, "strerror", None) or str(error) or "there is not enough memory"
            raise FlorenceEdgeError(
                f"Cannot write {self.path}: {what}. What was there before is untouched. "
                f"{_advice_for(error)}"
            ) from error


@contextmanager
def open_writer(path: Path, live: bool = False) -> Iterator[VideoWriter]:
    """A video that is finished at the end, also where the source fails or a user stops it.

    That of a `live` source is written second by second: should the process be killed or the board
    lose its power, `.NAME.unfinished.mp4` can be played up to a second or two before. The next
    writer of the same name keeps it, as `NAME.unfinished-1.mp4`, and that is logged.

    Raises:
        RequestError: the name is not that of a video, or another process is writing it.
        MissingPackageError: PyAV is not installed.
        FlorenceEdgeError: the file cannot be written.
    """
    new = VideoWriter(path, live)
    with ExitStack() as stack:
        try:
            stack.enter_context(lock(path))
            _keep(unfinished_name(path.resolve()), path)
        except OSError as error:
            raise FlorenceEdgeError(
                f"Cannot write {path}: {error.strerror}. Choose another --save."
            ) from error
        try:
            yield new
        finally:
            try:
                new.finish()
            finally:
                new.discard()


def _keep(unfinished: Path, path: Path) -> None:
    """Give a name to what a writer that was cut off had saved, if it can be played."""
    if not unfinished.is_file():
        return
    av = import_av()
    try:
        with av.open(f"file:{unfinished}", options=dict(OF_A_FILE)) as container:
            next(container.decode(video=0))
    except (av.FFmpegError, OSError, IndexError, StopIteration):  # without its index, or empty
        unfinished.unlink()
        return
    names = (f"{path.stem}.unfinished-{number}{path.suffix}" for number in count(1))
    kept = next(place for place in map(unfinished.with_name, names) if not place.exists())
    unfinished.rename(kept)
    logger.warning("A run was cut off while it saved %s: what it had is %s.", path, kept)


def _advice_for(error: Exception) -> str:
    number = getattr(error, "errno", None)
    if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return "Make room or choose another --save."
    if isinstance(error, MemoryError):
        return "Close other programs, or let the source give smaller frames."
    if isinstance(error, OSError):
        return "Choose another --save."
    return "The encoder does not take frames of this size; let the source give others."


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
