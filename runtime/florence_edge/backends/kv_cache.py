"""The self-attention (KV) caches on the GPU, and what a decoder's step enqueues on them.

A bucket has one capacity. CUDA graphs are captured for it, since they freeze addresses and shapes:
one for each kind of step. In a step, cache rows move twice: `kernels.follow` gives each beam the
past of its parent, and `kernels.place_rows` puts the rows that the decoder returns behind the
others. When a bucket is full, `CacheBuckets.grow` copies its rows to the next.

A decoder may write its rows itself: its caches come out where they came in. That of ONNX Runtime's
CUDA provider (contract.cuda_decoder) has buckets, too. TensorRT's (contract.in_place_decoder) has
one set of caches, made for the longest answer, and each bucket attends to more of their rows.
"""

import logging
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Literal, TypeAlias

from .. import contract
from ..cuda.buffers import DeviceView
from ..cuda.device import CudaGraph
from ..errors import BackendError
from .device_search import SearchMemory
from .gpu_memory import BatchMemory

logger = logging.getLogger(__name__)

StepKind: TypeAlias = Literal["step", "follow and step", "first step", "next step"]


class CacheBucket:
    """Self-attention caches of one capacity, the decoder bound to them, and its graphs."""

    def __init__(self, memory: BatchMemory, capacity: int, owned: ExitStack) -> None:
        self._memory = memory
        self._cuda = memory.model.cuda
        self.capacity = capacity
        size, shape = memory.model.size, memory.shape
        parts = [(i, part) for i in range(size.decoder_layers) for part in contract.PARTS]
        self._session = memory.model.sessions[contract.DECODER]
        more = dict(memory.new_rows)
        if memory.model.in_place:
            self.caches = memory.kept_caches
            numbers = memory.cache_rows
            more["rows"] = DeviceView(numbers.address, (capacity,), numbers.dtype)
        else:
            rows = (shape.images * shape.beams, size.decoder_heads, capacity, size.head_dim)
            array = self._cuda.array((len(parts), *rows), memory.model.floats)
            owned.callback(array.close)
            self.caches = array.view
        if memory.model.writes_rows:  # out where they came in
            more |= {contract.kept_cache(*of): self.caches[i] for i, of in enumerate(parts)}
        self._decode = self._session.bind(
            {
                "token_ids": memory.inputs.device["token_ids"],
                "position": memory.inputs.device["position"],
                "encoder_mask": memory.prompt.device["encoder_mask"],
                **{contract.self_cache(*of): self.caches[i] for i, of in enumerate(parts)},
                **memory.cross_caches,
                **{name: _by_rows(view) for name, view in memory.scores.device.items()},
                "logits": _by_rows(memory.logits.view),
                **more,
            }
        )
        self._has_run = False
        self._graphs: dict[StepKind, CudaGraph] = {}
        owned.callback(self._forget)

    def clear(self) -> None:
        """Zeros: unwritten rows are masked, but a NaN among them would survive the mask."""
        self._cuda.zero(self.caches)

    def step(self) -> None:
        """Enqueue one step of the decoder on what the inputs hold."""
        self._enqueue("step", self._send_and_step)

    def follow_and_step(self) -> None:
        """Enqueue the same, and before it that rows follow their parents."""
        self._enqueue("follow and step", self._send_follow_and_step)

    def first_step(self, search: SearchMemory) -> None:
        """Enqueue the first step on what the inputs hold, and the search's behind it."""
        self._enqueue("first step", partial(self._send_and_search, search))

    def next_step(self, search: SearchMemory) -> None:
        """Enqueue a step on what the search on the GPU has chosen, and the search's behind it."""
        self._enqueue("next step", partial(self._follow_and_search, search))

    def _enqueue(self, kind: StepKind, enqueue: Callable[[], None]) -> None:
        """Enqueue a kind of step, as a graph once the decoder has run."""
        if kind not in self._graphs and self._may_capture():
            self._capture(kind, enqueue)
        if kind in self._graphs:
            self._cuda.launch(self._graphs[kind])
            return
        enqueue()
        self._has_run = True  # engines prepare themselves, and allocate, in a shape's first run

    def _may_capture(self) -> bool:
        return self._has_run and self._session.capturable and self._memory.model.captures

    def _capture(self, kind: StepKind, enqueue: Callable[[], None]) -> None:
        try:
            self._graphs[kind] = self._cuda.capture(enqueue)
        except BackendError as refused:  # nothing of the step has run
            self._session.capturable = False
            logger.warning(
                "A step of the decoder cannot be captured as a CUDA graph: steps are enqueued call "
                "by call, which is slower. %s",
                str(refused),  # a record may be kept: with the error, all that its frames hold
            )

    def _send_and_step(self) -> None:
        self._memory.inputs.send(self._cuda.stream)
        self._score()

    def _send_follow_and_step(self) -> None:
        inputs = self._memory.inputs
        inputs.send(self._cuda.stream)
        self._memory.model.kernels.follow(self.caches, inputs.device, self.capacity)
        self._score()

    def _send_and_search(self, search: SearchMemory) -> None:
        self._memory.inputs.send(self._cuda.stream)
        self._decode_and_search(search)

    def _follow_and_search(self, search: SearchMemory) -> None:
        memory = self._memory
        search.feed_next()
        if memory.shape.beams > 1:
            memory.model.kernels.follow(self.caches, memory.inputs.device, self.capacity)
        self._decode_and_search(search)

    def _decode_and_search(self, search: SearchMemory) -> None:
        memory = self._memory
        self._decode_and_place()
        memory.model.kernels.advance_beams(
            memory.scores.device,
            search.rules,
            memory.inputs.device,
            search.following,
            search.state,
            search.kept.device,
        )

    def _score(self) -> None:
        self._decode_and_place()
        self._memory.scores.fetch(self._cuda.stream)

    def _decode_and_place(self) -> None:
        memory = self._memory
        self._decode()
        if memory.new_rows:
            rows, position = list(memory.new_rows.values()), memory.inputs.device["position"]
            memory.model.kernels.place_rows(self.caches, rows, position)

    def _forget(self) -> None:
        for graph in self._graphs.values():
            graph.close()
        self._graphs.clear()
        del self._decode, self._session  # a decoder whose turn is over may still refer to us


def _by_rows(view: DeviceView) -> DeviceView:
    """The same memory with images and beams as one dimension, as the decoder gives its scores."""
    images, beams, *rest = view.shape
    return DeviceView(view.address, (images * beams, *rest), view.dtype)


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
        if not self._memory.model.in_place:
            bucket.clear()
            self._memory.model.cuda.copy_rows(bucket.caches, full.caches)
        return bucket

    def close(self) -> None:
        """Destroy the graphs and free the caches."""
        self._owned.close()
        self._buckets.clear()
