"""A picture that is already on the GPU: PyCUDA's GPUArray, CuPy, torch, numba and others.

They all describe themselves by `__cuda_array_interface__` (version 2 or 3, as numba's documentation
defines it); nothing is copied to take one in.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeGuard

import numpy as np
from PIL import Image

from ..errors import ImageError
from .api import LEGACY_STREAM
from .buffers import DeviceView
from .device import Cuda, open_cuda


class DeviceImage(Protocol):
    """Anything that describes itself as memory of a GPU."""

    @property
    def __cuda_array_interface__(self) -> Mapping[str, Any]: ...


def is_on_gpu(image: object) -> TypeGuard[DeviceImage]:
    """Whether an object describes itself so.

    A tensor of torch has the attribute on the CPU, too, and there it raises. `isinstance` would be
    fooled: as of Python 3.12 it does not read a Protocol's properties.
    """
    try:
        return getattr(image, "__cuda_array_interface__", None) is not None
    except RuntimeError:  # torch's, of a tensor that requires a gradient: not a picture anyway
        return False


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DeviceFrame:
    """RGB bytes in device memory; `owner` keeps them there.

    `line` and `step` are the bytes from a line to the next and from a pixel to the next. `stream`
    is where the bytes are still being written, None if they are complete.
    """

    owner: Any
    address: int
    size: tuple[int, int]  # width, height
    line: int
    step: int
    stream: int | None

    def check_readable(self, cuda: Cuda) -> None:
        """Refuse a frame that this GPU would read from another one's memory.

        Raises:
            ImageError: it lies there.
        """
        owner = cuda.owner_of(self.address)
        if owner is not None and owner != cuda.index:
            raise ImageError(
                f"The frame is in the memory of GPU {owner}, and the model on GPU {cuda.index}, "
                f"which cannot read it there. Load the model on GPU {owner} (device='cuda:{owner}' "
                "or the like), or copy the frame first."
            )

    def to_image(self) -> Image.Image:
        """The picture on the host: copied when somebody wants to see it."""
        width, height = self.size
        extent = (height - 1) * self.line + (width - 1) * self.step + 3
        cuda = open_cuda(_device_of(self.owner))
        try:
            if self.stream is not None:
                cuda.wait_for(self.stream)
            read = cuda.download(DeviceView(self.address, (extent,), np.dtype(np.uint8)))
        finally:
            cuda.close()
        rgb = np.lib.stride_tricks.as_strided(
            read, (height, width, 3), (self.line, self.step, 1), writeable=False
        )
        return Image.fromarray(np.ascontiguousarray(rgb))


def frame_of(image: DeviceImage) -> DeviceFrame:
    """The frame that an HxWx3 uint8 array on the GPU holds, in RGB order.

    Raises:
        ImageError: it has another shape or dtype, or lies in memory in a way that is not known.
    """
    interface = image.__cuda_array_interface__
    shape = tuple(interface["shape"])
    if len(shape) != 3 or shape[2] != 3 or interface["typestr"] != "|u1" or interface.get("mask"):
        raise ImageError(
            f"A frame on the GPU is expected as HxWx3 uint8 RGB, got {interface['typestr']} "
            f"{list(shape)}. Convert it there first."
        )
    height, width, _ = shape
    if 0 in shape:
        raise ImageError(f"The frame has no pixels: its shape is {list(shape)}.")
    line, step, channel = interface.get("strides") or (width * 3, 3, 1)
    if channel != 1 or step < 3 or line < 3:
        raise ImageError(
            f"The frame's channels must lie side by side, its strides are {(line, step, channel)}. "
            "Make it contiguous first (cupy.ascontiguousarray, tensor.contiguous())."
        )
    # Where no stream is named, the bytes may still be under way on the default one.
    stream = interface.get("stream", LEGACY_STREAM)
    return DeviceFrame(
        owner=image,
        address=int(interface["data"][0]),
        size=(width, height),
        line=line,
        step=step,
        stream=stream,
    )


def _device_of(owner: Any) -> int:
    """The GPU's number where the array knows it (CuPy, torch), else the first."""
    device = getattr(owner, "device", None)
    number = getattr(device, "id", getattr(device, "index", 0))
    return number if isinstance(number, int) else 0
