"""A backend whose data stays in host memory, whatever engine runs the three graphs there.

`ort.py` and `openvino.py` bring the engines, as a `Bind` a graph (see `host_decoder.py`).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from .. import contract
from ..errors import BackendError
from ..logits import Ints
from .base import Features, HostFeatures, Pixels
from .host_decoder import Bind, HostDecoder


@dataclass(frozen=True, slots=True, kw_only=True)
class HostModel:
    """The three graphs of a bundle in an engine; `floats` is the dtype that it exchanges."""

    device: str
    binds: Mapping[str, Bind]
    size: contract.ModelSize
    floats: str


class HostBackend:
    """The three graphs of a bundle on arrays of numpy."""

    most_new_tokens: int | None = None

    def __init__(self, model: HostModel) -> None:
        self._model = model

    def look(self, pixels: Pixels) -> HostFeatures:
        model = self._model
        if not isinstance(pixels, np.ndarray):
            raise BackendError(
                f"A frame on the GPU cannot be read by device={model.device!r}. Load the model "
                "with device='cuda' or 'tensorrt', or copy the frame to the host first."
            )
        shape = (len(pixels), model.size.image_tokens, model.size.d_model)
        features: HostFeatures = np.empty(shape, model.floats)
        inputs = {"pixels": np.ascontiguousarray(pixels)}
        model.binds[contract.VISION_ENCODER](inputs, {"image_features": features})()
        return features

    def read(
        self, features: Features, input_ids: Ints, encoder_mask: Ints, *, beams: int
    ) -> HostDecoder:
        return HostDecoder(
            self._model.binds[contract.DECODER],
            self._model.size,
            self.cross_caches(np.asarray(features), input_ids, encoder_mask),
            np.ascontiguousarray(encoder_mask),
            beams=beams,
        )

    def cross_caches(
        self, features: HostFeatures, input_ids: Ints, encoder_mask: Ints
    ) -> dict[str, HostFeatures]:
        """Run the text encoder: its outputs by name."""
        model, size = self._model, self._model.size
        shape = (len(encoder_mask), size.decoder_heads, encoder_mask.shape[1], size.head_dim)
        caches: dict[str, HostFeatures] = {
            contract.cross_cache(layer, part): np.empty(shape, model.floats)
            for layer in range(size.decoder_layers)
            for part in contract.PARTS
        }
        inputs = {
            "image_features": np.ascontiguousarray(features, model.floats),
            "input_ids": np.ascontiguousarray(input_ids),
            "encoder_mask": np.ascontiguousarray(encoder_mask),
        }
        model.binds[contract.TEXT_ENCODER](inputs, caches)()
        return caches
