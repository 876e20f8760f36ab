"""What lies in the GPU's memory: image features, and the memory of batches of one shape.

`GpuFeatures` are an encoded image's own; when they are dropped, others get their memory.
`BatchMemory` is kept from one generation to the next: CUDA graphs freeze addresses, so whatever a
decoder step touches is allocated once for a shape (images, beams, bucket of prompt lengths), and
every generation of that shape uses it again. The caches of self-attention grow, and have a file of
their own (kv_cache.py).
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from .. import contract
from ..cuda.buffers import ALIGNMENT, DeviceArray, DeviceView, Fields, PooledArray, StagingBuffer
from ..cuda.device import Cuda
from ..cuda.kernels import Kernels
from ..options import GenerationConfig
from ..search import Float32s, Ints
from .base import different_engines
from .device_search import SearchMemory


class GpuFeatures:
    """Features [B, image tokens, d_model] in device memory; slices of images share it.

    The memory is given back with the last slice; until then, they keep `engine` alive, which has
    the stream. `np.asarray` copies the values to the host.
    """

    def __init__(
        self, engine: object, cuda: Cuda, array: PooledArray, images: range | None = None
    ) -> None:
        whole = array.view
        self._engine = engine
        self._cuda = cuda
        self._array = array
        self._images = range(whole.shape[0]) if images is None else images
        self.dtype = whole.dtype
        self.view = DeviceView(
            whole[self._images.start].address, (len(self), *whole.shape[1:]), whole.dtype
        )

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, images: slice) -> "GpuFeatures":
        part = self._images[images]
        if part.step != 1:
            raise IndexError("features are sliced one image after the other")
        return GpuFeatures(self._engine, self._cuda, self._array, part)

    def followed_by(self, others: "Sequence[GpuFeatures]") -> "GpuFeatures":
        """A copy of these features and others in one array.

        Raises:
            BackendError: others are of another engine.
        """
        parts = (self, *others)
        if len({(part.view.shape[1:], part.dtype) for part in parts}) > 1:
            raise different_engines()
        self._cuda.activate()
        array = self._cuda.pooled_array((sum(map(len, parts)), *self.view.shape[1:]), self.dtype)
        row = 0
        for part in parts:
            self._cuda.copy(array.view[row], part.view)
            row += len(part)
        self._cuda.synchronize()
        return GpuFeatures(self._engine, self._cuda, array)

    def __array__(
        self, dtype: npt.DTypeLike | None = None, *, copy: bool | None = None
    ) -> npt.NDArray[Any]:
        self._cuda.activate()
        return np.asarray(self._cuda.download(self.view), dtype=dtype)


GraphRun: TypeAlias = Callable[[], None]  # enqueues one run of a graph


class GpuSession(Protocol):
    """One graph in an engine that runs on the GPU's stream."""

    capturable: bool  # whether a run may be captured in a CUDA graph; false once one was refused

    def bind(self, views: Mapping[str, DeviceView]) -> GraphRun:
        """Prepare for these arrays, which stay where they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuModel:
    """The three graphs of a bundle on one GPU.

    `writes_rows` says whether the decoder writes its new rows to the caches itself, and `in_place`
    which capacity these have, if it is one for all steps; 0: they grow.
    `steps_at_once` is how many steps may be on the GPU before the search has seen their scores.
    `captures` is whether steps are captured in CUDA graphs, as far as the decoder's engine may be.
    """

    cuda: Cuda
    kernels: Kernels
    sessions: Mapping[str, GpuSession]
    size: contract.ModelSize
    floats: str
    generation: GenerationConfig
    writes_rows: bool = False
    in_place: int = 0
    steps_at_once: int = 1
    captures: bool = True


@dataclass(frozen=True, slots=True)
class BatchShape:
    """What addresses and engine profiles depend on."""

    images: int
    beams: int
    prompt: int  # tokens, with the padding


class BatchMemory:
    """Prompt, cross caches, inputs and scores of a decoder, for batches of one shape."""

    def __init__(self, model: GpuModel, shape: BatchShape) -> None:
        self.model = model
        self.shape = shape
        self.user: object = None  # the decoder whose prompt this holds
        with ExitStack() as owned:
            self._owned = owned
            self._allocate()
            self._bind_text_encoder()
            self._owned = owned.pop_all()

    def _allocate(self) -> None:
        size, shape = self.model.size, self.shape
        images, beams = shape.images, shape.beams
        encoded = size.image_tokens + shape.prompt
        of_rows = (images, beams)
        scored = (*of_rows, contract.TOP_K)
        self.prompt = self.staging_buffer(
            {
                "input_ids": ((images, shape.prompt), np.int64),
                "encoder_mask": ((images, encoded), np.int64),
            }
        )
        inputs: Fields = {
            "position": ((1,), np.int64),
            "token_ids": (of_rows, np.int64),
            "parents": (of_rows, np.int64),
            "first": ((images,), np.int64),  # position from which rows follow their parents
            "held": ((1,), np.int64),  # whether they do not
        }
        self.inputs = self.staging_buffer(inputs)
        self.search: SearchMemory | None = None  # that of the GPU, which runs ahead of the host's
        if self.model.steps_at_once > 1:
            self.search = SearchMemory(
                self.model.cuda,
                self.inputs,
                size.decoder_positions,
                self.model.steps_at_once,
                self._owned,
            )
        self.scores = self.staging_buffer(
            {
                "top_logits": (scored, np.float32),
                "top_ids": (scored, np.int64),
                "log_sum_exp": (of_rows, np.float32),
            }
        )
        self.logits = self.array((*of_rows, size.vocab_size), self.model.floats)
        self.features = self.array((images, size.image_tokens, size.d_model), self.model.floats)
        heads, head_dim = size.decoder_heads, size.head_dim
        self.cross_caches = self._by_layer(contract.cross_cache, (images, heads, encoded, head_dim))
        self.new_rows: dict[str, DeviceView] = {}
        if not self.model.writes_rows:
            row = (images * beams, heads, 1, head_dim)
            self.new_rows = self._by_layer(contract.new_row, row)

    def _bind_text_encoder(self) -> None:
        session = self.model.sessions[contract.TEXT_ENCODER]
        self._encode = session.bind(
            {"image_features": self.features.view, **self.prompt.device, **self.cross_caches}
        )
        self._owned.callback(self._forget)

    def encode(self, features: GpuFeatures, input_ids: Ints, encoder_mask: Ints) -> None:
        """Run the text encoder on prompts [B, T], T up to the bucket; fills the cross caches."""
        self.user = None  # whoever had this memory has lost its prompt, even if ours fails
        cuda, prompt = self.model.cuda, self.prompt.host
        tokens = input_ids.shape[1]
        prompt["input_ids"][:] = self.model.generation.pad_token_id
        prompt["input_ids"][:, :tokens] = input_ids
        prompt["encoder_mask"][:] = 0
        prompt["encoder_mask"][:, : encoder_mask.shape[1]] = encoder_mask
        self.prompt.send(cuda.stream)
        cuda.copy(self.features.view, features.view)
        self._encode()
        cuda.synchronize()

    @cached_property
    def kept_caches(self) -> DeviceView:
        """The caches of a decoder that updates them in place, for all steps."""
        size, shape = self.model.size, self.shape
        rows = (shape.images * shape.beams, size.decoder_heads, self.model.in_place, size.head_dim)
        count = size.decoder_layers * len(contract.PARTS)
        return self.array((count, *rows), self.model.floats).view

    @cached_property
    def cache_rows(self) -> DeviceView:
        """The numbers of the rows of `kept_caches`, of which a bucket attends to the first."""
        view = self.array((self.model.in_place,), np.int64).view
        self.model.cuda.upload(view, np.arange(self.model.in_place))
        return view

    @cached_property
    def _all_logits(self) -> StagingBuffer:
        """The host's copy of `logits`; made when needed, for the top K nearly always do."""
        view = self.logits.view
        staging = StagingBuffer(
            self.model.cuda.call, {"logits": (view.shape, view.dtype)}, mapped=True
        )
        self._owned.callback(staging.close)
        return staging

    def fetch_logits(self) -> Float32s:
        """All logits [B, N, vocab] of the step that ran last, copied now."""
        cuda = self.model.cuda
        cuda.activate()
        staging = self._all_logits
        cuda.copy(staging.device["logits"], self.logits.view)
        cuda.synchronize()
        return staging.host["logits"].astype(np.float32, copy=False)

    def array(self, shape: tuple[int, ...], dtype: Any) -> DeviceArray:
        """Device memory that is freed with the rest."""
        array = self.model.cuda.array(shape, dtype)
        self._owned.callback(array.close)
        return array

    def staging_buffer(self, fields: Fields) -> StagingBuffer:
        """A staging buffer that is freed with the rest."""
        staging = self.model.cuda.staging_buffer(fields)
        self._owned.callback(staging.close)
        return staging

    def close(self) -> None:
        """Free everything; a decoder that still uses it will be refused."""
        self.user = None
        self._owned.close()

    def _by_layer(
        self, name: Callable[[int, contract.Part], str], shape: tuple[int, ...]
    ) -> dict[str, DeviceView]:
        """One array a layer and part, at equal distances in one block, each aligned."""
        names = [
            name(layer, part)
            for layer in range(self.model.size.decoder_layers)
            for part in contract.PARTS
        ]
        one = DeviceView(0, shape, np.dtype(self.model.floats))
        distance = -(-one.nbytes // ALIGNMENT) * ALIGNMENT
        block = self.array((len(names), distance), np.uint8).view
        return {
            name: DeviceView(block[i].address, one.shape, one.dtype) for i, name in enumerate(names)
        }

    def _forget(self) -> None:
        """Let go of the engine's context before its memory goes."""
        del self._encode
