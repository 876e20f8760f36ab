"""A backend whose data stays on the GPU, whatever engine runs the three graphs there.

    squares or frames ──> pixels ── vision_encoder ──> GpuFeatures, kept by an encoded image
    prompt ids, features ── text_encoder ──> cross caches ── decoder, step by step (GpuDecoder)

`trt.py` and `ort_cuda.py` bring the engines, as a `GpuSession` a graph. All runs on one stream,
and every method returns when its work is done: its arguments may then be changed or freed.
"""

import os
import weakref
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from typing import Any

import numpy as np

from .. import contract
from ..bundle import Bundle
from ..cuda.buffers import DeviceArray, PooledArray
from ..cuda.device import Cuda
from ..cuda.kernels import Kernels
from ..cuda.resize import Resizer
from ..errors import BackendError, RequestError
from ..search import Ints
from ..tensorrt.profiles import prompt_bucket
from .base import Features, Pixels, Squares
from .gpu_decoder import GpuDecoder, requested_steps
from .gpu_memory import BatchMemory, BatchShape, GpuFeatures, GpuModel, GpuSession
from .kv_cache import CacheBuckets

# Environment variables: 0 enqueues steps call by call; 0 runs the plain graphs with ONNX Runtime.
CUDA_GRAPHS, FUSED_GRAPHS = "FLORENCE_CUDA_GRAPHS", "FLORENCE_FUSED_GRAPHS"
_KEPT = 4  # shapes of batches, numbers of images and sizes of frames that stay prepared


class GpuBackend:
    """The three graphs of a bundle on one GPU, and the memory between them.

    `owned` closes what the model is made of; it is closed with the backend, last.
    """

    def __init__(
        self,
        model: GpuModel,
        owned: ExitStack,
        *,
        max_new_tokens: int | None = None,
        max_batch: int | None = None,
    ) -> None:
        self.max_new_tokens = max_new_tokens
        self.max_batch = max_batch
        self._model = model
        self._encoders: dict[int, _VisionEncoder] = {}
        self._resizers: dict[tuple[int, int], Resizer] = {}
        self._batches: dict[BatchShape, _Batch] = {}
        for kept in (self._encoders, self._resizers, self._batches):
            owned.callback(_drop, kept, 0)
        owned.callback(_reactivate, model.cuda)  # first: any thread may be the one that closes
        self._close = weakref.finalize(self, owned.close)
        self._close.atexit = False  # at the end of the process, the driver frees everything

    @property
    def model(self) -> GpuModel:
        """The engines and the GPU that they run on, for those who measure them."""
        return self._model

    def close(self) -> None:
        """Free everything on the GPU; without it, that happens when nobody uses the backend."""
        self._close()

    def encode_image(self, pixels: Pixels) -> GpuFeatures:
        """Run the vision encoder on squares of the host or frames on the GPU; see `Backend`.

        Raises:
            ImageError: a frame lies on another GPU.
        """
        model, images = self._model, len(pixels)
        model.cuda.activate()
        if images not in self._encoders:
            _drop(self._encoders, _KEPT - 1)
            self._encoders[images] = _VisionEncoder(model, images)
        encoder = self._encoders[images]
        if isinstance(pixels, np.ndarray):
            encoder.send(pixels)
        else:
            for frame in pixels:
                frame.check_readable(model.cuda)
            for index, frame in enumerate(pixels):
                self._resizer(frame.size).resize(frame, encoder.pixels[index])
        return GpuFeatures(self, model.cuda, encoder.run())

    def prefill(
        self, features: Features, input_ids: Ints, encoder_mask: Ints, *, beams: int
    ) -> GpuDecoder:
        """Run the text encoder and open the decoder of this shape; see `Backend`."""
        model = self._model
        model.cuda.activate()
        images, tokens = input_ids.shape
        shape = BatchShape(images, beams, prompt_bucket(tokens, model.size))
        if shape not in self._batches:
            _drop(self._batches, _KEPT - 1)
            self._batches[shape] = _Batch(model, shape)
        batch = self._batches[shape]
        batch.memory.encode(_own(features, model), input_ids, encoder_mask)
        return GpuDecoder(batch.memory, batch.buckets)

    def _resizer(self, size: tuple[int, int]) -> Resizer:
        model = self._model
        if size not in self._resizers:
            _drop(self._resizers, _KEPT - 1)
            self._resizers[size] = Resizer(model.cuda, model.kernels, size, model.size.image_size)
        return self._resizers[size]


class _VisionEncoder:
    """The vision encoder, bound for so many images."""

    def __init__(self, model: GpuModel, images: int) -> None:
        size = model.size
        self._cuda = model.cuda
        shape = (images, size.image_size, size.image_size, 3)
        with ExitStack() as owned:
            self._staging = model.cuda.staging_buffer({"pixels": (shape, np.uint8)})
            owned.callback(self._staging.close)
            self.pixels = self._staging.device["pixels"]
            self._features = _features(model, images)
            owned.callback(self._features.close)
            self._encode = model.sessions[contract.VISION_ENCODER].bind(
                {"pixels": self.pixels, "image_features": self._features.view}
            )
            self._owned = owned.pop_all()

    def send(self, pixels: Squares) -> None:
        """Enqueue the copy of pictures from the host."""
        self._staging.host["pixels"][:] = pixels
        self._staging.send(self._cuda.stream)

    def run(self) -> PooledArray:
        """Encode `pixels`; the features get memory of their own, since they may be kept."""
        kept = self._cuda.pooled_array(self._features.view.shape, self._features.view.dtype)
        self._encode()
        self._cuda.copy(kept.view, self._features.view)
        self._cuda.synchronize()
        return kept

    def close(self) -> None:
        del self._encode  # the engine's context goes before its memory
        self._owned.close()


class _Batch:
    """Memory and caches for batches of one shape."""

    def __init__(self, model: GpuModel, shape: BatchShape) -> None:
        self._cuda = model.cuda
        self.memory = BatchMemory(model, shape)
        self.buckets = CacheBuckets(self.memory)

    def close(self) -> None:
        with suppress(BackendError):  # of a GPU that failed, the memory is freed all the same
            self._cuda.synchronize()  # steps behind the end of an answer
        self.buckets.close()
        self.memory.close()


def open_gpu_backend(  # noqa: PLR0913 - all but four are named by the caller
    bundle: Bundle,
    cuda: Cuda,
    sessions: Mapping[str, GpuSession],
    owned: ExitStack,
    *,
    max_new_tokens: int | None = None,
    max_batch: int | None = None,
    writes_rows: bool = False,
    in_place: int = 0,
) -> GpuBackend:
    """A backend over these engines that takes over what `owned` holds so far.

    `writes_rows` and `in_place` are `GpuModel`'s.

    Raises:
        BackendError: our kernels cannot be compiled for this GPU.
        RequestError: FLORENCE_MULTI_STEP or FLORENCE_CUDA_GRAPHS has another value than it may.
    """
    steps_at_once, captures = requested_steps(), requested(CUDA_GRAPHS)
    kernels = Kernels(cuda)
    owned.callback(kernels.close)
    model = GpuModel(
        cuda=cuda,
        kernels=kernels,
        sessions=sessions,
        size=bundle.size,
        floats=bundle.floats,
        generation=bundle.generation,
        writes_rows=writes_rows,
        in_place=in_place,
        steps_at_once=steps_at_once,
        captures=captures,
    )
    return GpuBackend(model, owned.pop_all(), max_new_tokens=max_new_tokens, max_batch=max_batch)


def requested(variable: str) -> bool:
    """What an environment variable requests, such as CUDA_GRAPHS; yes where it is not set.

    Raises:
        RequestError: it is neither 1 nor 0.
    """
    value = os.environ.get(variable, "") or "1"
    if value not in ("0", "1"):
        raise RequestError(f"{variable} is {value!r}; expected 1 or 0.")
    return value == "1"


def _features(model: GpuModel, images: int) -> DeviceArray:
    size = model.size
    return model.cuda.array((images, size.image_tokens, size.d_model), model.floats)


def _own(features: Features, model: GpuModel) -> GpuFeatures:
    """Refuse features that this model's graphs would misread."""
    expected = (model.size.image_tokens, model.size.d_model), np.dtype(model.floats)
    if not isinstance(features, GpuFeatures) or expected != (
        features.view.shape[1:],
        features.dtype,
    ):
        raise BackendError(
            "These image features come from another engine. Encode the picture again with "
            "the model that is to answer."
        )
    return features


def _reactivate(cuda: Cuda) -> None:
    """Make the GPU current for what is freed next, if that can be done."""
    with suppress(BackendError):
        cuda.activate()


def _drop(kept: dict[Any, Any], limit: int) -> None:
    """Close the oldest until `limit` are left."""
    while len(kept) > limit:
        kept.pop(next(iter(kept))).close()
