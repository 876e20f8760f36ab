"""Dynamic batching: one thread has the engine, and answers together what waits at the same time.

    reserve() ──> submit(job) ──> waiting (bounded) ──> encode new pictures ──> one question of each
                                                             └── jobs with more questions go round

A job is one picture with its questions. Each turn of the engine encodes the pictures that came, up
to a full batch, and answers one question of each; a job with more stays for the next turn beside
those that come then. Every answer is handed out when it is complete, and is what its question gets
alone. This module knows nothing of HTTP; everything in it may be called from any thread.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from florence_edge import (
    Answer,
    BackendError,
    EncodedImage,
    Florence2,
    FlorenceEdgeError,
    GenerationOptions,
    PreparedImages,
    Prompt,
    Question,
    Result,
)
from florence_edge.processing import join_images

logger = logging.getLogger(__name__)

GATHER = 0.02
"""Seconds that a batch with room left waits for pictures that are being decoded right now."""
_RETRY = 5.0  # seconds between two looks at whether a broken engine works again
_SMOOTHING = 0.1  # weight of the latest turn in the average that Retry-After is made of


class QueueFullError(Exception):
    """As many jobs wait as may."""


class ClosedError(Exception):
    """The server is shutting down."""


class Outcome(Enum):
    """Why a job has no results."""

    LATE = "late"
    LEFT = "left"


class JobEndedError(Exception):
    """A job was taken out before its turn; `outcome` says why."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.value)
        self.outcome = outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One question of a job."""

    prompt: Prompt
    options: GenerationOptions | None = None


@dataclass(slots=True, kw_only=True, eq=False)
class Job:
    """One picture and its questions, on their way through the engine."""

    prepared: PreparedImages
    """One picture, its size alone kept (`PreparedImages.without_pictures`)."""
    asked: Sequence[Asked]
    on_text: Callable[[int, str], None] | None = None
    """Called by the engine's thread with the number of a question and the next piece of text."""
    on_answer: Callable[[int, Result], None] | None = None
    cancel: threading.Event = field(default_factory=threading.Event)
    """Once it is set, the answer at work is cut short."""
    left: bool = False
    """Whether nobody waits for the answers any more."""
    submitted: float = field(default_factory=time.monotonic)
    started: float | None = None
    """When the engine took it, on the clock `time.monotonic`."""
    results: list[Result] = field(default_factory=list)
    future: "Future[list[Result]]" = field(default_factory=Future)
    view: EncodedImage | None = None
    characters: int = 0
    """How much of the current answer's text was handed out: none twice, if the engine is asked
    again after a failure."""

    def question(self) -> Question:
        """The next one that has no answer yet."""
        if self.view is None:
            raise RuntimeError("a question was asked about a picture that is not encoded")
        asked = self.asked[len(self.results)]
        return self.view.question(
            asked.prompt,
            options=asked.options,
            cancel=self.cancel,
            on_text=None if self.on_text is None else self._hand_out(self.on_text),
        )

    def _hand_out(self, on_text: Callable[[int, str], None]) -> Callable[[str], None]:
        number, seen = len(self.results), 0

        def on_piece(piece: str) -> None:
            nonlocal seen
            seen += len(piece)
            new = seen - self.characters
            if new > 0 and not self.left:
                self.characters = seen
                on_text(number, piece[-new:])

        return on_piece

    def take(self, answer: Answer) -> None:
        """Note an answer; the last one ends the job, and so does an error."""
        if _is_over(self):
            return
        if isinstance(answer, FlorenceEdgeError):
            self.future.set_exception(answer)
            return
        if self.on_answer is not None:
            self.on_answer(len(self.results), answer)
        self.results.append(answer)
        self.characters = 0
        if len(self.results) == len(self.asked):
            self.future.set_result(self.results)


class Observer(Protocol):
    """Who counts what the engine does; called by its thread."""

    def batch(self, size: int) -> None:
        """A batch of so many questions is about to be answered."""

    def answered(self, result: Result, *, first: bool) -> None:
        """An answer is complete; `first` of its picture, whose one look all of them name."""

    def failed(self) -> None:
        """The engine failed."""


class Batcher:
    """The engine's thread and the jobs that wait for it."""

    def __init__(
        self, model: Florence2, *, batch: int, queue: int, observer: Observer | None = None
    ) -> None:
        self.model = model
        self.batch = min(batch, model.backend.max_batch or batch)
        self.queue = queue
        self._observer = observer
        self._changed = threading.Condition()
        self._waiting: deque[Job] = deque()
        self._reserved = 0
        self._active: list[Job] = []
        self._closed = False
        self._broken: str | None = None
        self._examined = 0.0  # when, on the clock time.monotonic
        self._seconds = 1.0  # of a job in the engine, on average
        self._thread = threading.Thread(target=self._run, name="florence-serve-engine", daemon=True)

    def start(self) -> None:
        """Start the engine's thread."""
        self._thread.start()

    @property
    def broken(self) -> str | None:
        """Why the engine cannot answer; None while it can."""
        if self._thread.ident is not None and not self._thread.is_alive() and not self._closed:
            return "its thread has ended"
        return self._broken

    @property
    def waiting(self) -> int:
        """How many jobs wait, those included whose picture is being decoded."""
        return len(self._waiting) + self._reserved

    @property
    def active(self) -> int:
        """How many jobs the engine is at work on."""
        return len(self._active)

    @property
    def seconds_to_wait(self) -> float:
        """How long those that wait will take, by what the last ones took."""
        return self.waiting * self._seconds

    def check(self) -> None:
        """Refuse at once what could not be taken.

        Raises:
            ClosedError: the server is shutting down.
            QueueFullError: as many jobs wait as may.
            BackendError: the engine is broken.
        """
        if self._closed:
            raise ClosedError
        if (reason := self.broken) is not None:
            raise BackendError(reason)
        if self.waiting >= self.queue:
            raise QueueFullError

    def reserve(self) -> None:
        """Take a place in the queue for a job whose picture is decoded meanwhile.

        Each is followed by one `submit` or one `release`. Errors are those of `check`.
        """
        with self._changed:
            self.check()
            self._reserved += 1

    def release(self) -> None:
        """Give a reserved place back."""
        with self._changed:
            self._reserved -= 1
            self._changed.notify()

    def submit(self, job: Job) -> None:
        """Put a job into the place that was reserved for it; `job.future` gets its results.

        Who waits for them cannot cancel the future, but `end` the job: a future that is done
        behind the engine's back would be an error in the middle of everybody's batch.
        """
        job.future.set_running_or_notify_cancel()
        with self._changed:
            self._reserved -= 1
            if self._closed:
                job.future.set_exception(ClosedError())
            else:
                self._waiting.append(job)
            self._changed.notify()

    def end(self, job: Job, outcome: Outcome) -> None:
        """Take a job out: out of the queue at once, out of the engine after the step at hand.

        One that is LATE in the engine has what is complete as its answer; of one that was LEFT, no
        further question is asked. Nothing happens to a job that is done.
        """
        with self._changed:
            if job in self._waiting:
                self._waiting.remove(job)
                job.future.set_exception(JobEndedError(outcome))
                return
            job.left = job.left or outcome is Outcome.LEFT
            job.cancel.set()

    def close(self, timeout: float | None = None) -> None:
        """Refuse what waits, finish what is in the engine, and end the thread."""
        with self._changed:
            self._closed = True
            waiting, self._waiting = list(self._waiting), deque()
            self._changed.notify_all()
        for job in waiting:
            job.future.set_exception(ClosedError())
        if self._thread.ident is not None:
            self._thread.join(timeout)

    # The engine's thread.

    def _run(self) -> None:
        while self._gather():
            try:
                if self._active:
                    self._turn()
                elif self._broken is not None:
                    self._examine()
            except Exception as error:  # a mistake of ours must not end the only engine
                logger.exception("The engine's thread failed")
                self._fail(self._active, BackendError(f"{type(error).__name__}: {error}"))
            with self._changed:
                self._active = [job for job in self._active if not _is_over(job)]

    def _gather(self) -> bool:
        """Wait until there is work, take up to a batch of it; False once there will be none.

        While the engine is broken, nobody gets in, and there may be no work when this returns.
        """
        with self._changed:
            self._changed.wait_for(
                lambda: self._waiting or self._active or self._closed,
                None if self._broken is None else _RETRY,
            )
            if self._waiting and not self._active:
                self._changed.wait_for(
                    lambda: len(self._waiting) >= self.batch or not self._reserved, GATHER
                )
            while self._waiting and len(self._active) < self.batch:
                self._active.append(self._waiting.popleft())
            return bool(self._active) or not self._closed

    def _turn(self) -> None:
        """Encode the pictures that are new, and answer one question of each."""
        begin = time.monotonic()
        new = [job for job in self._active if job.view is None]
        for job in new:
            job.started = begin
        if self._broken is not None and not self._works_again():
            self._fail(self._active, BackendError(self._broken))
            return
        self._together(new, self._encode)
        asking = [job for job in self._active if not _is_over(job) and job.view is not None]
        if asking:
            self._together(asking, self._answer)
        if self._active:
            took = (time.monotonic() - begin) / len(self._active)
            self._seconds += _SMOOTHING * (took - self._seconds)

    def _together(self, jobs: Sequence[Job], work: Callable[[Sequence[Job]], None]) -> None:
        """Do the work for all at once; where the engine fails, for one after the other.

        So that a question that no engine could answer, or for which memory was too small, takes
        none of its neighbours along.
        """
        if not jobs:
            return
        try:
            work(jobs)
        except (FlorenceEdgeError, MemoryError, RuntimeError) as error:
            if self._observer is not None:
                self._observer.failed()
            logger.warning("The engine failed at a batch of %d: %s", len(jobs), error)
            left = [job for job in jobs if not _is_over(job)]
            if len(jobs) > 1:
                for job in left:
                    self._together([job], work)
                return
            self._fail(left, _as_backend_error(error))
            self._examine()

    def _encode(self, jobs: Sequence[Job]) -> None:
        jobs = [job for job in jobs if job.view is None]
        views = self.model.encode_prepared(join_images([job.prepared for job in jobs]))
        for job, view in zip(jobs, views, strict=True):
            job.view = view

    def _answer(self, jobs: Sequence[Job]) -> None:
        observer = self._observer
        if observer is not None:
            observer.batch(len(jobs))

        def take(number: int, answer: Answer) -> None:
            job = jobs[number]
            if observer is not None and isinstance(answer, Result):
                observer.answered(answer, first=not job.results)
            job.take(answer)

        self.model.answer_questions([job.question() for job in jobs], on_answer=take)

    def _fail(self, jobs: Sequence[Job], error: FlorenceEdgeError) -> None:
        for job in jobs:
            job.take(error)

    def _examine(self) -> None:
        """After a failure: whether the engine still gives the exporter's values."""
        try:
            self.model.self_test()
        except (FlorenceEdgeError, MemoryError, RuntimeError) as error:
            self._broken = str(error)
            logger.error("The engine is broken: %s", error)
        else:
            if self._broken is not None:
                logger.warning("The engine works again")
            self._broken = None
        self._examined = time.monotonic()

    def _works_again(self) -> bool:
        if time.monotonic() - self._examined > _RETRY:
            self._examine()
        return self._broken is None


def _is_over(job: Job) -> bool:
    return job.left or job.future.done()


def _as_backend_error(error: Exception) -> FlorenceEdgeError:
    if isinstance(error, FlorenceEdgeError):
        return error
    return BackendError(str(error) or type(error).__name__)
