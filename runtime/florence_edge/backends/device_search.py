"""The beam search's step on the GPU (`advance_beams` in kernels.cu): its rules and its memory.

The search of `search.py` decides. The GPU does the same in the meantime, so that the next step of
the decoder need not wait for the host; what it fed is compared with what the search chose.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack

import numpy as np

from .. import contract
from ..cuda.buffers import DeviceView, StagingBuffer
from ..cuda.device import Cuda
from ..cuda.kernels import RULES
from ..options import GenerationConfig
from ..search import Ints


def rules_of(config: GenerationConfig) -> list[int] | None:
    """What the kernel is to know of a generation, or None where it does not know the rules.

    It knows the n-grams that may not come twice, a forced first token, the shortest answer and
    several end tokens. Rules that weigh or forbid other tokens are left to the host, as is a last
    token that is forced: it has no next step. The top K must do for the (1 + E)N candidates of each
    row (search.py).
    """
    ends = config.eos_token_id
    weighs = config.repetition_penalty != 1
    forbids = config.suppress_tokens or config.begin_suppress_tokens or config.bad_words_ids
    candidates = (1 + len(ends)) * config.num_beams
    if weighs or forbids or candidates > contract.TOP_K or config.forced_bos_token_id in ends:
        return None
    numbers = (config.no_repeat_ngram_size, config.forced_bos_token_id, config.min_new_tokens)
    return [*numbers, len(ends), *ends]


class SearchMemory:
    """What the search keeps on the GPU for batches of one shape, and what it gives to the host.

    `fed` are the decoder's inputs (gpu_memory.py), which the kernel reads; `following` has the same
    fields for the next step. `kept` is written by the kernel into memory of the host: the scores
    and the choice of a step, in slot position % slots, and an event for each says when it is there.
    """

    def __init__(
        self, cuda: Cuda, fed: StagingBuffer, positions: int, slots: int, owned: ExitStack
    ) -> None:
        images, beams = fed.host["token_ids"].shape
        of_rows, scored = (slots, images, beams), (slots, images, beams, contract.TOP_K)
        self._cuda = cuda
        self.slots = slots
        self.beams = beams
        self.trusted = True  # until it has chosen otherwise than the search
        self._rules = cuda.staging_buffer({"rules": ((images, RULES), np.int32)})
        owned.callback(self._rules.close)
        block = cuda.array((fed.nbytes,), np.uint8)
        owned.callback(block.close)
        self._following = block.view
        base = min(view.address for view in fed.device.values())
        self._fed = DeviceView(base, block.view.shape, block.view.dtype)
        self.following: Mapping[str, DeviceView] = {
            name: DeviceView(view.address - base + block.view.address, view.shape, view.dtype)
            for name, view in fed.device.items()
        }
        state = {
            "history": cuda.array((images, beams, positions + 1), np.int32),
            "totals": cuda.array((images, beams), np.float32),
            "differ_from": cuda.array((images, beams, beams), np.int32),
        }
        for array in state.values():
            owned.callback(array.close)
        self.state = {name: array.view for name, array in state.items()}
        self.kept = StagingBuffer(
            cuda.call,
            {
                "top_logits": (scored, np.float32),
                "top_ids": (scored, np.int64),
                "log_sum_exp": (of_rows, np.float32),
                "tokens": (of_rows, np.int64),
                "parents": (of_rows, np.int64),
                "held": (of_rows[:2], np.int64),
            },
            mapped=True,
        )
        owned.callback(self.kept.close)
        self.events = [cuda.event() for _ in range(slots)]
        for event in self.events:
            owned.callback(event.close)

    @property
    def rules(self) -> DeviceView:
        """The rules [images, RULES] int32 on the GPU."""
        return self._rules.device["rules"]

    def begin(self, rules: Sequence[list[int]]) -> None:
        """Enqueue the beginning of a generation with these rules of its images (`rules_of`)."""
        for image, of_image in enumerate(rules):
            self._rules.host["rules"][image, : len(of_image)] = of_image
        self._rules.send(self._cuda.stream)
        self._cuda.zero(self._following)

    def feed_next(self) -> None:
        """Enqueue that the decoder is fed with what the kernel has chosen."""
        self._cuda.copy(self._fed, self._following)

    def agrees(self, position: int, tokens: Ints, parents: Ints, images: list[int]) -> bool:
        """Whether the kernel chose the same at `position`, for these images.

        `tokens` and `parents` [B, N] are those of the search. The step must be done.
        """
        slot, kept = position % self.slots, self.kept.host
        return (
            not self.held(position)
            and bool((kept["tokens"][slot, images] == tokens[images]).all())
            and bool((kept["parents"][slot, images] == parents[images]).all())
        )

    def held(self, position: int) -> bool:
        """Whether the kernel left the choice at `position` to the host, and moved nothing since."""
        return bool(self.kept.host["held"][position % self.slots].any())
