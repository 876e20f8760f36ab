"""One thread for the model: requests in turn, and of the frames the latest only."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import Any, TypeVar

from florence_edge.errors import RequestError

_Value = TypeVar("_Value")

_IDLE = "The node is not active. Activate it: ros2 lifecycle set /florence_edge activate"


class Worker:
    """Runs `take(frame)` for frames and any job for requests, all in one thread of its own.

    At most one frame waits: a newer one replaces it. As it stands in the same queue as the
    requests, neither can starve the other. What `take` raises goes to `failed`, and the next frame
    has its turn.
    """

    def __init__(
        self,
        take: Callable[[Any], None],
        failed: Callable[[BaseException], None],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.rate = 0.0  # most frames a second; 0: no limit
        self._take = take
        self._failed = failed
        self._clock = clock
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._frame: Any = None
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
        """Finish what is being worked on, drop what waits, and end the thread."""
        with self._lock:
            pool, self._pool, self._frame = self._pool, None, None
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

    def run(self, job: Callable[[], _Value]) -> _Value:
        """What `job` returns or raises, after the work that was there before it.

        Raises:
            RequestError: the worker does not run, or was stopped before the job's turn.
        """
        with self._lock:
            if self._pool is None:
                raise RequestError(_IDLE)
            future = self._pool.submit(job)
        try:
            return future.result()
        except CancelledError:
            raise RequestError(_IDLE) from None

    def _take_latest(self) -> None:
        with self._lock:
            frame, self._frame = self._frame, None
        if frame is not None:
            self._take(frame)

    def _report(self, future: Future[None]) -> None:
        if not future.cancelled() and (error := future.exception()) is not None:
            self._failed(error)
