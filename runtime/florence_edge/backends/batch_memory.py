"""All that lies on the device for batches of one shape, kept from one generation to the next.

CUDA graphs freeze addresses. Therefore whatever a decoder step touches is allocated once for a
shape (images, beams, bucket of prompt lengths), and every generation of that shape uses it again.
"""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from .. import contract
from ..cuda import Cuda, DeviceArray, Mailbox, Place
from ..cuda.kernels import Kernels
from ..cuda.memory import ALIGNMENT, Fields
from ..logits import Ints
from ..options import Generation
from ..search import Floats
from .features import DeviceFeatures

Run = Callable[[], None]  # enqueues one run of a graph


class Session(Protocol):
    """One graph in an engine that runs on the GPU's stream."""

    capturable: bool  # whether a run may be captured in a CUDA graph

    def bind(self, places: Mapping[str, Place]) -> Run:
        """Prepare for these arrays, which stay where they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceModel:
    """The three graphs of a bundle on one GPU.

    `in_place` is the cache capacity of a decoder that writes its caches itself; 0: it does not.
    `steps_ahead` is how many greedy steps a launch takes for a single image (run_ahead.py).
    """

    cuda: Cuda
    kernels: Kernels
    sessions: Mapping[str, Session]
    size: contract.ModelSize
    floats: str
    generation: Generation
    in_place: int = 0
    steps_ahead: int = 1


@dataclass(frozen=True, slots=True)
class BatchShape:
    """What addresses and engine profiles depend on."""

    images: int
    beams: int
    prompt: int  # tokens, with the padding


class BatchMemory:
    """Prompt, cross caches, inputs and scores of a decoder; see the module docstring."""

    def __init__(self, model: DeviceModel, shape: BatchShape) -> None:
        self.model = model
        self.shape = shape
        self.user: object = None  # the decoder whose prompt this holds
        with ExitStack() as owned:
            self._owned = owned
            self._allocate()
            self._bind_text_encoder()
            self._owned = owned.pop_all()

    @property
    def runs_ahead(self) -> bool:
        """Whether steps are taken ahead of the search: with one row there is a guess."""
        return self.model.steps_ahead > 1 and self.shape.images * self.shape.beams == 1

    def _allocate(self) -> None:
        size, shape = self.model.size, self.shape
        images, beams = shape.images, shape.beams
        encoded = size.image_tokens + shape.prompt
        of_rows = (images, beams)
        scored = (*of_rows, contract.TOP_K)
        self.prompt = self.mailbox(
            {
                "input_ids": ((images, shape.prompt), np.int64),
                "encoder_mask": ((images, encoded), np.int64),
            }
        )
        inputs: Fields = {
            "position": ((1,), np.int64),
            "token_ids": (of_rows, np.int64),
            "parents": (of_rows, np.int64),
            "first": ((1,), np.int64),  # position from which rows follow their parents
        }
        if self.runs_ahead:
            history = (size.decoder_positions + 1,)  # a run guesses one token beyond its last step
            inputs = {**inputs, "history": (history, np.int64)}
            self.history = self.array(history, np.int64).place  # mapped memory is slow to search
        self.inputs = self.mailbox(inputs)
        self.scores = self.mailbox(
            {"top_log_probs": (scored, np.float32), "top_ids": (scored, np.int64)}
        )
        self.log_probs = self.array((*of_rows, size.vocab_size), np.float32)
        self.features = self.array((images, size.image_tokens, size.d_model), self.model.floats)
        heads, head_dim = size.decoder_heads, size.head_dim
        self.cross_caches = self._by_layer(contract.cross_cache, (images, heads, encoded, head_dim))
        self.new_rows: dict[str, Place] = {}
        if not self.model.in_place:
            row = (images * beams, heads, 1, head_dim)
            self.new_rows = self._by_layer(contract.new_row, row)

    def _bind_text_encoder(self) -> None:
        session = self.model.sessions[contract.TEXT_ENCODER]
        self._encode = session.bind(
            {"image_features": self.features.place, **self.prompt.places, **self.cross_caches}
        )
        self._owned.callback(self._forget)

    def encode(self, features: DeviceFeatures, input_ids: Ints, encoder_mask: Ints) -> None:
        """Run the text encoder on prompts [B, T], T up to the bucket; fills the cross caches."""
        self.user = None  # whoever had this memory has lost its prompt, whatever comes of ours
        cuda, prompt = self.model.cuda, self.prompt.host
        tokens = input_ids.shape[1]
        prompt["input_ids"][:] = self.model.generation.pad_token_id
        prompt["input_ids"][:, :tokens] = input_ids
        prompt["encoder_mask"][:] = 0
        prompt["encoder_mask"][:, : encoder_mask.shape[1]] = encoder_mask
        self.prompt.send(cuda.stream)
        cuda.copy(self.features.place, features.place)
        self._encode()
        cuda.synchronize()

    @cached_property
    def run_scores(self) -> Mailbox:
        """Scores of the steps of a run ahead, and the token that was fed after each."""
        scored = (self.model.steps_ahead, 1, contract.TOP_K)
        return self.mailbox(
            {
                "top_log_probs": (scored, np.float32),
                "top_ids": (scored, np.int64),
                "token": (scored[:1], np.int64),
            }
        )

    @cached_property
    def _all_log_probs(self) -> Mailbox:
        """The host's copy of `log_probs`; most batches get by with the top K after two steps."""
        place = self.log_probs.place
        mailbox = Mailbox(
            self.model.cuda.call, {"log_probs": (place.shape, place.dtype)}, mapped=True
        )
        self._owned.callback(mailbox.close)
        return mailbox

    def fetch_log_probs(self) -> Floats:
        """All log-probabilities [B, N, vocab] of the step that ran last, copied now."""
        cuda = self.model.cuda
        cuda.activate()
        mailbox = self._all_log_probs
        cuda.copy(mailbox.places["log_probs"], self.log_probs.place)
        cuda.synchronize()
        return mailbox.host["log_probs"]

    def array(self, shape: tuple[int, ...], dtype: Any) -> DeviceArray:
        """Device memory that is freed with the rest."""
        array = self.model.cuda.array(shape, dtype)
        self._owned.callback(array.close)
        return array

    def mailbox(self, fields: Fields) -> Mailbox:
        """A mailbox that is freed with the rest."""
        mailbox = self.model.cuda.mailbox(fields)
        self._owned.callback(mailbox.close)
        return mailbox

    def close(self) -> None:
        """Free everything; a decoder that still uses it will be refused."""
        self.user = None
        self._owned.close()

    def _by_layer(
        self, name: Callable[[int, contract.Part], str], shape: tuple[int, ...]
    ) -> dict[str, Place]:
        """One array a layer and part, at equal distances in one block, each aligned."""
        names = [
            name(layer, part)
            for layer in range(self.model.size.decoder_layers)
            for part in contract.PARTS
        ]
        one = Place(0, shape, np.dtype(self.model.floats))
        distance = -(-one.nbytes // ALIGNMENT) * ALIGNMENT
        block = self.array((len(names), distance), np.uint8).place
        return {name: Place(block[i].address, one.shape, one.dtype) for i, name in enumerate(names)}

    def _forget(self) -> None:
        """Let go of the engine's context before its memory goes."""
        del self._encode
