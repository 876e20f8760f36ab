import math
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest

pytest.importorskip("av")

from florence_edge.errors import MissingPackageError, SourceError
from florence_edge.video import capture
from florence_edge.video.capture import Latest, Waiting
from florence_edge.video.source import Captured, Frames, Source

from .videos import Camera, number_of, picture


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture, "_MIN_PAUSE", 0.01)
    monkeypatch.setattr(capture, "_MAX_PAUSE", 0.04)
    monkeypatch.setattr(capture, "_JOIN_TIMEOUT", 0.5)


def open_latest(
    camera: Camera,
    *,
    every: int = 1,
    patience: float = 5.0,
    cancel: threading.Event | None = None,
    at_first: bool = False,
) -> Latest:
    event = cancel or threading.Event()
    waiting = Waiting(patience=patience, cancel=event, at_first=at_first)
    return Latest(camera.source, every=every, waiting=waiting)


def patient(seconds: float, **more: Any) -> Waiting:
    return Waiting(patience=seconds, cancel=threading.Event(), **more)


def give(camera: Camera, frames: int) -> None:
    """Let the camera give frames, and wait until they are there."""
    wanted = camera.given + frames
    for _ in range(frames):
        camera.go_on.release()
    deadline = time.monotonic() + 5
    while camera.given < wanted and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(0.02)  # the last one is on its way from the generator to its place
    assert camera.given == wanted


def numbered(frames: Iterator[tuple[int, Captured]]) -> Iterator[tuple[int, int]]:
    return ((index, number_of(np.asarray(c.picture()))) for index, c in frames)


def test_the_newest_frame_is_given_and_those_before_are_dropped_and_counted() -> None:
    camera = Camera([picture(n) for n in range(9)])
    with open_latest(camera) as latest:
        frames = numbered(iter(latest))
        give(camera, 1)
        assert next(frames) == (0, 0)
        give(camera, 4)
        assert next(frames) == (4, 4)
        assert latest.dropped == 3
        give(camera, 1)
        assert next(frames) == (5, 5)
        assert latest.dropped == 3


def test_frames_that_are_not_wanted_are_not_dropped() -> None:
    camera = Camera([picture(n) for n in range(9)])
    with open_latest(camera, every=3) as latest:
        give(camera, 6)
        assert next(numbered(iter(latest))) == (3, 3)
        assert latest.dropped == 1


def test_a_lost_source_is_opened_again_and_its_frames_count_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    camera = Camera([picture(0)], [picture(1)])
    with open_latest(camera) as latest:
        frames = numbered(iter(latest))
        give(camera, 1)
        assert next(frames) == (0, 0)
        give(camera, 1)
        assert next(frames) == (1, 1)
        assert latest.reconnects == 1
    assert "the camera ended. Opening it again in 0.01 s." in caplog.text


def test_a_source_that_cannot_be_opened_at_first_is_an_error_at_once() -> None:
    with open_latest(Camera()) as latest, pytest.raises(SourceError, match=r"cannot be read: gone"):
        next(iter(latest))
    assert latest.reconnects == 0


def test_a_source_that_is_not_there_at_first_is_waited_for_where_that_is_wanted() -> None:
    class Booting(Camera):
        def _frames(self) -> Frames:
            if self.opened < 3:
                self.opened += 1
                raise SourceError("the camera cannot be read: booting.")
            yield Captured(timestamp=0.0, picture=lambda: picture(7))

    with open_latest(Booting(), at_first=True, patience=math.inf) as latest:
        assert next(numbered(iter(latest))) == (0, 7)
    assert latest.reconnects == 0


def test_a_source_that_never_comes_is_given_up_with_the_reason() -> None:
    latest = open_latest(Camera(), at_first=True, patience=0.2)
    with latest, pytest.raises(SourceError, match="cannot be read: gone"):
        next(iter(latest))


def test_a_missing_package_is_reported_at_once_and_not_waited_for() -> None:
    class Bare(Camera):
        def _frames(self) -> Frames:
            self.opened += 1
            raise MissingPackageError("Install PyAV.")
            yield

    camera = Bare()
    latest = open_latest(camera, at_first=True, patience=math.inf)
    with latest, pytest.raises(MissingPackageError, match="Install PyAV"):
        next(iter(latest))
    assert camera.opened == 1


def test_who_waits_is_called_now_and_then() -> None:
    camera = Camera([picture(0)])
    calls: list[str] = []

    def idle() -> None:
        calls.append("idle")
        camera.go_on.release()

    waiting = patient(5, idle=idle)
    with Latest(camera.source, every=1, waiting=waiting) as latest:
        next(iter(latest))
    assert calls == ["idle"]


def test_a_source_that_stays_lost_is_given_up() -> None:
    camera = Camera([picture(0)])
    with open_latest(camera, patience=0.3) as latest:
        frames = iter(latest)
        give(camera, 1)
        next(frames)
        with pytest.raises(SourceError, match=r"gone|fell silent: no frame for 0.3 s"):
            next(frames)
    assert 3 <= camera.opened < 30  # it was tried again, and not without a pause


def test_a_source_that_hangs_in_its_driver_is_an_error_too() -> None:
    hangs = threading.Event()

    def frames() -> Frames:
        yield Captured(timestamp=0.0, picture=lambda: picture(0))
        hangs.wait(10)

    source = Source(name="the camera", live=True, endless=True, frames=frames)
    with Latest(source, every=1, waiting=patient(0.2)) as latest:
        given = iter(latest)
        next(given)
        with pytest.raises(SourceError, match=r"the camera fell silent: no frame for 0.2 s"):
            next(given)
        hangs.set()


def test_an_event_ends_it_though_no_frame_comes() -> None:
    cancel = threading.Event()
    with open_latest(Camera([picture(0)]), cancel=cancel) as latest:
        threading.Timer(0.05, cancel.set).start()
        begin = time.monotonic()
        assert list(latest) == []
        assert time.monotonic() - begin < 2


def test_leaving_it_closes_the_source_and_ends_the_thread() -> None:
    before = set(threading.enumerate())
    camera = Camera([picture(n) for n in range(99)])
    with open_latest(camera) as latest:
        give(camera, 2)
        next(iter(latest))
        camera.go_on.release()
    assert camera.closed == camera.opened == 1
    assert set(threading.enumerate()) <= before


def test_pictures_of_ones_own_end_without_an_error_and_the_last_is_seen() -> None:
    def frames() -> Frames:
        for number in range(5):
            yield Captured(timestamp=0.0, picture=partial(picture, number))

    source = Source(name="the pictures", live=True, endless=False, frames=frames)
    with Latest(source, every=1, waiting=patient(5)) as latest:
        assert [index for index, _ in latest][-1] == 4


def test_an_error_in_ones_own_pictures_reaches_the_one_who_takes_them() -> None:
    def frames() -> Frames:
        yield Captured(timestamp=0.0, picture=lambda: picture(0))
        raise ZeroDivisionError("mine")

    source = Source(name="the pictures", live=True, endless=False, frames=frames)
    latest = Latest(source, every=1, waiting=patient(5))
    with latest, pytest.raises(ZeroDivisionError, match="mine"):
        list(latest)


def test_python_waits_at_its_exit_for_threads_from_the_first_capture_on() -> None:
    code = """if True:
        import atexit, json, threading
        from florence_edge.video import capture
        from florence_edge.video.source import Source
        counts = [atexit._ncallbacks()]
        waiting = capture.Waiting(patience=1, cancel=threading.Event())
        source = Source(name="it", live=True, endless=False, frames=lambda: (x for x in ()))
        for _ in range(2):
            with capture.Latest(source, every=1, waiting=waiting):
                counts.append(atexit._ncallbacks())
        print(json.dumps([count - counts[0] for count in counts]))
    """
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "[0, 1, 1]\n"


def test_python_does_not_end_before_a_thread_that_was_left_behind() -> None:
    code = """if True:
        import threading, time
        from florence_edge.video import capture
        from florence_edge.video.source import Source
        capture._JOIN_TIMEOUT = 0.05
        def frames():
            time.sleep(1)
            print("out of the driver", flush=True)
            yield
        waiting = capture.Waiting(patience=1, cancel=threading.Event())
        source = Source(name="it", live=True, endless=True, frames=frames)
        with capture.Latest(source, every=1, waiting=waiting):
            time.sleep(0.1)
        print("left behind", flush=True)
    """
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "left behind\nout of the driver\n"
