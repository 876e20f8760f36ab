"""Greedy steps that the device takes ahead of the search, several in one launch.

The device feeds each step with what the search will most likely choose (`feed_best` in kernels.cu)
and keeps the scores of all. The search still decides: it is given the kept scores one step after
the other, and the first token that differs from the guess makes the rest void. So answers are what
they are without; but host and device meet once for several tokens, at the price of steps behind the
end of the answer.

FLORENCE_STEPS_AHEAD=4 asks for it, where one image is answered greedily. What it brings has not
been measured on a GPU, so it is off.
"""

import os
from collections.abc import Callable

from ..errors import BackendError
from ..search import Floats, Scores
from .batch_memory import BatchMemory

STEPS_AHEAD = "FLORENCE_STEPS_AHEAD"  # environment variable: greedy steps in one launch
MOST_STEPS = 32  # half of the smallest cache, so that some runs fit into it


def asked_steps_ahead() -> int:
    """Greedy steps in one launch: what the environment asks for, else 1.

    Raises:
        BackendError: it asks for something else than a number of steps.
    """
    asked = os.environ.get(STEPS_AHEAD, "") or "1"
    if not asked.isdecimal() or not 1 <= int(asked) <= MOST_STEPS:
        raise BackendError(
            f"{STEPS_AHEAD} is {asked!r}; expected a number of steps from 1 (off) to {MOST_STEPS}."
        )
    return int(asked)


class RunAhead:
    """What one generation knows of the steps that were taken ahead of its search.

    `full` fetches the log-probabilities of the step that the search is at.
    """

    def __init__(self, memory: BatchMemory, full: Callable[[], Floats]) -> None:
        run = memory.run_scores.host
        self._steps = memory.model.steps_ahead
        self._history = memory.inputs.host["history"]
        self._guesses = run["token"]
        self._scores = [
            Scores(run["top_log_probs"][i], run["top_ids"][i], full) for i in range(self._steps)
        ]
        self._first = 0  # the position of the first step that is kept
        self._kept = 0  # how many of them hold

    def feed(self, position: int, token: int) -> bool:
        """Note the token that is fed at `position`.

        Returns:
            Whether its step has been taken already. If not, the steps behind it are void, too.
        """
        self._history[position] = token
        step = position - self._first
        if step < self._kept and token == self._guesses[step - 1]:
            return True
        self._kept = 0
        return False

    def fits(self, position: int, capacity: int) -> bool:
        """Whether a run may begin at `position`.

        The first step stays alone: what follows it is forced, and no guess. Where a cache ends, the
        last steps do, too.
        """
        return 0 < position <= capacity - self._steps

    def begin(self, position: int) -> None:
        """A run has been taken from `position` on."""
        self._first, self._kept = position, self._steps

    @property
    def last(self) -> int:
        """The position of the last step of the latest run."""
        return self._first + self._steps - 1

    def scores(self, position: int) -> Scores:
        """The scores that were kept for this step."""
        return self._scores[position - self._first]
