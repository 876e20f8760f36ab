"""The newest frame of a live source: a thread captures, stale frames are dropped and counted."""

import atexit
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import cache

from ..errors import SourceError
from .source import Captured, Source

_logger = logging.getLogger(__name__)

_MIN_PAUSE, _MAX_PAUSE = 0.5, 10.0  # seconds between attempts to open a lost source again
_CANCEL_POLL = 0.1  # seconds between two checks of `cancel`
_JOIN_TIMEOUT = 2.0  # seconds that a thread is waited for which is inside FFmpeg or a driver
_EXIT_TIMEOUT = 30.0  # the same when Python ends, which such a thread would not survive
_left_behind: list[threading.Thread] = []


def end_soon_with(status: int) -> None:
    """For a command: end Python with this status, even if a thread hangs in FFmpeg or a driver."""
    if _left_behind:
        atexit.register(_end, status)


def _end(status: int) -> None:
    if any(thread.is_alive() for thread in _left_behind):
        with suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


@cache
def _wait_at_exit() -> None:
    """Let Python wait at its exit for threads that were left behind; from the first capture on."""
    atexit.register(_wait_for_threads)


def _wait_for_threads() -> None:
    """PyAV takes Python's lock in the midst of FFmpeg: without a Python that is a crash."""
    give_up = time.monotonic() + _EXIT_TIMEOUT
    for thread in _left_behind:
        thread.join(max(0.0, give_up - time.monotonic()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """How to wait for frames."""

    patience: float
    """Seconds without a frame after which the source is given up."""
    at_first: bool = False
    """Whether to wait as long for a source that was never there."""
    cancel: threading.Event
    idle: Callable[[], object] | None = None
    """Called ten times a second while no frame comes, by the thread that waits for one."""


class Latest:
    """Frames of a live source with their numbers, each the newest there is.

    A source that was open once and is lost is opened again, after pauses that double; if nothing
    comes for `patience` seconds, that is an error.
    """

    def __init__(self, source: Source, *, every: int, waiting: Waiting) -> None:
        self.dropped = 0
        self.reconnects = 0
        self._source = source
        self._every = every
        self._waiting = waiting
        self._closing = threading.Event()
        self._news = threading.Condition()
        self._newest: tuple[int, Captured] | None = None
        self._count = 0
        self._is_back = True
        self._last_frame = time.monotonic()  # when it came
        self._over = False
        self._error: Exception | None = None
        self._lost: Exception | None = None  # why the source is not there
        self._thread = threading.Thread(
            target=self._capture, name="florence-edge-capture", daemon=True
        )

    def __enter__(self) -> "Latest":
        _wait_at_exit()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        try:
            self._thread.join(_JOIN_TIMEOUT)
        finally:  # also where a second Ctrl-C does not let us wait
            known = (*_left_behind, self._thread)
            _left_behind[:] = [thread for thread in known if thread.is_alive()]

    def __iter__(self) -> Iterator[tuple[int, Captured]]:
        """The newest frames until the source ends or `cancel` is set.

        Raises:
            SourceError: it cannot be opened, was lost for good, or fell silent.
        """
        while (newest := self._wait()) is not None:
            yield newest

    def _wait(self) -> tuple[int, Captured] | None:
        while not self._has_news():
            if self._waiting.cancel.is_set():
                return None
            self._check_silence()
            if self._waiting.idle is not None:
                self._waiting.idle()
        with self._news:
            newest, self._newest = self._newest, None
        if newest is None and self._error is not None:
            raise self._error
        return None if self._waiting.cancel.is_set() else newest

    def _has_news(self) -> bool:
        with self._news:
            return self._news.wait_for(lambda: self._newest is not None or self._over, _CANCEL_POLL)

    def _check_silence(self) -> None:
        if self._is_silent():
            raise SourceError(
                f"{self._source.name} fell silent: no frame for {self._waiting.patience:g} s. "
                f"{f'{self._lost} ' if self._lost else ''}"
                "Check its cable or its network, then start again."
            ) from self._lost

    def _capture(self) -> None:
        pause = _MIN_PAUSE
        while not self._closing.is_set():
            before = self._count
            lost = self._read()
            if not isinstance(lost, SourceError) or self._is_given_up():
                self._end(lost)
                return
            self._lost = lost
            pause = _MIN_PAUSE if self._count > before else min(2 * pause, _MAX_PAUSE)
            _logger.warning("%s Opening it again in %g s.", lost, pause)
            self._closing.wait(pause)
            self._is_back = False

    def _read(self) -> Exception | None:
        """Take frames until the source ends; why it ended, None where that is its right end."""
        try:
            with closing(self._source.frames()) as frames:
                for captured in frames:
                    if self._closing.is_set():
                        return None
                    self._put(captured)
        except Exception as error:  # noqa: BLE001 - raised again where the frames are taken
            return error
        return SourceError(f"{self._source.name} ended.") if self._source.endless else None

    def _put(self, captured: Captured) -> None:
        number, self._count = self._count, self._count + 1
        self._last_frame = time.monotonic()
        self._lost = None
        self.reconnects += not self._is_back and number > 0
        self._is_back = True
        if number % self._every:
            return
        with self._news:
            self.dropped += self._newest is not None
            self._newest = number, captured
            self._news.notify()

    def _is_given_up(self) -> bool:
        never_there = not self._count and not self._waiting.at_first
        return never_there or self._is_silent()

    def _is_silent(self) -> bool:
        return time.monotonic() - self._last_frame > self._waiting.patience

    def _end(self, error: Exception | None) -> None:
        with self._news:
            self._over, self._error = True, error
            self._news.notify()
