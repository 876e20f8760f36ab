"""What the model knows of an engine: two protocols, and the arrays that they exchange.

backend.encode_image(pixels) ──> features ──> backend.prefill(features, ids, mask) ──> decoder
decoder.step(tokens, parents) ──> scores, until the search has its answer
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt

from ..cuda.frame import DeviceFrame
from ..errors import BackendError
from ..options import GenerationConfig
from ..search import Ints, Scores

Squares = npt.NDArray[np.uint8]  # [B, S, S, 3], RGB
# Frames on the GPU may be of any size; they are resized there.
Pixels: TypeAlias = Squares | Sequence[DeviceFrame]
HostFeatures = npt.NDArray[np.floating]  # [B, image tokens, d_model]
# How an engine keeps image features is its own: HostFeatures or GpuFeatures. Either has a length
# and slices, of images, and `np.asarray` reads it.
Features: TypeAlias = Any
NamedArrays: TypeAlias = Mapping[str, npt.NDArray[Any]]  # inputs, outputs or samples of a graph


class DecoderSession(Protocol):
    """The decoder with its caches, for one batch of images and their beams."""

    def step(self, tokens: Ints, parents: Ints) -> Sequence[Scores]:
        """Feed one token a row and score the next; one `Scores` an image.

        `tokens` and `parents` are [B, N] int64: row n continues row `parents[b, n]` of the step
        before, so its cache must hold that row's past. The scores are valid until the next step.

        Raises:
            BackendError: the step failed, or the backend was closed.
        """


@runtime_checkable
class AheadDecoder(DecoderSession, Protocol):
    """A decoder that may take steps before they are asked for, if it knows how they come about.

    That changes nothing about its answers.
    """

    def expect(self, configs: Sequence[GenerationConfig]) -> None:
        """Learn before the first step by which search each image's tokens will be chosen.

        Raises:
            BackendError: the backend failed, or was closed.
        """

    def leave(self, image: int) -> None:
        """Learn that an image has its answer, and what it is fed with no longer matters."""


class Backend(Protocol):
    """An engine that holds the three graphs of a bundle and the memory between them.

    `max_new_tokens` is the longest answer that it was built for, None if any that the model can
    give; `max_batch` the most pictures that it takes at once, None if memory alone limits them.
    Every method but `close` raises a BackendError once the backend is closed.
    """

    max_new_tokens: int | None
    max_batch: int | None

    def encode_image(self, pixels: Pixels) -> Features:
        """Run the vision encoder on a batch of pictures.

        Raises:
            BackendError: the engine failed, or cannot read the pictures where they are.
        """

    def prefill(
        self, features: Features, input_ids: Ints, encoder_mask: Ints, *, beams: int
    ) -> DecoderSession:
        """Run the text encoder and open a decoder for `beams` rows an image.

        `input_ids` is [B, T] int64, padded to the right; `encoder_mask` is [B, image tokens + T]
        int64, 0 where there is padding. An engine may keep only the last decoder of a shape usable.

        Raises:
            BackendError: the engine failed, or the features come from another one.
        """

    def close(self) -> None:
        """Free what the engine holds, once; later calls do nothing."""


def join_features(features: Sequence[Features]) -> Features:
    """Features of several images as one batch, where they are: on the host or on the GPU.

    Raises:
        BackendError: they come from different engines.
    """
    on_host = [isinstance(part, np.ndarray) for part in features]
    if all(on_host):
        return np.concatenate(features)
    if any(on_host):
        raise different_engines()
    first, *others = features
    return first.followed_by(others) if others else first


def different_engines() -> BackendError:
    """The error for features that cannot stand in one batch."""
    return BackendError(
        "Views of different engines cannot be answered in one batch. Encode all pictures with the "
        "model that is to answer."
    )
