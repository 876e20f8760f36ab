"""The seam between generation and an engine."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ..logits import Ints
from ..search import Scores

Pixels = npt.NDArray[np.uint8]  # [B, S, S, 3], RGB
Features = npt.NDArray[np.floating]  # [B, image tokens, d_model]


class Decoder(Protocol):
    """The decoder with its caches, for one batch of images and their beams."""

    def step(self, tokens: Ints, parents: Ints) -> Sequence[Scores]:
        """Feed one token a row and score the next; one `Scores` an image.

        `tokens` and `parents` are [B, N]: row n continues row `parents[b, n]` of the step before,
        so its cache must hold that row's past. The scores are valid until the next step.
        """


class Backend(Protocol):
    """An engine that holds the three graphs of a bundle and the memory between them."""

    def look(self, pixels: Pixels) -> Features:
        """Run the vision encoder."""

    def read(
        self, features: Features, input_ids: Ints, encoder_mask: Ints, *, beams: int
    ) -> Decoder:
        """Run the text encoder and open a decoder for `beams` rows an image.

        `input_ids` is [B, T], padded to the right; `encoder_mask` is [B, image tokens + T], 0 where
        there is padding.
        """
