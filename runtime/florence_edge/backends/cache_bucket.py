"""Self-attention caches on the device, and what a decoder's step enqueues on them.

A bucket has one capacity. CUDA graphs are captured for it, since they freeze addresses and shapes:
one for a step, one for a step in which rows follow their parents first, one for a run of steps.
"""

from collections.abc import Callable
from contextlib import ExitStack
from typing import TypeAlias

from .. import contract
from ..cuda import Graph
from ..errors import BackendError
from .batch_memory import BatchMemory

Work: TypeAlias = "Callable[[CacheBucket], None]"


class CacheBucket:
    """Self-attention caches of one capacity, the decoder bound to them, and its graphs."""

    def __init__(self, memory: BatchMemory, capacity: int, owned: ExitStack) -> None:
        self._memory = memory
        self._cuda = memory.model.cuda
        self.capacity = capacity
        size, shape = memory.model.size, memory.shape
        parts = [(i, part) for i in range(size.decoder_layers) for part in contract.PARTS]
        rows = (shape.images * shape.beams, size.decoder_heads, capacity, size.head_dim)
        array = self._cuda.array((len(parts), *rows), memory.model.floats)
        owned.callback(array.close)
        self.caches = array.place
        self._session = memory.model.sessions[contract.DECODER]
        written = dict(memory.new_rows)
        if memory.model.in_place:  # out where they came in
            written = {contract.kept_cache(*of): self.caches[i] for i, of in enumerate(parts)}
        self._decode = self._session.bind(
            {
                "token_ids": memory.inputs.places["token_ids"],
                "position": memory.inputs.places["position"],
                "encoder_mask": memory.prompt.places["encoder_mask"],
                **{contract.self_cache(*of): self.caches[i] for i, of in enumerate(parts)},
                **memory.cross_caches,
                **memory.scores.places,
                "log_probs": memory.log_probs.place,
                **written,
            }
        )
        self._has_run = False
        self._graphs: dict[Work, Graph] = {}
        owned.callback(self._forget)

    def clear(self) -> None:
        """Zeros: unwritten rows are masked, but a NaN among them would survive the mask."""
        self._cuda.zero(self.caches)

    def step(self) -> None:
        """Enqueue one step of the decoder on what the inputs hold."""
        self._enqueue(CacheBucket._send_and_step)

    def follow_and_step(self) -> None:
        """Enqueue the same, and before it that rows follow their parents."""
        self._enqueue(CacheBucket._send_follow_and_step)

    def run_ahead(self) -> None:
        """Enqueue several steps, each fed with the best token of the one before it."""
        self._enqueue(CacheBucket._send_and_run_ahead)

    def _enqueue(self, work: Work) -> None:
        """Enqueue work, as a graph from its second time on."""
        if not self._has_run or not self._session.capturable:
            work(self)  # TensorRT prepares itself in the first run of a shape
            self._has_run = True
            return
        if work not in self._graphs:
            self._graphs[work] = self._cuda.capture(lambda: work(self))
        self._cuda.launch(self._graphs[work])

    def _send_and_step(self) -> None:
        self._memory.inputs.send(self._cuda.stream)
        self._score()

    def _send_follow_and_step(self) -> None:
        inputs = self._memory.inputs
        inputs.send(self._cuda.stream)
        self._memory.model.kernels.follow(
            self.caches, *(inputs.places[name] for name in ("parents", "first", "position"))
        )
        self._score()

    def _send_and_run_ahead(self) -> None:
        memory, model = self._memory, self._memory.model
        memory.inputs.send(self._cuda.stream)
        # The history is searched in device memory; the mailbox's is only where it comes from.
        fed = {**memory.inputs.places, "history": memory.history}
        self._cuda.copy(fed["history"], memory.inputs.places["history"])
        for step in range(model.steps_ahead):
            self._decode_and_place()
            model.kernels.feed_best(
                memory.scores.places,
                {name: place[step] for name, place in memory.run_scores.places.items()},
                fed,
                ngram=model.generation.no_repeat_ngram_size,
            )
        memory.run_scores.fetch(self._cuda.stream)

    def _score(self) -> None:
        self._decode_and_place()
        self._memory.scores.fetch(self._cuda.stream)

    def _decode_and_place(self) -> None:
        memory = self._memory
        self._decode()
        if memory.new_rows:
            rows, now = list(memory.new_rows.values()), memory.inputs.places["position"]
            memory.model.kernels.place_rows(self.caches, rows, now)

    def _forget(self) -> None:
        for graph in self._graphs.values():
            graph.close()
        self._graphs.clear()
        del self._decode, self._session  # a decoder whose turn is over may still refer to us


class CacheBuckets:
    """The buckets of one `BatchMemory`, each made when an answer first grows into it."""

    def __init__(self, memory: BatchMemory) -> None:
        self._memory = memory
        self._owned = ExitStack()
        self._buckets: dict[int, CacheBucket] = {}

    def at_least(self, tokens: int) -> CacheBucket:
        """The smallest bucket for `tokens`."""
        model = self._memory.model
        capacity = contract.cache_capacity(tokens, model.size.decoder_positions)
        capacity = max(capacity, model.in_place)
        if capacity not in self._buckets:
            with ExitStack() as owned:
                self._buckets[capacity] = CacheBucket(self._memory, capacity, owned)
                self._owned.enter_context(owned.pop_all())
        return self._buckets[capacity]

    def grow(self, full: CacheBucket) -> CacheBucket:
        """The next bucket, with the rows of the one that is full.

        Raises:
            BackendError: there is none; the model has no more positions.
        """
        bucket = self.at_least(full.capacity + 1)
        if bucket is full:
            raise BackendError(
                f"The model has no position behind {full.capacity} tokens. Ask for fewer "
                "(max_new_tokens)."
            )
        bucket.clear()
        self._memory.model.cuda.copy_rows(bucket.caches, full.caches)
        return bucket

    def close(self) -> None:
        """Destroy the graphs and free the caches."""
        self._owned.close()
        self._buckets.clear()
