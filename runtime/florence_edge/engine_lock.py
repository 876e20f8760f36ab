"""One engine, many threads: their calls run one after the other, and none once it is closed."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import RLock

from .errors import MODEL_CLOSED, BackendError, RequestError


class EngineLock:
    """Who has an engine: it has one set of caches, and one generation at a time."""

    def __init__(self) -> None:
        self._lock = RLock()
        self._closed = False
        self.busy = False

    def check_open(self) -> None:
        """Raise a BackendError once the engine is closed."""
        if self._closed:
            raise BackendError(MODEL_CLOSED)

    @contextmanager
    def held(self) -> Iterator[None]:
        """The engine to oneself.

        Raises:
            BackendError: it is closed.
            RequestError: this thread has it already, and asks from within.
        """
        with self._lock:
            self.check_open()
            self._check_idle()
            self.busy = True
            try:
                yield
            finally:
                self.busy = False

    def close(self, free: Callable[[], None]) -> None:
        """Close it with `free`, after a running call; a second time does nothing.

        Raises:
            RequestError: this thread has the engine.
        """
        with self._lock:
            self._check_idle()
            if not self._closed:
                self._closed = True
                free()

    def _check_idle(self) -> None:
        if self.busy:  # the lock lets its own thread in
            raise RequestError(
                "on_text used the model that is calling it. Wait until the answer is complete."
            )
