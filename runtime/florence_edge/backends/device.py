"""A backend whose data stays on the GPU, whatever engine runs the three graphs there.

    squares or frames ──> pixels ── vision_encoder ──> DeviceFeatures, kept by a view
    prompt ids, features ── text_encoder ──> cross caches ── decoder, step by step (DeviceDecoder)

`trt.py` and `ort_cuda.py` bring the engines, as a `Session` a graph. Everything runs on one stream,
and every method returns when its work is done: what it was given may then be changed or freed.
"""

import weakref
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from typing import Any

import numpy as np

from .. import contract
from ..bundle import Bundle
from ..cuda import Cuda, DeviceArray
from ..cuda.kernels import Kernels
from ..cuda.resize import Resizer
from ..engines.profiles import prompt_bucket
from ..errors import BackendError
from ..logits import Ints
from .base import Features, Pixels, Squares
from .batch_memory import BatchMemory, BatchShape, DeviceModel, Session
from .cache_bucket import CacheBuckets
from .device_decoder import DeviceDecoder
from .features import DeviceFeatures
from .run_ahead import asked_steps_ahead

_KEPT = 4  # shapes of batches, batch sizes of looks and sizes of frames that stay prepared


class DeviceBackend:
    """The three graphs of a bundle on one GPU, and the memory between them.

    `owned` closes what the model is made of; it is closed with the backend, last.
    """

    def __init__(
        self, model: DeviceModel, owned: ExitStack, *, most_new_tokens: int | None = None
    ) -> None:
        self.most_new_tokens = most_new_tokens
        self._model = model
        self._looks: dict[int, _Look] = {}
        self._resizers: dict[tuple[int, int], Resizer] = {}
        self._batches: dict[BatchShape, _Batch] = {}
        for kept in (self._looks, self._resizers, self._batches):
            owned.callback(_drop, kept, 0)
        owned.callback(_reactivate, model.cuda)  # first: any thread may be the one that closes
        self._close = weakref.finalize(self, owned.close)
        self._close.atexit = False  # at the end of the process, the driver frees everything

    @property
    def model(self) -> DeviceModel:
        """The engines and the GPU that they run on, for those who measure them."""
        return self._model

    def close(self) -> None:
        """Free everything on the device; without it, that happens when nobody uses the backend."""
        self._close()

    def look(self, pixels: Pixels) -> DeviceFeatures:
        model, images = self._model, len(pixels)
        model.cuda.activate()
        if images not in self._looks:
            _drop(self._looks, _KEPT - 1)
            self._looks[images] = _Look(model, images)
        look = self._looks[images]
        if isinstance(pixels, np.ndarray):
            look.send(pixels)
        else:
            for index, frame in enumerate(pixels):
                self._resizer(frame.size).resize(frame, look.pixels[index])
        return DeviceFeatures(self, model.cuda, look.run())

    def read(
        self, features: Features, input_ids: Ints, encoder_mask: Ints, *, beams: int
    ) -> DeviceDecoder:
        model = self._model
        model.cuda.activate()
        images, tokens = input_ids.shape
        shape = BatchShape(images, beams, prompt_bucket(tokens, model.size))
        if shape not in self._batches:
            _drop(self._batches, _KEPT - 1)
            self._batches[shape] = _Batch(model, shape)
        batch = self._batches[shape]
        batch.memory.encode(_own(features, model), input_ids, encoder_mask)
        return DeviceDecoder(batch.memory, batch.buckets)

    def _resizer(self, size: tuple[int, int]) -> Resizer:
        model = self._model
        if size not in self._resizers:
            _drop(self._resizers, _KEPT - 1)
            self._resizers[size] = Resizer(model.cuda, model.kernels, size, model.size.image_size)
        return self._resizers[size]


class _Look:
    """The vision encoder, bound for so many images."""

    def __init__(self, model: DeviceModel, images: int) -> None:
        size = model.size
        self._cuda = model.cuda
        shape = (images, size.image_size, size.image_size, 3)
        with ExitStack() as owned:
            self._mailbox = model.cuda.mailbox({"pixels": (shape, np.uint8)})
            owned.callback(self._mailbox.close)
            self.pixels = self._mailbox.places["pixels"]
            self._features = _features(model, images)
            owned.callback(self._features.close)
            self._encode = model.sessions[contract.VISION_ENCODER].bind(
                {"pixels": self.pixels, "image_features": self._features.place}
            )
            self._owned = owned.pop_all()

    def send(self, pixels: Squares) -> None:
        """Enqueue the copy of pictures from the host."""
        self._mailbox.host["pixels"][:] = pixels
        self._mailbox.send(self._cuda.stream)

    def run(self) -> DeviceArray:
        """Encode `pixels`; the features get memory of their own, for a view may keep them."""
        kept = self._cuda.array(self._features.place.shape, self._features.place.dtype)
        self._encode()
        self._cuda.copy(kept.place, self._features.place)
        self._cuda.synchronize()
        return kept

    def close(self) -> None:
        del self._encode  # the engine's context goes before its memory
        self._owned.close()


class _Batch:
    """Memory and caches for batches of one shape."""

    def __init__(self, model: DeviceModel, shape: BatchShape) -> None:
        self.memory = BatchMemory(model, shape)
        self.buckets = CacheBuckets(self.memory)

    def close(self) -> None:
        self.buckets.close()
        self.memory.close()


def open_device_backend(
    bundle: Bundle,
    cuda: Cuda,
    sessions: Mapping[str, Session],
    owned: ExitStack,
    *,
    most_new_tokens: int | None = None,
    in_place: int = 0,
) -> DeviceBackend:
    """A backend over these engines that takes over what `owned` holds so far.

    `in_place` is the capacity of caches that the decoder's engine writes itself, if it does.

    Raises:
        BackendError: our kernels cannot be compiled for this GPU, or FLORENCE_STEPS_AHEAD is no
            number of steps.
    """
    steps_ahead = asked_steps_ahead()
    kernels = Kernels(cuda)
    owned.callback(kernels.close)
    model = DeviceModel(
        cuda=cuda,
        kernels=kernels,
        sessions=sessions,
        size=bundle.size,
        floats=bundle.floats,
        generation=bundle.generation,
        in_place=in_place,
        steps_ahead=steps_ahead,
    )
    return DeviceBackend(model, owned.pop_all(), most_new_tokens=most_new_tokens)


def _features(model: DeviceModel, images: int) -> DeviceArray:
    size = model.size
    return model.cuda.array((images, size.image_tokens, size.d_model), model.floats)


def _own(features: Features, model: DeviceModel) -> DeviceFeatures:
    """Refuse what would be read as something that it is not."""
    expected = (model.size.image_tokens, model.size.d_model), np.dtype(model.floats)
    if not isinstance(features, DeviceFeatures) or expected != (
        features.place.shape[1:],
        features.dtype,
    ):
        raise BackendError(
            "These image features come from another engine. Look at the picture again with the "
            "model that is to answer."
        )
    return features


def _reactivate(cuda: Cuda) -> None:
    """Make the GPU current for what is freed next, if that can be done."""
    with suppress(BackendError):
        cuda.activate()


def _drop(kept: dict[Any, Any], most: int) -> None:
    """Close the oldest until `most` are left."""
    while len(kept) > most:
        kept.pop(next(iter(kept))).close()
