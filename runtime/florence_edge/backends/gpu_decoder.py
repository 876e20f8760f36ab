"""The decoder's loop on the GPU, one step at a time or several in one launch (multi-step).

A step is one launch of a CUDA graph and one wait:

    tokens, position, parents ──copy──> follow ──> decoder ──> place_rows ──copy──> top K
                                          │           ^  │         │
                                          └─> caches ─┘  └─ rows ──┘

`follow` gives rows the past of their parents, where a beam left its own; most steps do without, and
have a graph of their own. `place_rows` puts the rows that the decoder returns behind the others.
Both read the position from device memory, so one graph serves all steps of a cache capacity. When
the caches are full, the next capacity (contract.cache_capacity) takes over with a copy of them
(kv_cache.py). A decoder that works in place (contract.in_place_decoder) needs no `place_rows`, and
has one capacity for all steps.

Multi-step: a single greedy row may take several such steps in one launch, ahead of the search. The
GPU feeds each with what the search will most likely choose (`feed_best` in kernels.cu) and keeps
the scores of all, which are copied at the end. The search still decides: it is given the kept
scores one step after the other, and the first token that differs from the guess makes the rest
void. So answers are what they are without; but host and GPU meet once for several tokens, at the
price of steps behind the end of the answer. FLORENCE_MULTI_STEP=4 requests it. What it brings has
not been measured on a GPU, so it is off.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from ..errors import BackendError, RequestError
from ..search import Float32s, Ints, Scores
from .beam_reorder import BeamReorder
from .gpu_memory import BatchMemory
from .kv_cache import CacheBuckets

MULTI_STEP = "FLORENCE_MULTI_STEP"  # environment variable: greedy steps in one launch
MAX_STEPS = 32  # half of the smallest cache, so that some launches of several fit into it


def requested_steps() -> int:
    """Greedy steps in one launch: what the environment requests, else 1.

    Raises:
        RequestError: it is not a number of steps.
    """
    requested = os.environ.get(MULTI_STEP, "") or "1"
    if not requested.isdecimal() or not 1 <= int(requested) <= MAX_STEPS:
        raise RequestError(
            f"{MULTI_STEP} is {requested!r}; expected a number of steps from 1 (off) to "
            f"{MAX_STEPS}."
        )
    return int(requested)


class GpuDecoder:
    """One generation; the memory is lent until the next generation of this shape."""

    def __init__(self, memory: BatchMemory, buckets: CacheBuckets) -> None:
        self._memory = memory
        self._buckets = buckets
        memory.user = self
        self._cuda = memory.model.cuda
        self._reorder = BeamReorder(memory.shape.images, memory.shape.beams)
        self._position = -1
        self._bucket = buckets.at_least(1)
        self._bucket.clear()
        # The position whose log-probabilities lie on the GPU: after several steps, the last.
        self._log_probs_at = -1
        self._scores_at = -1  # the position whose scores lie on the host, but for several steps
        self._log_probs: Float32s | None = None  # of this position, once they were fetched
        top = memory.scores.host
        self._scores = [
            Scores(
                top["top_log_probs"][i], top["top_ids"][i], self._full(i), self._log_normalizer(i)
            )
            for i in range(memory.shape.images)
        ]
        self._multi_step: MultiStep | None = None
        if memory.is_multi_step:
            self._multi_step = MultiStep(memory, self._full(0), self._log_normalizer(0))

    def step(self, tokens: Ints, parents: Ints) -> Sequence[Scores]:
        """See `DecoderSession.step`."""
        with self._whole():
            return self._step(tokens, parents)

    def _step(self, tokens: Ints, parents: Ints) -> Sequence[Scores]:
        self._position += 1
        self._log_probs = None
        ahead = self._multi_step
        if ahead is not None and ahead.feed(self._position, int(tokens[0, 0])):
            return [ahead.scores(self._position)]

        self._cuda.activate()
        moves = self._reorder.follow(parents, self._position)
        if self._position == self._bucket.capacity:
            self._bucket = self._buckets.grow(self._bucket)
        if ahead is not None and ahead.fits(self._position, self._bucket.capacity):
            self._run(self._bucket.multi_step, tokens)
            ahead.begin(self._position)
            self._log_probs_at, self._scores_at = ahead.last, -1
            return [ahead.scores(self._position)]

        if moves is None:
            self._run(self._bucket.step, tokens)
        else:
            _, _, first = moves
            self._memory.inputs.host["parents"][:] = parents
            self._memory.inputs.host["first"][0] = first
            self._run(self._bucket.follow_and_step, tokens)
        return self._scores

    def _run(self, enqueue: Callable[[], None], tokens: Ints) -> None:
        """Feed the tokens at this position, and wait for what comes of it."""
        inputs = self._memory.inputs.host
        inputs["position"][0] = self._position
        inputs["token_ids"][:] = tokens
        enqueue()
        self._cuda.synchronize()
        self._log_probs_at = self._scores_at = self._position

    def _full(self, image: int) -> Callable[[], Float32s]:
        def full() -> Float32s:
            with self._whole():
                if self._log_probs is None:
                    self._log_probs = self._fetch_log_probs()
            of_image: Float32s = self._log_probs[image]
            return of_image

        return full

    def _log_normalizer(self, image: int) -> Callable[[], Float32s]:
        def log_normalizer() -> Float32s:
            with self._whole():
                if self._multi_step is not None and self._scores_at != self._position:
                    # Several steps do not keep it, and who asks once asks at every step.
                    self._multi_step.stop()
                    self._take_again()
            of_image: Float32s = self._memory.scores.host["log_normalizer"][image]
            return of_image

        return log_normalizer

    def _fetch_log_probs(self) -> Float32s:
        if self._log_probs_at != self._position:
            self._take_again()
        return self._memory.fetch_log_probs()

    def _take_again(self) -> None:
        """Take a step in the midst of several again, alone: it writes what is there."""
        self._cuda.activate()
        self._run(self._bucket.step, self._memory.inputs.host["history"][self._position])

    @contextmanager
    def _whole(self) -> Iterator[None]:
        """Work that is done or ends this generation: half of a step leaves no step's caches."""
        self._cuda.check_open()
        if self._memory.user is not self:
            raise BackendError(
                "This decoder's memory has gone to a later prompt, or a step of it failed. Finish "
                "one generation before the next begins, or load the model twice."
            )
        try:
            yield
        except BaseException:
            self._memory.user = None
            raise


class MultiStep:
    """What one generation knows of the steps that were taken ahead of its search.

    `full` and `log_normalizer` fetch what several steps do not keep, of the step that the search
    is at.
    """

    def __init__(
        self,
        memory: BatchMemory,
        full: Callable[[], Float32s],
        log_normalizer: Callable[[], Float32s],
    ) -> None:
        kept = memory.multi_step_scores.host
        self._steps = memory.model.steps_per_launch
        self._history = memory.inputs.host["history"]
        self._guesses = kept["token"]
        self._scores = [
            Scores(kept["top_log_probs"][i], kept["top_ids"][i], full, log_normalizer)
            for i in range(self._steps)
        ]
        self._stopped = False
        self._first = 0  # the position of the first step that is kept
        self._valid = 0  # how many of them hold

    def feed(self, position: int, token: int) -> bool:
        """Note the token that is fed at `position`.

        Returns:
            Whether its step has been taken already. If not, the steps behind it are void, too.
        """
        self._history[position] = token
        step = position - self._first
        if step < self._valid and token == self._guesses[step - 1]:
            return True
        self._valid = 0
        return False

    def fits(self, position: int, capacity: int) -> bool:
        """Whether several steps may begin at `position`.

        The first step stays alone: what follows it is forced, not guessed. Where a cache ends, the
        last steps stay alone, too.
        """
        return not self._stopped and 0 < position <= capacity - self._steps

    def stop(self) -> None:
        """Take no more steps ahead; those that were taken are void."""
        self._stopped, self._valid = True, 0

    def begin(self, position: int) -> None:
        """Note that a launch of several steps was made at `position`."""
        self._first, self._valid = position, self._steps

    @property
    def last(self) -> int:
        """The position of the last step of the latest launch of several."""
        return self._first + self._steps - 1

    def scores(self, position: int) -> Scores:
        """The scores that were kept for this step."""
        return self._scores[position - self._first]
