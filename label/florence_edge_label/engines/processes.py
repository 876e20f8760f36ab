"""Workers on this machine: a thread each, which feeds one supervised process."""

from collections.abc import Generator, Iterator
from contextlib import closing
from queue import Full, Queue
from threading import Event, Lock, Thread

from florence_edge import BackendError, FlorenceEdgeError

from ..labeller import Part, Shard, WorkerSettings
from ..supervised import SupervisedWorker
from .capacity import Workers

_Outcome = Part | Exception | None  # None: a thread has nothing left to do

_POLL = 0.5  # seconds


def answer_in_processes(
    shards: Iterator[Shard], settings: WorkerSettings, workers: Workers, patience: float
) -> Generator[Part, None, None]:
    """The parts of the shards as they come, not in their order.

    Few shards and parts are in memory at a time. An iterator that is not used up is to be closed,
    which ends the processes.

    Raises:
        FlorenceEdgeError, OSError: a model cannot be loaded, workers keep dying, or the list of
            pictures cannot be read; or a mistake of ours, as a BackendError that names it.
    """
    gpus = workers.gpus or ("",) * workers.count
    supervised = [
        SupervisedWorker(settings, {"CUDA_VISIBLE_DEVICES": gpu} if gpu else {}, patience)
        for gpu in gpus
    ]
    feed = _Feed(shards, places=2 * len(supervised))
    threads = [
        Thread(target=feed.work, args=(worker,), name=f"label-{number}", daemon=True)
        for number, worker in enumerate(supervised)
    ]
    try:
        for thread in threads:
            thread.start()
        working = len(threads)
        while working:
            outcome = feed.outcomes.get()
            if outcome is None:
                working -= 1
            elif isinstance(outcome, Part):
                yield outcome
            else:
                raise outcome
    finally:
        feed.stop.set()
        for worker in supervised:
            worker.stop()
        for thread in threads:
            thread.join()


def _unexpected(error: Exception) -> BackendError:
    found = BackendError(
        f"A worker cannot go on: {type(error).__name__}: {error}. Please report this; what is done "
        "is kept, and the same command goes on."
    )
    found.__cause__ = error
    return found


class _Feed:
    """What the threads share: the shards that are left, and where parts go."""

    def __init__(self, shards: Iterator[Shard], places: int) -> None:
        self.stop = Event()
        self.outcomes: Queue[_Outcome] = Queue(places)
        self._shards = shards
        self._lock = Lock()

    def work(self, worker: SupervisedWorker) -> None:
        """Answer shards until there is none left, or the run is stopped."""
        try:
            with closing(worker):
                while (shard := self._next()) is not None:
                    self._hand_over(worker.answer(shard))
        except (FlorenceEdgeError, OSError) as error:
            self._hand_over(error)
        except Exception as error:  # noqa: BLE001 - whatever it is, a run must not look done
            self._hand_over(_unexpected(error))
        finally:
            self._hand_over(None)

    def _next(self) -> Shard | None:
        with self._lock:
            return None if self.stop.is_set() else next(self._shards, None)

    def _hand_over(self, outcome: _Outcome) -> None:
        while not self.stop.is_set():
            try:
                self.outcomes.put(outcome, timeout=_POLL)
                return
            except Full:
                continue
