"""A worker in a process of its own: started, restarted, and what ends it found and left out.

A process that dies takes the pictures it had in its hands along. Each of them is then tried alone,
in a new process, and the answer thrown away: a picture that ends that process, too, has done it
twice and becomes an error row. If none does, the shard is answered anew in its usual batches, so
that a worker killed for other reasons changes nothing. Where batches end it and no single picture
does, the shard goes picture by picture.
"""

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from multiprocessing import Pipe
from multiprocessing.connection import Connection

from florence_edge import BackendError
from florence_edge.command import how_it_ended

from .labeller import Part, Shard, WorkerSettings
from .worker import Begun, Ended, Failed, Ready

PATIENCE = 600.0
"""Seconds without a word after which a worker is taken for hung, unless one asks for others.

It says a word for each picture that it reads, each batch that it encodes and each answer.
"""

_STARTS = 3  # that may fail in a row
_MAX_BROKEN = 16  # pictures of one shard that end their worker, before something else is to blame
_MAX_DEATHS = 3 * _MAX_BROKEN  # over one shard
_MAX_BATCH_DEATHS = 2  # before a shard goes picture by picture
_GOODBYE = 5.0  # seconds


class SupervisedWorker:
    """Answers shards, whatever becomes of its process; `close` ends that.

    One thread uses it; any other may `stop` it.

    Args:
        settings: what the process is told.
        environment: variables that it has beside ours, such as which GPU it sees.
        patience: seconds that it may say nothing.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        environment: Mapping[str, str] | None = None,
        patience: float = PATIENCE,
    ) -> None:
        self._settings = settings
        self._environment = {**os.environ, **(environment or {})}
        self._patience = patience
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: Connection | None = None
        self._stopped = False

    def start(self) -> None:
        """Load the model, if that is not done.

        Raises:
            FlorenceEdgeError: it cannot be loaded.
        """
        self._running_pipe()

    def answer(self, shard: Shard) -> Part:
        """The part of a shard; pictures that end the process twice are error rows in it.

        Raises:
            FlorenceEdgeError: the model cannot be loaded again, or the process keeps dying.
        """
        known = _Deaths(shard.number)
        while True:
            try:
                return self._ask(
                    replace(shard, broken=dict(known.broken), one_by_one=known.one_by_one)
                )
            except _WorkerDied as died:
                known.add(died)
                for place in () if known.one_by_one else died.held:
                    self._try_alone(shard, place, known)

    def close(self) -> None:
        """End the process, which has nothing to do any more."""
        self._stopped = True
        self._end()

    def stop(self) -> None:
        """Kill the process, from another thread; whoever waits for its answer gets a BackendError.

        What it works at is lost.
        """
        self._stopped = True
        if (process := self._process) is not None:
            process.kill()

    def _try_alone(self, shard: Shard, place: int, known: "_Deaths") -> None:
        try:
            self._ask(replace(shard, only=place, one_by_one=True))
        except _WorkerDied as died:
            known.add_of_one(place, died)

    def _ask(self, shard: Shard) -> Part:
        pipe, held = self._running_pipe(), dict[int, None]()
        try:
            pipe.send(shard)
            while True:
                message = self._next(pipe)
                if isinstance(message, Begun):
                    held[message.place] = None
                elif isinstance(message, Ended):
                    for place in message.places:
                        held.pop(place, None)
                elif isinstance(message, Failed):
                    raise _WorkerDied(f"said: {message.message}")
                elif isinstance(message, Part):
                    return message
                # Alive needs no answer: that there is a word is all it says.
        except _WorkerDied as died:
            self._end()
            died.held = tuple(held)
            raise
        except OSError:
            raise _WorkerDied(self._end(), tuple(held)) from None

    def _running_pipe(self) -> Connection:
        for attempt in range(1, _STARTS + 1):
            if self._pipe is not None:
                return self._pipe
            if self._stopped:
                raise BackendError("The workers were stopped.")
            try:
                self._pipe = self._launched()
            except (_WorkerDied, OSError) as error:
                how = str(error) if isinstance(error, _WorkerDied) else self._end()
                if attempt == _STARTS:
                    raise BackendError(
                        f"A worker {how} while it loaded the model, {_STARTS} times in a row. If "
                        "the memory does not suffice for so many, give fewer --workers."
                    ) from error
        raise BackendError("The worker does not start.")

    def _launched(self) -> Connection:
        """A new process that is ready.

        Raises:
            FlorenceEdgeError: it says why the model cannot be loaded.
            _WorkerDied, OSError: it ended without a word.
        """
        pipe, far = Pipe()
        with far:
            self._process = subprocess.Popen(
                [sys.executable, "-m", f"{__package__}.worker", str(far.fileno())],
                stdin=subprocess.DEVNULL,
                env=self._environment,
                pass_fds=(far.fileno(),),
            )
        if self._stopped:  # whoever said so may have seen no process yet
            self._process.kill()
        try:
            pipe.send(self._settings)
            message = self._next(pipe)
        except BaseException:
            pipe.close()
            raise
        if isinstance(message, Ready):
            return pipe
        pipe.close()
        self._end()
        raise BackendError(message.message if isinstance(message, Failed) else repr(message))

    def _next(self, pipe: Connection) -> object:
        """The next message; an end of the process is an OSError, as of its pipe."""
        if not pipe.poll(self._patience):
            self._end()
            raise _WorkerDied(f"said nothing for {self._patience:g} s")
        try:
            return pipe.recv()
        except EOFError:
            raise ConnectionResetError from None

    def _end(self) -> str:
        """End the process if it runs; how it ended, as a sentence about a worker goes on."""
        process, self._process = self._process, None
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None
        if process is None:
            return "was stopped"
        with suppress(subprocess.TimeoutExpired):  # it may be on its way
            process.wait(_GOODBYE)
        status = process.poll()
        process.kill()
        process.wait()
        return _how_it_ended(status)


class _WorkerDied(Exception):
    """A process is gone; the message goes on a sentence about the worker."""

    def __init__(self, how: str, held: Sequence[int] = ()) -> None:
        super().__init__(how)
        self.held = tuple(held)


class _Deaths:
    """What is known about the deaths over one shard."""

    def __init__(self, shard: int) -> None:
        self.broken: dict[int, str] = {}
        """Pictures that ended two processes, with what is said of them."""
        self.one_by_one = False
        self._shard = shard
        self._deaths: Counter[int] = Counter()
        self._of_batches = self._total = 0

    def add(self, died: _WorkerDied) -> None:
        """A process died over a batch, or over one picture where they go one by one."""
        self._deaths.update(died.held)
        if self.one_by_one:
            for place in died.held:
                self._judge(place, died)
        self._of_batches += 1
        self.one_by_one = self._of_batches >= _MAX_BATCH_DEATHS
        self._check(died)

    def add_of_one(self, place: int, died: _WorkerDied) -> None:
        """A process died over a picture that was tried alone."""
        self._deaths[place] += 1
        self._judge(place, died)
        self._check(died)

    def _judge(self, place: int, died: _WorkerDied) -> None:
        if self._deaths[place] > 1:
            self.broken[place] = f"It ended its worker twice. The worker {died}."

    def _check(self, died: _WorkerDied) -> None:
        self._total += 1
        if len(self.broken) > _MAX_BROKEN or self._total > _MAX_DEATHS:
            raise BackendError(
                f"Workers keep ending over shard {self._shard}: the last one {died}. That many "
                "pictures are rarely to blame: look at the memory (fewer --workers, a smaller "
                "--batch) and at the device. The same command goes on."
            )


def _how_it_ended(status: int | None) -> str:
    if status is None:
        return "hung and was stopped"
    return how_it_ended(status, ())  # what it said is on the terminal
