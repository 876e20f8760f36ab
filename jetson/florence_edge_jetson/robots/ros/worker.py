"""One thread for the model: requests in turn, and of the camera's frames only the latest."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import Any, TypeVar

from florence_edge.errors import RequestError

_Value = TypeVar("_Value")


def not_active(node: str) -> str:
    """The answer to a request while the node of this full name is not active."""
    return f"The node is not active. Activate it: ros2 lifecycle set {node} activate"


class Worker:
    """Runs `take(frame)` for frames and any job for requests, all in one thread of its own.

    At most one frame waits: a newer one replaces it. As it stands in the same queue as the
    requests, neither can starve the other. What `take` raises goes to `failed`, and the next frame
    has its turn. Frames and jobs come with an event that cancels their answer; `stop` sets it.
    """

    def __init__(
        self,
        take: Callable[[Any, threading.Event], None],
        failed: Callable[[BaseException], None],
        *,
        not_active: str = "The node is not active.",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.rate = 0.0  # at most so many frames a second; 0: no limit
        self._take = take
        self._failed = failed
        self._not_active = not_active
        self._clock = clock
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._frame: Any = None
        self._cancels: set[threading.Event] = set()
        self._next = -float("inf")

    @property
    def running(self) -> bool:
        """Whether it takes frames and jobs."""
        return self._pool is not None

    def start(self) -> None:
        """Begin to take frames and jobs."""
        with self._lock:
            self._pool = self._pool or ThreadPoolExecutor(1, thread_name_prefix="florence-edge")

    def stop(self) -> None:
        """Cut short what is being worked on, drop what waits, and end the thread."""
        with self._lock:
            pool, self._pool, self._frame = self._pool, None, None
            for cancel in self._cancels:
                cancel.set()
        if pool is not None:
            pool.shutdown(wait=True, cancel_futures=True)

    def offer(self, frame: Any) -> bool:
        """Have a frame taken as soon as can be.

        Returns:
            Whether all is well; False where this frame or the one that waited is dropped.
        """
        with self._lock:
            now = self._clock()
            if self._pool is None or now < self._next:
                return False
            if self.rate:
                self._next = now + 1 / self.rate
            nobody_waited = self._frame is None
            self._frame = frame
            if nobody_waited:
                self._pool.submit(self._take_latest).add_done_callback(self._report)
            return nobody_waited

    def run(self, job: Callable[[], _Value], cancel: threading.Event) -> _Value:
        """What `job` returns or raises, after the work that was there before it.

        Args:
            job: should end soon once `cancel` is set.
            cancel: is set by `stop`, too.

        Raises:
            RequestError: the worker does not run, or was stopped before the job was done.
        """
        with self._lock:
            if self._pool is None:
                raise RequestError(self._not_active)
            future = self._pool.submit(job)
            self._cancels.add(cancel)
        try:
            value = future.result()
        except CancelledError:
            raise RequestError(self._not_active) from None
        finally:
            self._forget(cancel)
        if not self.running:
            raise RequestError(self._not_active)
        return value

    def _take_latest(self) -> None:
        cancel = threading.Event()
        with self._lock:
            frame, self._frame = self._frame, None
            self._cancels.add(cancel)
        try:
            if frame is not None:
                self._take(frame, cancel)
        finally:
            self._forget(cancel)

    def _forget(self, cancel: threading.Event) -> None:
        with self._lock:
            self._cancels.discard(cancel)

    def _report(self, future: Future[None]) -> None:
        if not future.cancelled() and (error := future.exception()) is not None:
            self._failed(error)
