"""The decoder's loop on the device.

A step is one launch of a CUDA graph and one wait:

    tokens, position, parents ──copy──> follow ──> decoder ──> place_rows ──copy──> top K
                                          │           ^  │         │
                                          └─> caches ─┘  └─ rows ──┘

`follow` gives rows the past of their parents, where a beam left its own; most steps do without, and
have a graph of their own. `place_rows` puts the rows that the decoder returns behind the others.
Both read the position from device memory, so one graph serves all steps of a cache capacity. When
the caches are full, the next capacity (contract.cache_capacity) takes over with a copy of them.

A decoder that works in place (contract.in_place_decoder) needs no `place_rows`, and has one
capacity for all steps.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack

from .. import contract
from ..cuda import Graph
from ..errors import BackendError
from ..logits import Ints
from ..search import Floats, Scores
from .batch_memory import BatchMemory
from .lineage import Lineage


class DeviceDecoder:
    """One generation; the memory is lent until the next generation of this shape."""

    def __init__(self, memory: BatchMemory, buckets: "CacheBuckets") -> None:
        self._memory = memory
        self._buckets = buckets
        memory.user = self
        self._cuda = memory.model.cuda
        self._lineage = Lineage(memory.shape.images, memory.shape.beams)
        self._position = -1
        self._bucket = buckets.at_least(1)
        self._bucket.clear()
        self._log_probs: Floats | None = None  # of this step, once somebody asked
        top = memory.scores.host
        self._scores = [
            Scores(top["top_log_probs"][i], top["top_ids"][i], self._full(i))
            for i in range(memory.shape.images)
        ]

    def step(self, tokens: Ints, parents: Ints) -> Sequence[Scores]:
        """See `Decoder.step`."""
        self._check_lent()
        self._cuda.activate()
        self._position += 1
        moves = self._lineage.follow(parents, self._position)
        if self._position == self._bucket.capacity:
            self._bucket = self._buckets.grow(self._bucket)

        inputs = self._memory.inputs.host
        inputs["position"][0] = self._position
        inputs["token_ids"][:] = tokens
        if moves is not None:
            _, _, first = moves
            inputs["parents"][:] = parents
            inputs["first"][0] = first

        self._bucket.step(follow=moves is not None)
        self._cuda.synchronize()
        self._log_probs = None
        return self._scores

    def _full(self, image: int) -> Callable[[], Floats]:
        def full() -> Floats:
            self._check_lent()
            if self._log_probs is None:
                self._log_probs = self._memory.fetch_log_probs()
            of_image: Floats = self._log_probs[image]
            return of_image

        return full

    def _check_lent(self) -> None:
        if self._memory.user is not self:
            raise BackendError(
                "This decoder's memory has gone to a later prompt, or its model is closed. Finish "
                "one generation before the next begins, or load the model twice."
            )


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
        self._graphs: dict[bool, Graph] = {}
        owned.callback(self._forget)

    def clear(self) -> None:
        """Zeros: unwritten rows are masked, but a NaN among them would survive the mask."""
        self._cuda.zero(self.caches)

    def step(self, *, follow: bool) -> None:
        """Enqueue one step of the decoder on what the inputs hold."""
        if not self._has_run or not self._session.capturable:
            self._enqueue(follow)  # TensorRT prepares itself in the first run of a shape
            self._has_run = True
            return
        if follow not in self._graphs:
            self._graphs[follow] = self._cuda.capture(lambda: self._enqueue(follow))
        self._cuda.launch(self._graphs[follow])

    def _enqueue(self, follow: bool) -> None:
        memory, stream = self._memory, self._cuda.stream
        kernels, inputs = memory.model.kernels, memory.inputs.places
        now = inputs["position"]
        memory.inputs.send(stream)
        if follow:
            kernels.follow(self.caches, inputs["parents"], inputs["first"], now)
        self._decode()
        if memory.new_rows:
            kernels.place_rows(self.caches, list(memory.new_rows.values()), now)
        memory.scores.fetch(stream)

    def _forget(self) -> None:
        for graph in self._graphs.values():
            graph.close()
        self._graphs.clear()
        del self._decode


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
        """The next bucket, with the rows of the one that is full."""
        bucket = self.at_least(full.capacity + 1)
        bucket.clear()
        self._memory.model.cuda.copy_rows(bucket.caches, full.caches)
        return bucket

    def close(self) -> None:
        """Destroy the graphs and free the caches."""
        self._owned.close()
        self._buckets.clear()
