"""Image features that stay on the device: a view keeps them without ever looking inside."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..cuda import Cuda, DeviceArray, Place
from ..errors import BackendError


def join_features(features: Sequence[Any]) -> Any:
    """Features of several looks as one batch, where they are: on the host or on the device."""
    on_device = [part for part in features if isinstance(part, DeviceFeatures)]
    if not on_device:
        return np.concatenate(features)
    kinds = {(part.place.shape[1:], part.dtype) for part in on_device}
    if len(on_device) < len(features) or len(kinds) > 1:
        raise BackendError(
            "Views of different engines cannot be answered in one batch. Look at all pictures with "
            "the model that is to answer."
        )
    return on_device[0] if len(on_device) == 1 else on_device[0].followed_by(on_device[1:])


class DeviceFeatures:
    """Features [B, image tokens, d_model] in device memory; slices of images share it.

    The memory is freed with the last slice; until then, they keep `engine` alive, which has the
    stream. `np.asarray` copies the values to the host.
    """

    def __init__(
        self, engine: object, cuda: Cuda, array: DeviceArray, images: range | None = None
    ) -> None:
        whole = array.place
        self._engine = engine
        self._cuda = cuda
        self._array = array
        self._images = range(whole.shape[0]) if images is None else images
        self.dtype = whole.dtype
        self.place = Place(
            whole[self._images.start].address, (len(self), *whole.shape[1:]), whole.dtype
        )

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, images: slice) -> "DeviceFeatures":
        part = self._images[images]
        if part.step != 1:
            raise IndexError("features are sliced one image after the other")
        return DeviceFeatures(self._engine, self._cuda, self._array, part)

    def followed_by(self, others: "Sequence[DeviceFeatures]") -> "DeviceFeatures":
        """A copy of these features and others in one array."""
        parts = (self, *others)
        self._cuda.activate()
        array = self._cuda.array((sum(map(len, parts)), *self.place.shape[1:]), self.dtype)
        row = 0
        for part in parts:
            self._cuda.copy(array.place[row], part.place)
            row += len(part)
        self._cuda.synchronize()
        return DeviceFeatures(self._engine, self._cuda, array)

    def __array__(
        self, dtype: npt.DTypeLike | None = None, *, copy: bool | None = None
    ) -> npt.NDArray[Any]:
        self._cuda.activate()
        return np.asarray(self._cuda.download(self.place), dtype=dtype)
