"""Small videos and cameras, made for the tests."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt

from florence_edge.errors import SourceError
from florence_edge.video.source import Captured, Frames, Source
from florence_edge.video.sources import source_of

Array = npt.NDArray[np.uint8]
SIZE = (64, 48)


def picture(number: int, size: tuple[int, int] = SIZE) -> Array:
    """A plain picture whose grey tells its number."""
    return np.full((size[1], size[0], 3), 10 + 20 * number % 240, dtype=np.uint8)


def number_of(pixels: Array) -> int:
    """The number that `picture` was given, through a lossy codec too."""
    return round((float(pixels.mean()) - 10) / 20)


def numbers(source: Path | str, **options: Any) -> list[int]:
    """The numbers of all frames of a source, none of which is left out as a camera's may be."""
    options = {"live": False, **options}
    return [number_of(np.asarray(c.picture())) for c in source_of(source, **options).frames()]


def write_video(
    path: Path,
    frames: int,
    *,
    size: tuple[int, int] = SIZE,
    codec: str = "mpeg4",
    kind: str | None = None,
) -> Path:
    """A video at 10 frames a second."""
    with av.open(str(path), "w", format=kind) as container:
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(picture(number, size), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def write_stream(path: Path, *times: float) -> Path:
    """MPEG-TS with a picture at each of these seconds, also where they fall back."""
    whole = b""
    for number, time in enumerate(times):  # a part each, since a muxer wants times that grow
        encoder = av.CodecContext.create("mpeg2video", "w")
        encoder.width, encoder.height, encoder.pix_fmt = *SIZE, "yuv420p"
        encoder.time_base, encoder.framerate = Fraction(1, 25), Fraction(25)
        frame = av.VideoFrame.from_ndarray(picture(number % 10), format="rgb24")
        with av.open(str(path), "w", format="mpegts") as container:
            stream = container.add_stream("mpeg2video", rate=25)
            stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
            for packet in (*encoder.encode(frame), *encoder.encode(None)):
                packet.stream, packet.time_base = stream, Fraction(1, 90000)
                packet.pts = packet.dts = round(time * 90000)
                container.mux(packet)
        whole += path.read_bytes()
    path.write_bytes(whole)
    return path


def read_video(path: Path) -> list[tuple[float, Array]]:
    """Times and pictures."""
    with av.open(str(path)) as container:
        return [(f.time or 0.0, f.to_ndarray(format="rgb24")) for f in container.decode(video=0)]


class Camera:
    """A live source whose frames come when the test says so; None in a script is a lost stream."""

    def __init__(self, *scripts: Sequence[Array], name: str = "the camera") -> None:
        self.opened = 0
        self.closed = 0
        self.given = 0
        self.go_on = threading.Semaphore(0)
        self.hangs = threading.Event()
        self._name = name
        self._scripts = scripts

    @property
    def source(self) -> Source:
        return Source(name=self._name, live=True, endless=True, frames=self._frames)

    def _frames(self) -> Frames:
        self.opened += 1
        if self.opened > len(self._scripts):
            raise SourceError(f"{self._name} cannot be read: gone.")
        try:
            for pixels in self._scripts[self.opened - 1]:
                self.go_on.acquire(timeout=5)
                self.given += 1
                yield Captured(timestamp=float(self.given), picture=pixels.copy)
        finally:
            self.closed += 1


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """A folder over HTTP: the URL."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
