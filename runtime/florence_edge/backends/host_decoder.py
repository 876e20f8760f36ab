"""The decoder's loop in host memory, whatever engine runs the graph there."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from .. import contract
from ..logits import Ints
from ..search import Floats, Scores
from .base import HostFeatures
from .lineage import Lineage

Arrays: TypeAlias = Mapping[str, npt.NDArray[Any]]
Run: TypeAlias = Callable[[], None]

# What an engine offers of a graph: prepare for these inputs and outputs, in C order, and give back
# what runs the graph once on whatever the inputs hold then. Nothing is copied, so the arrays have
# to outlive it. An array that does not fit is a BackendError, when binding or when running.
Bind: TypeAlias = Callable[[Arrays, Arrays], Run]


class HostDecoder:
    """One generation: every tensor is bound once per cache bucket.

    All self-attention caches are one array [caches, rows, heads, capacity, head_dim], so that
    placing new rows and following parents is one numpy statement each.
    """

    def __init__(
        self,
        bind: Bind,
        size: contract.ModelSize,
        cross_caches: Mapping[str, HostFeatures],
        encoder_mask: Ints,
        *,
        beams: int,
    ) -> None:
        self._bind = bind
        self._size = size
        images = len(encoder_mask)
        self._rows = images * beams
        self._constant = {**cross_caches, "encoder_mask": encoder_mask}
        self._floats = next(iter(cross_caches.values())).dtype
        self._names = [
            (contract.self_cache(layer, part), contract.new_row(layer, part))
            for layer in range(size.decoder_layers)
            for part in contract.PARTS
        ]
        self._token_ids = np.empty((images, beams), dtype=np.int64)
        self._position = np.full(1, -1, dtype=np.int64)
        self._scores = _ScoreBuffers(images, beams, size.vocab_size)
        self._new_rows = np.empty(
            (len(self._names), self._rows, size.decoder_heads, 1, size.head_dim), self._floats
        )
        self._lineage = Lineage(images, beams)
        self._caches = self._empty_caches(contract.cache_capacity(1, size.decoder_positions))
        self._run = self._bind_all()

    def step(self, tokens: Ints, parents: Ints) -> Sequence[Scores]:
        """See `Decoder.step`."""
        self._position += 1
        position = int(self._position[0])
        self._follow(parents, position)
        if position == self._caches.shape[3]:
            self._grow(position)
        self._token_ids[:] = tokens
        self._run()
        self._caches[:, :, :, position] = self._new_rows[:, :, :, 0]
        return self._scores.of_images()

    def _follow(self, parents: Ints, position: int) -> None:
        """Give each row the past of its parent; only what differs is copied."""
        copies = self._lineage.follow(parents, position)
        if copies is None:
            return
        rows, sources, first = copies
        self._caches[:, rows, :, first:position] = self._caches[:, sources, :, first:position]

    def _grow(self, position: int) -> None:
        capacity = contract.cache_capacity(position + 1, self._size.decoder_positions)
        grown = self._empty_caches(capacity)
        grown[:, :, :, :position] = self._caches
        self._caches = grown
        self._run = self._bind_all()

    def _empty_caches(self, capacity: int) -> npt.NDArray[np.floating]:
        """Zeros: unwritten rows are masked, but a NaN among them would survive the mask."""
        heads, head_dim = self._size.decoder_heads, self._size.head_dim
        return np.zeros((len(self._names), self._rows, heads, capacity, head_dim), self._floats)

    def _bind_all(self) -> Run:
        inputs = {**self._constant, "token_ids": self._token_ids, "position": self._position}
        outputs = self._scores.by_name()
        for i, (cache, new_row) in enumerate(self._names):
            inputs[cache] = self._caches[i]
            outputs[new_row] = self._new_rows[i]
        return self._bind(inputs, outputs)


class _ScoreBuffers:
    """Where the decoder writes its scores, and how an image sees them."""

    def __init__(self, images: int, beams: int, vocab_size: int) -> None:
        self._top_log_probs: Floats = np.empty((images, beams, contract.TOP_K), dtype=np.float32)
        self._top_ids: Ints = np.empty((images, beams, contract.TOP_K), dtype=np.int64)
        self._log_probs: Floats = np.empty((images, beams, vocab_size), dtype=np.float32)
        self._of_images = tuple(
            Scores(self._top_log_probs[i], self._top_ids[i], self._full(i)) for i in range(images)
        )

    def by_name(self) -> dict[str, npt.NDArray[Any]]:
        return {
            "top_log_probs": self._top_log_probs,
            "top_ids": self._top_ids,
            "log_probs": self._log_probs,
        }

    def of_images(self) -> Sequence[Scores]:
        return self._of_images

    def _full(self, image: int) -> Callable[[], Floats]:
        return lambda: self._log_probs[image]
