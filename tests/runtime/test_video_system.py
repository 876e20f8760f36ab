"""What the system brings: GStreamer, an RTSP server, a display. Skipped where it does not.

sudo apt install python3-gi gstreamer1.0-plugins-{base,good,ugly} gir1.2-gst-plugins-base-1.0 \
    gir1.2-gst-rtsp-server-1.0 xvfb, and a virtual environment with --system-site-packages.
"""

import itertools
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import IO

import numpy as np
import pytest

pytest.importorskip("av")

from florence_edge.errors import SourceError
from florence_edge.video.capture import Latest, Waiting
from florence_edge.video.sources import source_of

from .videos import served, write_stream

pytestmark = pytest.mark.filterwarnings("ignore:DynamicImporter:ImportWarning")  # gi's own


def require_gst(*more: str) -> None:
    gi = pytest.importorskip("gi", reason="this Python has no gi")
    for name in ("Gst", *more):
        try:
            gi.require_version(name, "1.0")
        except ValueError:
            pytest.skip(f"gi has no {name} here")


def require_elements(*names: str) -> None:
    from gi.repository import Gst

    Gst.init(None)
    for name in names:
        if Gst.ElementFactory.find(name) is None:
            pytest.skip(f"GStreamer has no {name} here (plugins-good, plugins-bad, libav)")


def test_a_pipeline_gives_every_frame_with_its_padding_removed() -> None:
    require_gst()
    pipeline = "videotestsrc num-buffers=30 pattern=red ! video/x-raw,width=321,height=24"
    frames = source_of(pipeline, live=False).frames()
    pixels = [np.asarray(captured.picture()) for captured in frames]
    assert len(pixels) == 30
    assert {each.shape for each in pixels} == {(24, 321, 3)}
    assert np.abs(pixels[-1].reshape(-1, 3).astype(int) - [255, 0, 0]).max() <= 2


def test_a_live_pipeline_gives_the_newest_frame() -> None:
    require_gst()
    frames = source_of("videotestsrc num-buffers=90 ! video/x-raw,width=8,height=8").frames()
    next(frames)
    time.sleep(0.5)
    assert len(list(frames)) < 80


@pytest.mark.parametrize(
    ("pipeline", "message"),
    [
        ("filesrc location=/no/such.mp4 ! decodebin", r"failed: Resource not found"),
        ("nosuchsrc ! fakesink", r'does not understand .* no element "nosuchsrc"'),
        ("appsrc ! video/x-raw,format=RGB,width=4,height=4,framerate=1/1", r"stalled: .* 0\.5 s"),
    ],
)
def test_a_pipeline_that_fails_says_so_soon(pipeline: str, message: str) -> None:
    require_gst()
    begin = time.monotonic()
    with pytest.raises(SourceError, match=message):
        list(source_of(pipeline, timeout=0.5).frames())
    assert time.monotonic() - begin < 5


HLS = "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{}\n#EXT-X-ENDLIST\n"


@pytest.mark.parametrize(
    "pipeline", ["filesrc location={} ! decodebin", "uridecodebin uri=file://{} ! videoconvert"]
)
def test_a_playlist_does_not_lead_a_pipeline_to_other_files(tmp_path: Path, pipeline: str) -> None:
    require_gst()
    require_elements("hlsdemux", "avdec_mpeg2video")
    secret = write_stream(tmp_path / "secret.ts", *(n / 10 for n in range(5)))
    playlist = tmp_path / "list.m3u8"
    playlist.write_text(HLS.format(f"file://{secret}"))
    assert len(list(source_of(pipeline.format(secret), live=False).frames())) > 0
    with pytest.raises(SourceError, match=r"a playlist that leads to file:///.*secret\.ts"):
        list(source_of(pipeline.format(playlist), live=False).frames())


def test_a_playlist_may_lead_a_pipeline_over_http(tmp_path: Path) -> None:
    require_gst()
    require_elements("hlsdemux", "avdec_mpeg2video", "souphttpsrc")
    write_stream(tmp_path / "a.ts", *(n / 10 for n in range(5)))
    (tmp_path / "list.m3u8").write_text(HLS.format("a.ts"))
    with served(tmp_path) as url:
        pipeline = f"uridecodebin uri={url}/list.m3u8 ! videoconvert"
        assert len(list(source_of(pipeline, live=False).frames())) > 0


SERVER = """
import sys, gi
gi.require_version("Gst", "1.0"); gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer
Gst.init(None)
server, factory = GstRtspServer.RTSPServer(), GstRtspServer.RTSPMediaFactory()
server.set_service(sys.argv[1])
factory.set_launch("( videotestsrc is-live=true ! video/x-raw,format=I420,width=160,height=120,"
    "framerate=10/1 ! jpegenc ! rtpjpegpay name=pay0 pt=26 )")
server.get_mount_points().add_factory("/stream", factory)
server.attach(None)
print("ready", flush=True)
GLib.MainLoop().run()
"""


@contextmanager
def rtsp_server(port: int) -> Iterator[None]:
    command = [sys.executable, "-c", SERVER, str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        try:
            assert line_of(process.stdout) == "ready"
            yield
        finally:
            process.kill()


def line_of(stream: IO[bytes] | None) -> str:
    assert stream is not None
    return stream.readline().decode().strip()


@pytest.mark.parametrize(
    "wanted",
    [
        "rtsp://user:secret@127.0.0.1:{port}/stream",
        "rtspsrc location=rtsp://127.0.0.1:{port}/stream protocols=tcp ! rtpjpegdepay ! jpegdec",
    ],
)
def test_an_rtsp_server_may_die_and_come_back(wanted: str) -> None:
    require_gst("GstRtspServer")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    source = source_of(wanted.format(port=port), timeout=5)
    waiting = Waiting(patience=30, cancel=threading.Event())
    latest = Latest(source, every=1, waiting=waiting)
    with rtsp_server(port):
        latest.__enter__()
        try:
            first = [index for index, _ in itertools.islice(latest, 2)]
        except BaseException:
            latest.__exit__()
            raise
    try:
        with rtsp_server(port):
            frames = iter(latest)
            while latest.reconnects == 0:
                index, captured = next(frames)
        assert index > first[-1]
        assert np.asarray(captured.picture()).shape == (120, 160, 3)
    finally:
        latest.__exit__()


SHOWING = """
import sys
from PIL import Image
from florence_edge.video.display import open_window
show = open_window()
for _ in range(20):
    assert show(Image.new("RGB", (300, 200), (250, 120, 10)))
print("shown", flush=True)
while show(Image.new("RGB", (300, 200), (250, 120, 10))):
    pass
"""


@pytest.fixture
def display(tmp_path: Path) -> Iterator[str]:
    if shutil.which("Xvfb") is None:
        pytest.skip("Xvfb is not installed")
    command = ["Xvfb", "-displayfd", "1", "-screen", "0", "640x480x24", "-nolisten", "tcp"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        yield f":{line_of(process.stdout)}"
        process.terminate()


def test_a_window_shows_the_frame_in_its_colours_and_size(display: str) -> None:
    if find_spec("cv2") is None and (find_spec("tkinter") is None or find_spec("_tkinter") is None):
        pytest.skip("this Python has neither cv2 nor tkinter")
    grab = pytest.importorskip("PIL.ImageGrab").grab
    environment = {**os.environ, "DISPLAY": display, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", SHOWING]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
    ) as process:
        try:
            assert line_of(process.stdout) == "shown"
            screen = np.asarray(grab(xdisplay=display).convert("RGB")).astype(int)
        finally:
            process.kill()
    shown = np.abs(screen - [250, 120, 10]).max(axis=2) <= 2
    assert shown.sum() == pytest.approx(300 * 200, rel=0.02)
