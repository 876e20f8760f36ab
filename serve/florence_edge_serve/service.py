"""From a picture's bytes to its answers: what every route of the server goes through.

Decoding runs in a few threads, the engine in its own; the event loop only waits.
"""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from florence_edge import (
    Florence2,
    FlorenceEdgeError,
    ImageLike,
    PreparedImages,
    Result,
    prepare_images,
)

from .batching import Asked, Batcher, ClosedError, Job, JobEndedError, Outcome, QueueFullError
from .failures import (
    Failure,
    deadline_exceeded,
    engine_failed,
    failure_of,
    queue_full,
    shutting_down,
)
from .metrics import Metrics
from .schema import Wanted
from .settings import Settings

DECODERS = 2
"""Threads that decode pictures; each has one whole picture in memory."""

OnText = Callable[[int, str], None]
OnResult = Callable[[int, Result], None]
Some = TypeVar("Some")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """The answers about one picture."""

    size: tuple[int, int]
    """Width and height in pixels."""
    results: tuple[Result, ...]
    queue: float
    """Seconds between the decoded picture and its turn."""
    total: float
    """Seconds from arrival to the last answer."""


class Service:
    """A loaded model behind its queue."""

    def __init__(self, model: Florence2, settings: Settings) -> None:
        self.model = model
        self.settings = settings
        self.metrics = Metrics(model.bundle.tasks)
        self.batcher = Batcher(
            model, batch=settings.batch, queue=settings.queue, observer=self.metrics
        )
        self.created = int(time.time())
        """When the server started, Unix time in seconds."""
        self.closing = asyncio.Event()
        """Set when the server was told to end: whoever only watches is let go."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._decoders = ThreadPoolExecutor(DECODERS, thread_name_prefix="florence-serve-decode")
        gauge = self.metrics.gauge
        gauge("florence_queue_length", "Requests that wait.", lambda: self.batcher.waiting)
        gauge("florence_engine_jobs", "Pictures in the engine.", lambda: self.batcher.active)
        gauge("florence_ready", "1 while requests are answered.", lambda: self.ready)

    @property
    def name(self) -> str:
        """What the model is called: as the checkpoint that was exported."""
        return self.model.bundle.model

    @property
    def ready(self) -> bool:
        """Whether requests are answered."""
        return not self.closing.is_set() and self.batcher.broken is None

    def start(self) -> None:
        """Start the engine's thread; called in the event loop that the server runs in."""
        self._loop = asyncio.get_running_loop()
        self.batcher.start()

    def stop(self) -> None:
        """Let viewers go and take no more requests; from any thread, or a signal's handler."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self.closing.set)

    async def close(self) -> None:
        """Answer what is in the engine, refuse what waits, and end all threads."""
        self.closing.set()
        await asyncio.to_thread(self.batcher.close)
        self._decoders.shutdown(cancel_futures=True)

    def check(self) -> None:
        """Refuse a request before its body is read, if it could not be taken.

        Raises:
            Failure: 429 or 503.
        """
        try:
            self.batcher.check()
        except (QueueFullError, ClosedError, FlorenceEdgeError) as error:
            raise self._failure(error) from None

    async def answer(
        self,
        picture: ImageLike,
        wanted: Wanted,
        *,
        deadline: float | None = None,
        on_text: OnText | None = None,
        on_result: OnResult | None = None,
    ) -> Answered:
        """All answers about one picture; cancelling this coroutine takes its row alone out.

        `on_text` and `on_result` are called in the event loop.

        Raises:
            Failure: there are none; the status says why.
        """
        begin = time.monotonic()
        wanted = replace(wanted, clean=wanted.clean or self.settings.clean)
        limit = self.settings.deadline if deadline is None else deadline
        try:
            self.batcher.reserve()
        except (QueueFullError, ClosedError, FlorenceEdgeError) as error:
            raise self._failure(error) from None
        job = None
        try:
            prepared, asked = await self.in_decoder(lambda: self._prepare(picture, wanted))
            loop = asyncio.get_running_loop()
            job = Job(
                prepared=prepared,
                asked=asked,
                on_text=None if on_text is None else _in_loop(loop, on_text),
                on_answer=None if on_result is None else _in_loop(loop, _kept(on_result, wanted)),
            )
        except FlorenceEdgeError as error:
            raise failure_of(error) from None
        finally:
            if job is None:  # also where the client has left
                self.batcher.release()
        self.batcher.submit(job)
        results = await self._wait(job, begin, limit)
        queue = (job.started or begin) - job.submitted
        self.metrics.queue_seconds.observe(queue)
        return Answered(
            size=prepared.sizes[0],
            results=tuple(map(wanted.kept, results)),
            queue=queue,
            total=time.monotonic() - begin,
        )

    async def in_decoder(self, work: Callable[[], Some]) -> Some:
        """Run what takes a processor for long in one of the decoders' threads."""
        return await asyncio.get_running_loop().run_in_executor(self._decoders, work)

    async def _wait(self, job: Job, begin: float, limit: float) -> list[Result]:
        loop = asyncio.get_running_loop()
        rest = max(0.0, begin + limit - time.monotonic())
        timer = loop.call_later(rest, self.batcher.end, job, Outcome.LATE)
        try:
            return await asyncio.wrap_future(job.future)
        except asyncio.CancelledError:
            self.batcher.end(job, Outcome.LEFT)
            raise
        except JobEndedError:
            raise deadline_exceeded(limit) from None
        except (ClosedError, FlorenceEdgeError) as error:
            raise self._failure(error) from None
        finally:
            timer.cancel()

    def _prepare(self, picture: ImageLike, wanted: Wanted) -> tuple[PreparedImages, list[Asked]]:
        model = self.model
        wanted.check(model)  # what cannot be asked should not cost a decoding
        side = model.bundle.size.image_size
        prepared = prepare_images([picture], side, model.image_options)
        asked = wanted.asked(prepared.sizes[0])
        return prepared.without_pictures(), asked

    def _failure(self, error: Exception) -> Failure:
        if isinstance(error, QueueFullError):
            return queue_full(self.batcher.queue, self.batcher.seconds_to_wait)
        if isinstance(error, ClosedError):
            return shutting_down()
        if isinstance(error, FlorenceEdgeError):
            return failure_of(error)
        return engine_failed(str(error))


def _in_loop(
    loop: asyncio.AbstractEventLoop, call: Callable[[int, Any], None]
) -> Callable[[int, Any], None]:
    """The call, from another thread; nothing once the loop has ended."""

    def from_thread(number: int, value: Any) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(call, number, value)

    return from_thread


def _kept(on_result: OnResult, wanted: Wanted) -> OnResult:
    return lambda number, result: on_result(number, wanted.kept(result))
