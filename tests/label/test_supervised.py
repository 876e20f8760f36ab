"""Workers that die: who is to blame, and that it ends. The processes are threads here."""

from collections.abc import Callable
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from threading import Thread
from time import sleep

import pytest

from florence_edge import BackendError
from florence_edge_label.labeller import Part, Shard, WorkerSettings
from florence_edge_label.picture_list import Entry
from florence_edge_label.supervised import SupervisedWorker
from florence_edge_label.worker import Alive, Begun, Ended, Failed

SETTINGS = WorkerSettings(bundle="b", questions=(), run="r", batch=4)
SHARD = Shard(number=7, entries=tuple(Entry(name=str(n), place=str(n)) for n in range(10)))

Deadly = Callable[[list[int]], bool]  # whether pictures in hand at the same time end the worker


class Stage:
    """Stands in for processes: each launch is a thread that reads a pipe."""

    def __init__(self, deadly: Deadly, monkeypatch: pytest.MonkeyPatch) -> None:
        self.launches = 0
        self.answered: list[Shard] = []
        self._deadly = deadly
        monkeypatch.setattr(SupervisedWorker, "_launched", lambda _: self._launch())
        monkeypatch.setattr(SupervisedWorker, "_end", self._end)

    @staticmethod
    def _end(worker: SupervisedWorker) -> str:
        if worker._pipe is not None:
            worker._pipe.close()
            worker._pipe = None
        return "was ended by SIGKILL"

    def _launch(self) -> Connection:
        self.launches += 1
        ours, theirs = Pipe()
        Thread(target=self._serve, args=(theirs,), daemon=True).start()
        return ours

    def _serve(self, pipe: Connection) -> None:
        try:
            while self._answer(pipe, pipe.recv()):
                pass
        except (EOFError, OSError):
            pass
        finally:
            pipe.close()

    def _answer(self, pipe: Connection, shard: Shard) -> bool:
        places = [p for p in range(len(shard.entries)) if shard.only in (None, p)]
        step = 1 if shard.one_by_one else SETTINGS.batch
        for first in range(0, len(places), step):
            held = [place for place in places[first : first + step] if place not in shard.broken]
            for place in held:
                pipe.send(Begun(place))
            if self._deadly(held):
                return False
            pipe.send(Ended(tuple(held)))
        self.answered.append(shard)
        pipe.send(Part(number=shard.number, content=b"", pictures=10, failed=len(shard.broken)))
        return True


def answer(deadly: Deadly, monkeypatch: pytest.MonkeyPatch) -> tuple[Shard, Stage]:
    """The shard as it was answered in the end."""
    stage = Stage(deadly, monkeypatch)
    worker = SupervisedWorker(SETTINGS)
    worker.answer(SHARD)
    worker.close()
    return stage.answered[-1], stage


def test_a_worker_that_lives_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    shard, stage = answer(lambda held: False, monkeypatch)
    assert (shard, stage.launches, len(stage.answered)) == (SHARD, 1, 1)


def test_a_picture_that_ends_two_workers_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    shard, stage = answer(lambda held: 5 in held, monkeypatch)
    assert dict(shard.broken) == {5: "It ended its worker twice. The worker was ended by SIGKILL."}
    assert not shard.one_by_one
    assert stage.launches == 3  # the first, the one after it, the one after the trial of 5


def test_several_such_pictures_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    shard, _ = answer(lambda held: bool({1, 2, 9} & set(held)), monkeypatch)
    assert set(shard.broken) == {1, 2, 9}


def test_a_worker_killed_for_other_reasons_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    deaths = iter([False, True] + [False] * 100)
    shard, stage = answer(lambda held: next(deaths), monkeypatch)
    assert shard == SHARD  # in the same batches, so to the last bit
    assert stage.launches == 2


def test_what_only_batches_cause_goes_picture_by_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    shard, _ = answer(lambda held: len(held) > 1, monkeypatch)
    assert (dict(shard.broken), shard.one_by_one) == ({}, True)


def test_workers_that_die_over_everything_end_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = tuple(Entry(name=str(n), place=str(n)) for n in range(100))
    Stage(lambda held: True, monkeypatch)
    with pytest.raises(BackendError, match="Workers keep ending over shard 7"):
        SupervisedWorker(SETTINGS).answer(Shard(number=7, entries=entries))


def test_a_worker_that_cannot_load_says_why(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path_factory.mktemp("none")
    worker = SupervisedWorker(WorkerSettings(bundle=str(folder / "b"), questions=(), run="r"))
    with pytest.raises(BackendError, match="There is no bundle"):
        worker.start()
    worker.close()


def test_a_failing_engine_is_a_death_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Stage, pipe: Connection, shard: Shard) -> bool:
        pipe.send(Begun(3))
        pipe.send(Failed("The GPU is out of memory."))
        return False

    monkeypatch.setattr(Stage, "_answer", refuse)
    Stage(lambda held: False, monkeypatch)
    with pytest.raises(BackendError, match="said: The GPU is out of memory"):
        SupervisedWorker(SETTINGS).answer(SHARD)


def test_a_batch_of_many_questions_is_no_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    def many_questions(self: Stage, pipe: Connection, shard: Shard) -> bool:
        pipe.send(Begun(0))
        for _ in range(8):  # longer in all than anybody waits
            sleep(0.1)
            pipe.send(Alive())
        pipe.send(Part(number=shard.number, content=b"", pictures=10, failed=0))
        return True

    monkeypatch.setattr(Stage, "_answer", many_questions)
    stage = Stage(lambda held: False, monkeypatch)
    worker = SupervisedWorker(SETTINGS, patience=0.6)
    assert worker.answer(SHARD).failed == 0
    assert stage.launches == 1
    worker.close()


def test_a_silent_worker_is_taken_for_hung(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[Connection] = []

    def hang(self: SupervisedWorker) -> Connection:
        ours, theirs = Pipe()
        kept.append(theirs)
        return ours

    monkeypatch.setattr(SupervisedWorker, "_launched", hang)
    worker = SupervisedWorker(SETTINGS, patience=0.01)
    with pytest.raises(BackendError, match=r"said nothing for 0\.01 s"):
        worker.answer(SHARD)
    for pipe in kept:
        pipe.close()
