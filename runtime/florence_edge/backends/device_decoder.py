"""The decoder's loop on the device.

A step is one launch of a CUDA graph and one wait:

    tokens, position, parents ──copy──> follow ──> decoder ──> place_rows ──copy──> top K
                                          │           ^  │         │
                                          └─> caches ─┘  └─ rows ──┘

`follow` gives rows the past of their parents, where a beam left its own; most steps do without, and
have a graph of their own. `place_rows` puts the rows that the decoder returns behind the others.
Both read the position from device memory, so one graph serves all steps of a cache capacity. When
the caches are full, the next capacity (contract.cache_capacity) takes over with a copy of them.

A single greedy row may take several such steps in one launch (run_ahead.py): then `feed_best`
follows each, and the scores of all are copied at the end.

A decoder that works in place (contract.in_place_decoder) needs no `place_rows`, and has one
capacity for all steps.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from ..errors import BackendError
from ..logits import Ints
from ..search import Floats, Scores
from .batch_memory import BatchMemory
from .cache_bucket import CacheBuckets
from .lineage import Lineage
from .run_ahead import RunAhead


class DeviceDecoder:
    """One generation; the memory is lent until the next generation of this shape."""

    def __init__(self, memory: BatchMemory, buckets: CacheBuckets) -> None:
        self._memory = memory
        self._buckets = buckets
        memory.user = self
        self._cuda = memory.model.cuda
        self._lineage = Lineage(memory.shape.images, memory.shape.beams)
        self._position = -1
        self._bucket = buckets.at_least(1)
        self._bucket.clear()
        self._log_probs_at = -1  # whose log-probabilities lie on the device: after a run, its last
        self._log_probs: Floats | None = None  # of this position, once somebody asked
        top = memory.scores.host
        self._scores = [
            Scores(top["top_log_probs"][i], top["top_ids"][i], self._full(i))
            for i in range(memory.shape.images)
        ]
        self._ahead = RunAhead(memory, self._full(0)) if memory.runs_ahead else None

    def step(self, tokens: Ints, parents: Ints) -> Sequence[Scores]:
        """See `Decoder.step`."""
        with self._whole():
            return self._step(tokens, parents)

    def _step(self, tokens: Ints, parents: Ints) -> Sequence[Scores]:
        self._position += 1
        self._log_probs = None
        ahead = self._ahead
        if ahead is not None and ahead.feed(self._position, int(tokens[0, 0])):
            return [ahead.scores(self._position)]

        self._cuda.activate()
        moves = self._lineage.follow(parents, self._position)
        if self._position == self._bucket.capacity:
            self._bucket = self._buckets.grow(self._bucket)
        if ahead is not None and ahead.fits(self._position, self._bucket.capacity):
            self._run(self._bucket.run_ahead, tokens)
            ahead.begin(self._position)
            self._log_probs_at = ahead.last
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
        self._log_probs_at = self._position

    def _full(self, image: int) -> Callable[[], Floats]:
        def full() -> Floats:
            with self._whole():
                if self._log_probs is None:
                    self._log_probs = self._fetch_log_probs()
            of_image: Floats = self._log_probs[image]
            return of_image

        return full

    def _fetch_log_probs(self) -> Floats:
        """A step in the midst of a run ahead is taken again, alone: it writes what is there."""
        if self._log_probs_at != self._position:
            self._cuda.activate()
            self._run(self._bucket.step, self._memory.inputs.host["history"][self._position])
        return self._memory.fetch_log_probs()

    @contextmanager
    def _whole(self) -> Iterator[None]:
        """Work that is done or ends this generation: half of a step leaves no step's caches."""
        if self._memory.user is not self:
            raise BackendError(
                "This decoder's memory has gone to a later prompt, a step of it failed, or its "
                "model is closed. Finish one generation before the next begins, or load the model "
                "twice."
            )
        try:
            yield
        except BaseException:
            self._memory.user = None
            raise
