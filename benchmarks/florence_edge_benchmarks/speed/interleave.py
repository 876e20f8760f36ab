"""Timed rounds: every system answers once a round, A B A B, so that all see the same machine.

Other work on a machine slows whole stretches of time. Systems that take turns share those
stretches, and the ratio of two answers of one round holds where the seconds do not. So do
workloads of one round: three beams against one, four pictures against one.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from florence_edge.errors import BackendError

from ..gauges.stages import Timing
from ..systems.workload import Workload

Contestant = Callable[[Workload], Timing]
"""Answers once; BackendError where that fails. `Competitor.answer` is one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rounds:
    """How often: warm-up answers are not timed."""

    warmup: int = 1
    timed: int = 5


Outcome = list[Timing] | str
"""The timings of all rounds, or the message of a failure."""


def run_rounds(
    contestants: Mapping[str, Contestant], workloads: Sequence[Workload], rounds: Rounds
) -> list[dict[str, Outcome]]:
    """Let all answer every workload in turn; one that fails is left out of that workload.

    Every other round goes backwards, so that none is always the one who follows another.

    Returns:
        The outcomes by label, one mapping a workload.
    """
    outcomes: list[dict[str, Outcome]] = [{label: [] for label in contestants} for _ in workloads]
    turns = [
        (workload, of_workload, label)
        for workload, of_workload in zip(workloads, outcomes, strict=True)
        for label in contestants
    ]
    for number in range(rounds.warmup + rounds.timed):
        for workload, of_workload, label in turns if number % 2 == 0 else turns[::-1]:
            timings = of_workload[label]
            if isinstance(timings, str):
                continue
            try:
                timing = contestants[label](workload)
            except BackendError as error:
                of_workload[label] = str(error)
                continue
            if number >= rounds.warmup:
                timings.append(timing)
    return outcomes
