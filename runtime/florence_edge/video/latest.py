"""The newest frame of a live source: a thread captures, stale frames are dropped and counted."""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import closing

from ..errors import FlorenceEdgeError, SourceError
from .source import Captured, Source

_logger = logging.getLogger(__name__)

_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 10.0  # seconds between attempts to open a lost source again
_GLANCE = 0.1  # seconds between two looks at `cancel`
_FAREWELL = 2.0  # seconds that a thread which hangs in a driver is waited for


class Latest:
    """Frames of a live source with their numbers, each the newest there is.

    A source that was open once and is lost is opened again, after pauses that double; if nothing
    comes for `patience` seconds, that is an error.
    """

    def __init__(
        self, source: Source, *, every: int, patience: float, cancel: threading.Event
    ) -> None:
        self.dropped = 0
        self.reconnects = 0
        self._source = source
        self._every = every
        self._patience = patience
        self._cancel = cancel
        self._closing = threading.Event()
        self._news = threading.Condition()
        self._newest: tuple[int, Captured] | None = None
        self._count = 0
        self._is_back = True
        self._heard = time.monotonic()  # when the last frame came
        self._over = False
        self._error: Exception | None = None
        self._thread = threading.Thread(
            target=self._capture, name="florence-edge-capture", daemon=True
        )

    def __enter__(self) -> "Latest":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._thread.join(_FAREWELL)

    def __iter__(self) -> Iterator[tuple[int, Captured]]:
        """The newest frames until the source ends or `cancel` is set.

        Raises:
            SourceError: it cannot be opened, was lost for good, or fell silent.
        """
        while (newest := self._wait()) is not None:
            yield newest

    def _wait(self) -> tuple[int, Captured] | None:
        with self._news:
            while self._newest is None and not self._over:
                if self._cancel.is_set():
                    return None
                self._check_patience()
                self._news.wait(_GLANCE)
            newest, self._newest = self._newest, None
        if newest is None and self._error is not None:
            raise self._error
        return None if self._cancel.is_set() else newest

    def _check_patience(self) -> None:
        if time.monotonic() - self._heard > self._patience:
            raise SourceError(
                f"{self._source.name} fell silent: no frame for {self._patience:g} s. "
                "Look at its cable or its network, then start again."
            )

    def _capture(self) -> None:
        pause = _FIRST_PAUSE
        while not self._closing.is_set():
            before = self._count
            lost = self._read()
            if not isinstance(lost, FlorenceEdgeError) or self._is_given_up():
                self._end(lost)
                return
            pause = _FIRST_PAUSE if self._count > before else min(2 * pause, _LONGEST_PAUSE)
            _logger.warning("%s Opening it again in %g s.", lost, pause)
            self._closing.wait(pause)
            self._is_back = False

    def _read(self) -> Exception | None:
        """Take frames until the source ends; None if that is as it should be."""
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
        self._heard = time.monotonic()
        self.reconnects += not self._is_back
        self._is_back = True
        if number % self._every:
            return
        with self._news:
            self.dropped += self._newest is not None
            self._newest = number, captured
            self._news.notify()

    def _is_given_up(self) -> bool:
        return not self._count or time.monotonic() - self._heard > self._patience

    def _end(self, error: Exception | None) -> None:
        with self._news:
            self._over, self._error = True, error
            self._news.notify()
