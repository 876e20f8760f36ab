"""Which source of frames is meant; cameras and streams that are absent, stall or are refused."""

import builtins
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from florence_edge.errors import MissingPackageError, RequestError, SourceError, SourceNotFoundError
from florence_edge.video import pyav
from florence_edge.video.sources import CameraMode, source_of

from .videos import number_of, numbers, picture, served, write_video

# Which source is meant.


@pytest.mark.parametrize(
    ("wanted", "name", "live"),
    [
        (0, "/dev/video0", True),
        ("1", "/dev/video1", True),
        ("/dev/video2", "/dev/video2", True),
        ("rtsp://10.0.0.1/stream", "rtsp://10.0.0.1/stream", True),
        ("rtsp://me:pass:word@10.0.0.1/a", "rtsp://me:***@10.0.0.1/a", True),
        ("http://host/video.mp4?x=1", "http://host/video.mp4?x=1", False),
        ("http://host/mjpeg", "http://host/mjpeg", True),
        ("udp://@:5000", "udp://@:5000", True),
        ("v4l2src ! videoconvert ! appsink", "the pipeline", True),
        ("v4l2src!videoconvert", "the pipeline", True),
        ("filesrc location=/dev/shm/a.mp4!decodebin", "the pipeline", True),
        ("/dev/v4l/by-id/usb-cam-index0", "/dev/v4l/by-id/usb-cam-index0", True),
        ("/dev/camera_front", "/dev/camera_front", True),
        ("rtsp://me:pa/ss@10.0.0.1/a", "rtsp://me:***@10.0.0.1/a", True),
        ("RTSP://me:Word!@Host/A", "rtsp://me:***@Host/A", True),
    ],
)
def test_a_source_is_told_by_its_looks(wanted: int | str, name: str, live: bool) -> None:
    source = source_of(wanted)
    assert (source.name, source.live) == (name, live)


def test_a_file_is_read_frame_by_frame_unless_it_is_to_be_treated_as_a_camera(
    tmp_path: Path,
) -> None:
    path = write_video(tmp_path / "a.mp4", 2)
    assert not source_of(path).live
    assert source_of(str(path), live=True).live


def test_pictures_of_ones_own_are_a_source() -> None:
    source = source_of([picture(1), picture(2)])
    assert not source.live
    assert [number_of(np.asarray(c.picture())) for c in source.frames()] == [1, 2]


@pytest.mark.parametrize("wanted", [3.5, b"0", None, True])
def test_what_is_no_source_is_refused(wanted: Any) -> None:
    with pytest.raises(RequestError, match="A source is a camera's number"):
        source_of(wanted)


def test_a_missing_file_is_named_with_what_could_be_meant(tmp_path: Path) -> None:
    with pytest.raises(SourceNotFoundError, match=r"no file .*gone\.mp4\. A source is a camera"):
        source_of(tmp_path / "gone.mp4")


# Cameras and streams.


def test_a_camera_that_is_not_there_is_named_with_the_command_that_lists_them() -> None:
    with pytest.raises(SourceError, match=r"/dev/video77 cannot be read: .*ls /dev/video"):
        next(source_of(77).frames())


def test_a_camera_is_asked_for_its_mode_in_ffmpegs_words(monkeypatch: pytest.MonkeyPatch) -> None:
    import av

    asked: list[dict[str, Any]] = []

    def refuse(target: str, **how: Any) -> None:
        asked.append(how)
        raise av.error.ArgumentError(22, "Invalid argument")

    monkeypatch.setattr(av, "open", refuse)
    mode = CameraMode(size=(1280, 720), fps=30, format="mjpeg")
    with pytest.raises(SourceError, match="v4l2-ctl --list-formats-ext -d /dev/video0"):
        next(source_of(0, mode=mode).frames())
    assert asked[0]["format"] == "v4l2"
    assert asked[0]["options"] == {
        "video_size": "1280x720",
        "framerate": "30",
        "input_format": "mjpeg",
    }


def test_a_device_of_another_kind_says_so() -> None:
    with pytest.raises(SourceError, match=r"/dev/null cannot be read: .* kind than a camera"):
        next(source_of("/dev/null").frames())


def test_a_picture_that_was_kept_back_until_the_time_was_up_is_not_given() -> None:
    def packets() -> Iterator[str]:
        yield "in time"
        time.sleep(0.2)
        yield "the last before the stall"

    opening = pyav.Opening(kind="stream", target="udp://a", timeout=0.1)
    given = pyav._in_time("udp://a", opening, packets())
    assert next(given) == "in time"
    with pytest.raises(SourceError, match=r"udp://a stalled: nothing came for 0\.1 s"):
        next(given)


def test_a_server_that_is_not_there_is_named_without_the_password() -> None:
    with pytest.raises(
        SourceError, match=r"rtsp://me:\*\*\*@127.0.0.1:9/x cannot be read"
    ) as raised:
        next(source_of("rtsp://me:secret@127.0.0.1:9/x").frames())
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("protocol", ["http", "rtsp"])
def test_a_stream_that_stalls_is_an_error_after_its_timeout(protocol: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        held: list[socket.socket] = []
        threading.Thread(target=lambda: held.append(server.accept()[0]), daemon=True).start()
        url = f"{protocol}://127.0.0.1:{server.getsockname()[1]}/camera"
        with pytest.raises(SourceError, match=r"stalled: nothing came for 0\.5 s"):
            next(source_of(url, timeout=0.5).frames())
        for each in held:
            each.close()


def test_a_stream_over_http_is_read(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", 4)
    with served(tmp_path) as url:
        assert numbers(f"{url}/a.mp4") == [0, 1, 2, 3]


def test_without_pyav_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    source = source_of(write_video(tmp_path / "a.mp4", 1))
    real = builtins.__import__

    def refuse(name: str, *rest: Any, **more: Any) -> Any:
        if name == "av":
            raise ImportError("No module named 'av'")
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(MissingPackageError, match=r"pip install .*\[camera\]'"):
        next(source.frames())
