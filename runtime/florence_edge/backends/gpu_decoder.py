"""The decoder's loop on the GPU, while the search on the host looks at the step before.

A step is one launch of a CUDA graph and one wait:

    tokens, position, parents ──copy──> follow ──> decoder ──> place_rows ──copy──> top K
                                          │           ^  │         │
                                          └─> caches ─┘  └─ rows ──┘

`follow` gives rows the past of their parents, where a beam left its own; most steps do without, and
have a graph of their own. `place_rows` puts the rows that the decoder returns behind the others.
Both read the position from device memory, so one graph serves all steps of a cache capacity. When
the caches are full, the next capacity (contract.cache_capacity) takes over with a copy of them
(kv_cache.py). Decoders that write their rows themselves need no `place_rows`. TensorRT's
(contract.in_place_decoder) has caches for the longest answer at once, and a step reads as many of
their rows as a capacity has; that of ONNX Runtime's CUDA provider (contract.cuda_decoder) grows.

Steps ahead: where the search's rules are known and usual (device_search.py), each step ends with
the search's own step on the GPU (`advance_beams`), and begins with what that has chosen:

    host      launch 1, 2   wait for 1   search 1   launch 3   wait for 2   search 2   launch 4 ...
    GPU       step 1 ─────────────────── step 2 ────────────── step 3 ──────────────── step 4 ...

So the GPU never waits for the search, nor for the host to launch. The search on the host still
decides: it is given every step's scores, and its tokens are compared with those that the GPU has
chosen by the same rules. Where the GPU is not certain (the top K do not suffice) it moves nothing
more, and the host feeds the rest of the answer. Should the two ever differ, the steps behind are
void, the caches are computed again, and that is said. The price is a step or so behind the end of
an answer, whose scores nobody reads: the next answer waits for it, not this one.
FLORENCE_MULTI_STEP says how many steps may be on the GPU at once; 1 has each wait for the search.
Tested over a scripted CUDA; not run on a GPU yet.
"""

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import BackendError, RequestError
from ..options import GenerationConfig
from ..search import Float32s, Ints, Scores
from .beam_reorder import BeamReorder
from .device_search import SearchMemory, rules_of
from .gpu_memory import BatchMemory
from .kv_cache import CacheBuckets

logger = logging.getLogger(__name__)

MULTI_STEP = "FLORENCE_MULTI_STEP"  # environment variable: steps on the GPU at once
MAX_STEPS = 32  # half of the smallest cache
_USUAL_STEPS = 2


def requested_steps() -> int:
    """Steps that may be on the GPU at once: what the environment requests, else 2.

    Raises:
        RequestError: it is not a number of steps.
    """
    requested = os.environ.get(MULTI_STEP, "") or str(_USUAL_STEPS)
    if not requested.isdecimal() or not 1 <= int(requested) <= MAX_STEPS:
        raise RequestError(
            f"{MULTI_STEP} is {requested!r}; expected a number of steps from 1 (each waits for "
            f"the search) to {MAX_STEPS}."
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
        self._logits: Float32s | None = None  # of this position, once they were fetched
        self._scores = self._of_images(memory.scores.host)
        self._ahead: StepsAhead | None = None

    def expect(self, configs: Sequence[GenerationConfig]) -> None:
        """See `AheadDecoder.expect`; all images share the number of beams."""
        search = self._memory.search
        if search is None or not search.trusted or self._position >= 0:
            return
        rules = [of for config in configs if (of := rules_of(config)) is not None]
        if len(rules) < self._memory.shape.images or configs[0].num_beams != search.beams:
            return
        with self._whole():
            self._cuda.activate()
            search.begin(rules)
            scores = [
                self._of_images({name: of[slot] for name, of in search.kept.host.items()})
                for slot in range(search.slots)
            ]
            self._ahead = StepsAhead(search, configs, scores)

    def leave(self, image: int) -> None:
        """See `AheadDecoder.leave`."""
        if self._ahead is not None:
            self._ahead.leave(image)

    def step(self, tokens: Ints, parents: Ints) -> Sequence[Scores]:
        """See `DecoderSession.step`."""
        with self._whole():
            self._cuda.activate()
            self._position += 1
            self._logits = None
            if self._ahead is not None and self._ahead.agrees(self._position, tokens, parents):
                return self._step_ahead(self._ahead, tokens, parents)
            if self._ahead is not None:
                self._come_back(self._ahead, self._position - 1)
            return self._step_alone(tokens, parents)

    def _step_ahead(self, ahead: "StepsAhead", tokens: Ints, parents: Ints) -> Sequence[Scores]:
        """Launch what may be launched by now, and wait for the step at this position."""
        ahead.note(tokens, parents)
        self._make_room()
        for position in ahead.to_launch(self._position, self._bucket.capacity):
            if position == 0:
                self._feed(tokens, 0)
                self._bucket.first_step(ahead.search)
            else:
                self._bucket.next_step(ahead.search)
            ahead.launched(position)
        return ahead.wait(self._position)

    def _step_alone(self, tokens: Ints, parents: Ints) -> Sequence[Scores]:
        """Take the step, fed by the host, and wait for it."""
        moves = self._reorder.follow(parents, self._position)
        self._make_room()
        if moves is None:
            self._run(self._bucket.step, tokens, self._position)
        else:
            _, _, first = moves
            self._memory.inputs.host["parents"][:] = parents
            self._memory.inputs.host["first"][:] = first
            self._run(self._bucket.follow_and_step, tokens, self._position)
        return self._scores

    def _make_room(self) -> None:
        if self._position == self._bucket.capacity:
            self._bucket = self._buckets.grow(self._bucket)

    def _run(self, enqueue: Callable[[], None], tokens: Ints, position: int) -> None:
        """Feed the tokens at a position, and wait for what comes of it."""
        self._feed(tokens, position)
        enqueue()
        self._cuda.synchronize()

    def _feed(self, tokens: Ints, position: int) -> None:
        inputs = self._memory.inputs.host
        inputs["position"][0] = position
        inputs["token_ids"][:] = tokens
        inputs["held"][0] = 0  # on an integrated GPU, the search there has written it

    def _come_back(self, ahead: "StepsAhead", position: int) -> None:
        """Take no more steps ahead; caches and logits become what the step at `position` left.

        If rows followed parents since, every step is taken again with the tokens of each row.
        """
        self._ahead = None
        self._cuda.synchronize()
        for at, (_, parents) in enumerate(ahead.fed[: position + 1]):
            self._reorder.follow(parents, at)
        if ahead.last <= position:
            return
        held = ahead.search.held(position)
        moved = not held and self._memory.shape.beams > 1
        past = pasts(ahead.fed[: position + 1])
        for at in range(0 if moved else position, position + 1):
            self._run(self._bucket.step, past[:, :, at], at)

    def _of_images(self, top: Mapping[str, npt.NDArray[Any]]) -> list[Scores]:
        return [
            Scores(top["top_logits"][i], top["top_ids"][i], top["log_sum_exp"][i], self._all(i))
            for i in range(self._memory.shape.images)
        ]

    def _all(self, image: int) -> Callable[[], Float32s]:
        """What fetches an image's logits of the whole vocabulary."""

        def logits() -> Float32s:
            with self._whole():
                if self._logits is None:
                    self._logits = self._fetch_logits()
            of_image: Float32s = self._logits[image]
            return of_image

        return logits

    def _fetch_logits(self) -> Float32s:
        if self._ahead is not None and self._ahead.last > self._position:
            self._cuda.activate()
            self._come_back(self._ahead, self._position)
        return self._memory.fetch_logits()

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


class StepsAhead:
    """The steps of one generation that were launched before the search had asked for them.

    `scores` are those of each slot, a list an image. `fed` has the tokens and parents of the steps
    that the search has asked for.
    """

    def __init__(
        self,
        search: SearchMemory,
        configs: Sequence[GenerationConfig],
        scores: Sequence[Sequence[Scores]],
    ) -> None:
        self.search = search
        self.fed: list[tuple[Ints, Ints]] = []
        self.last = -1  # the position of the last step that was launched
        self._scores = scores
        self._running = dict(enumerate(configs))

    def agrees(self, position: int, tokens: Ints, parents: Ints) -> bool:
        """Whether the GPU feeds the step at `position` as the search does.

        If it has chosen otherwise, which it must not, nothing is launched ahead any more.
        """
        if position == 0:
            return True
        if self.search.held(position - 1):
            return False
        if self.search.agrees(position - 1, tokens, parents, list(self._running)):
            return True
        self.search.trusted = False
        logger.warning(
            "The search on the GPU chose otherwise than the one on the host, which decides: from "
            "now on each step waits for that, which is slower. Please report it, with the GPU."
        )
        return False

    def note(self, tokens: Ints, parents: Ints) -> None:
        """Note what the search feeds the next step with."""
        self.fed.append((tokens.copy(), parents.copy()))

    def to_launch(self, position: int, capacity: int) -> range:
        """Positions of the steps to launch once the search has asked for the one at `position`.

        All logits of a step whose next token is forced are asked for, so no step may follow it yet:
        neither the first, if a first token is forced, nor the last step of an image's answer.
        """
        running = self._running.values()
        forces = position == 0 and any(config.forced_bos_token_id >= 0 for config in running)
        most = min((config.max_length - 2 for config in running), default=position)
        ahead = position if forces else min(position + self.search.slots - 1, capacity - 1, most)
        return range(self.last + 1, max(ahead, position) + 1)

    def launched(self, position: int) -> None:
        """Note that the step at `position` was enqueued."""
        self.search.events[position % self.search.slots].record()
        self.last = position

    def wait(self, position: int) -> Sequence[Scores]:
        """The scores of a step, once it is done."""
        slot = position % self.search.slots
        self.search.events[slot].wait()
        return self._scores[slot]

    def leave(self, image: int) -> None:
        """Ask no more what an image is fed with."""
        self._running.pop(image, None)


def pasts(fed: Sequence[tuple[Ints, Ints]]) -> Ints:
    """The tokens [B, N, L] of each row, from the tokens and parents [B, N] of L steps."""
    images, beams = fed[0][0].shape
    rows = np.empty((images, beams, 0), dtype=np.int64)
    for tokens, parents in fed:
        followed = np.take_along_axis(rows, parents[:, :, None], axis=1)
        rows = np.concatenate((followed, tokens[:, :, None]), axis=2)
    return rows
