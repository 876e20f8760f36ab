from dataclasses import replace

import pytest

from florence_edge.errors import BackendError
from florence_edge_benchmarks.speed.run import Rounds, run_rounds
from florence_edge_benchmarks.systems.workload import TimedAnswer, Workload
from florence_edge_benchmarks.timing import Timing

WORKLOAD = Workload(task="OD", beams=1, new_tokens=3, batch=1, image="a.jpg")


class Scripted:
    """Logs in which order it was asked, and fails from some answer on."""

    def __init__(self, name: str, log: list[str], fails_at: int | None = None) -> None:
        self.name, self.log, self.fails_at, self.count = name, log, fails_at, 0

    def answer(self, workload: Workload) -> Timing:
        self.log.append(self.name)
        self.count += 1
        if self.count == self.fails_at:
            raise BackendError("no memory left")
        return Timing(seconds=self.count, stages={}, steps=(), token_ids=((2, 0),))


def scripted(log: list[str], **fails_at: int | None) -> dict[str, TimedAnswer]:
    return {name: Scripted(name, log, fails).answer for name, fails in fails_at.items()}


def test_systems_take_turns_and_every_other_round_goes_backwards() -> None:
    log: list[str] = []
    run_rounds(scripted(log, a=None, b=None), [WORKLOAD], Rounds(warmup=1, timed=3))
    assert "".join(log) == "abbaabba"


def test_workloads_share_their_rounds() -> None:
    log: list[str] = []
    workloads = [WORKLOAD, replace(WORKLOAD, beams=3)]

    def system(name: str) -> TimedAnswer:
        def answer(workload: Workload) -> Timing:
            log.append(f"{name}{workload.beams}")
            if (name, workload.beams) == ("b", 3):
                raise BackendError("too many beams")
            return Timing(seconds=workload.beams, stages={}, steps=(), token_ids=((2, 0),))

        return answer

    named = {name: system(name) for name in "ab"}
    greedy, beams = run_rounds(named, workloads, Rounds(warmup=1, timed=2))
    assert log == ["a1", "b1", "a3", "b3", "a3", "b1", "a1", "a1", "b1", "a3"]
    assert [each.seconds for each in beams["a"] if isinstance(each, Timing)] == [3, 3]
    assert beams["b"] == "too many beams"
    assert len(greedy["b"]) == 2


def test_warm_up_is_not_timed() -> None:
    (outcomes,) = run_rounds(scripted([], a=None), [WORKLOAD], Rounds(warmup=2, timed=3))
    assert isinstance(outcomes["a"], list)
    assert [timing.seconds for timing in outcomes["a"]] == [3, 4, 5]


@pytest.mark.parametrize("fails_at", [1, 3])
def test_one_that_fails_is_left_out_and_the_others_go_on(fails_at: int) -> None:
    log: list[str] = []
    systems = scripted(log, a=fails_at, b=None)
    (outcomes,) = run_rounds(systems, [WORKLOAD], Rounds(warmup=1, timed=4))
    assert outcomes["a"] == "no memory left"
    assert len(outcomes["b"]) == 4
    assert log.count("a") == fails_at
