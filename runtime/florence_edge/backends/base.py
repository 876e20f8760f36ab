"""The seam between generation and an engine."""

from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from ..cuda.frame import Frame
from ..logits import Ints
from ..search import Scores

Squares = npt.NDArray[np.uint8]  # [B, S, S, 3], RGB
Pixels: TypeAlias = Squares | Sequence[Frame]  # frames of any size on the GPU are resized there
HostFeatures = npt.NDArray[np.floating]  # [B, image tokens, d_model]
# What an engine keeps of a look is its own: HostFeatures or DeviceFeatures. Either has a length and
# slices, of images, and `np.asarray` reads it.
Features: TypeAlias = Any


class Decoder(Protocol):
    """The decoder with its caches, for one batch of images and their beams."""

    def step(self, tokens: Ints, parents: Ints) -> Sequence[Scores]:
        """Feed one token a row and score the next; one `Scores` an image.

        `tokens` and `parents` are [B, N]: row n continues row `parents[b, n]` of the step before,
        so its cache must hold that row's past. The scores are valid until the next step.
        """


class Backend(Protocol):
    """An engine that holds the three graphs of a bundle and the memory between them.

    `most_new_tokens` is the longest answer that it was built for, None if any that the model does.
    """

    most_new_tokens: int | None

    def look(self, pixels: Pixels) -> Features:
        """Run the vision encoder."""

    def read(
        self, features: Features, input_ids: Ints, encoder_mask: Ints, *, beams: int
    ) -> Decoder:
        """Run the text encoder and open a decoder for `beams` rows an image.

        `input_ids` is [B, T], padded to the right; `encoder_mask` is [B, image tokens + T], 0 where
        there is padding. An engine may keep only the last decoder of a shape usable.
        """
