"""Timed rounds: every system answers once a round, A B A B, so that all see the same machine.

Other work on a machine slows whole stretches of time. Systems that take turns share those
stretches, and the ratio of two answers of one round holds where the seconds do not.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from florence_edge.errors import BackendError

from .stages import Timing
from .workload import Workload

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
    contestants: Mapping[str, Contestant], workload: Workload, rounds: Rounds
) -> dict[str, Outcome]:
    """Let all answer `workload` in turn; one that fails is left out from then on.

    Every other round goes backwards, so that none is always the one who follows another.
    """
    outcomes: dict[str, Outcome] = {label: [] for label in contestants}
    for number in range(rounds.warmup + rounds.timed):
        for label in _order(list(contestants), number):
            timings = outcomes[label]
            if isinstance(timings, str):
                continue
            try:
                timing = contestants[label](workload)
            except BackendError as error:
                outcomes[label] = str(error)
                continue
            if number >= rounds.warmup:
                timings.append(timing)
    return outcomes


def _order(labels: Sequence[str], number: int) -> Sequence[str]:
    return labels if number % 2 == 0 else labels[::-1]
