"""A backend whose data stays in host memory, as arrays of numpy, whatever engine runs the graphs.

`ort.py` and `openvino.py` bring the engines, as a `Bind` a graph. The decoder's caches live in
`HostDecoder`; that is where a cache row moves.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from .. import contract
from ..errors import MODEL_CLOSED, BackendError
from ..search import Float32s, Ints, Scores
from .base import Features, HostFeatures, NamedArrays, Pixels
from .beam_reorder import BeamReorder

Run: TypeAlias = Callable[[], None]

# What an engine offers of a graph: prepare for these inputs and outputs, in C order, and give back
# what runs the graph once on whatever the inputs hold then. Nothing is copied, so the arrays have
# to outlive it. An array that does not fit is a BackendError, when binding or when running.
Bind: TypeAlias = Callable[[NamedArrays, NamedArrays], Run]


@dataclass(frozen=True, slots=True, kw_only=True)
class HostModel:
    """The three graphs of a bundle in an engine; `floats` is the dtype that it exchanges.

    `check` is called around every run, and raises a BundleError once the weights are no longer
    those that the engine has mapped.
    """

    device: str
    binds: Mapping[str, Bind]
    size: contract.ModelSize
    floats: str
    check: Callable[[], None] = lambda: None


class HostBackend:
    """The three graphs of a bundle on arrays of numpy; see `Backend`."""

    max_new_tokens: int | None = None
    max_batch: int | None = None

    def __init__(self, model: HostModel) -> None:
        self._device = model.device
        self._binds = dict(model.binds)
        self._size = model.size
        self._floats = model.floats
        self._check_weights = model.check

    def encode_image(self, pixels: Pixels) -> HostFeatures:
        """Run the vision encoder on squares [B, S, S, 3] uint8, RGB; see `Backend`."""
        if not isinstance(pixels, np.ndarray):
            raise BackendError(
                f"A frame on the GPU cannot be read by device={self._device!r}. Load the model "
                "with device='cuda' or 'tensorrt', or copy the frame to the host first."
            )
        shape = (len(pixels), self._size.image_tokens, self._size.d_model)
        features: HostFeatures = np.empty(shape, self._floats)
        inputs = {"pixels": np.ascontiguousarray(pixels)}
        self._bind(contract.VISION_ENCODER, inputs, {"image_features": features})()
        return features

    def prefill(
        self, features: Features, input_ids: Ints, encoder_mask: Ints, *, beams: int
    ) -> "HostDecoder":
        """Run the text encoder and open a decoder; see `Backend`."""
        caches = self.cross_caches(np.asarray(features), input_ids, encoder_mask)
        mask = np.ascontiguousarray(encoder_mask)

        def bind(inputs: NamedArrays, outputs: NamedArrays) -> Run:
            return self._bind(contract.DECODER, inputs, outputs)

        return HostDecoder(bind, self._size, caches, mask, beams=beams)

    def cross_caches(
        self, features: HostFeatures, input_ids: Ints, encoder_mask: Ints
    ) -> dict[str, HostFeatures]:
        """Run the text encoder: outputs by name, [B, heads, image tokens + T, head_dim]."""
        size = self._size
        shape = (len(encoder_mask), size.decoder_heads, encoder_mask.shape[1], size.head_dim)
        caches: dict[str, HostFeatures] = {
            contract.cross_cache(layer, part): np.empty(shape, self._floats)
            for layer in range(size.decoder_layers)
            for part in contract.PARTS
        }
        inputs = {
            "image_features": np.ascontiguousarray(features, self._floats),
            "input_ids": np.ascontiguousarray(input_ids),
            "encoder_mask": np.ascontiguousarray(encoder_mask),
        }
        self._bind(contract.TEXT_ENCODER, inputs, caches)()
        return caches

    def close(self) -> None:
        """Let go of the engine's sessions; decoders that are still open are refused, too."""
        self._binds.clear()

    def _bind(self, graph: str, inputs: NamedArrays, outputs: NamedArrays) -> Run:
        """Bind a graph to arrays; what runs it refuses once the backend is closed."""
        self._check_open()
        run = self._binds[graph](inputs, outputs)

        def run_if_open() -> None:
            self._check_open()
            self._check_weights()
            run()
            self._check_weights()  # or a last step would give what was overwritten during it

        return run_if_open

    def _check_open(self) -> None:
        if not self._binds:
            raise BackendError(MODEL_CLOSED)


class HostDecoder:
    """One generation: every tensor is bound once per cache capacity.

    All self-attention caches are one array [caches, rows, heads, capacity, head_dim], so that
    placing new rows and reordering beams is one numpy statement each.
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
        self._scores = _ScoreBuffers(images, beams, size.vocab_size, self._floats)
        self._new_rows = np.empty(
            (len(self._names), self._rows, size.decoder_heads, 1, size.head_dim), self._floats
        )
        self._reorder = BeamReorder(images, beams)
        self._caches = self._empty_caches(contract.cache_capacity(1, size.decoder_positions))
        self._run = self._bind_all()

    def step(self, tokens: Ints, parents: Ints) -> Sequence[Scores]:
        """See `DecoderSession.step`."""
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
        copies = self._reorder.follow(parents, position)
        if copies is None:
            return
        rows, sources, first = copies
        self._caches[:, rows, :, first:position] = self._caches[:, sources, :, first:position]

    def _grow(self, position: int) -> None:
        """Go on in caches of the next capacity, with a copy of the `position` rows so far."""
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
    """Where the decoder writes its scores, and each image's part of them."""

    def __init__(self, images: int, beams: int, vocab_size: int, floats: npt.DTypeLike) -> None:
        self._top_logits: Float32s = np.empty((images, beams, contract.TOP_K), dtype=np.float32)
        self._top_ids: Ints = np.empty((images, beams, contract.TOP_K), dtype=np.int64)
        self._log_sum_exp: Float32s = np.empty((images, beams), dtype=np.float32)
        self._logits: npt.NDArray[np.floating] = np.empty((images, beams, vocab_size), floats)
        self._of_images = tuple(
            Scores(
                self._top_logits[i],
                self._top_ids[i],
                self._log_sum_exp[i],
                logits=partial(self._logits_of, i),
            )
            for i in range(images)
        )

    def by_name(self) -> dict[str, npt.NDArray[Any]]:
        """The decoder's outputs: a row for each beam of each image."""
        arrays: dict[str, npt.NDArray[Any]] = {
            "top_logits": self._top_logits,
            "top_ids": self._top_ids,
            "log_sum_exp": self._log_sum_exp,
            "logits": self._logits,
        }
        return {name: array.reshape(-1, *array.shape[2:]) for name, array in arrays.items()}

    def of_images(self) -> Sequence[Scores]:
        return self._of_images

    def _logits_of(self, image: int) -> Float32s:
        of_image: Float32s = self._logits[image].astype(np.float32, copy=False)
        return of_image
