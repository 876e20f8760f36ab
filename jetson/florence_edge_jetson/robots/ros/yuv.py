"""YUV frames as RGB: 4:2:2 packed as webcams have it, and luma with interleaved chroma (NV12)."""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Bytes: TypeAlias = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class PackedLayout:
    """YUV 4:2:2, two pixels in four bytes: where the two lumas begin, and where Cb and Cr are."""

    luma: int
    cb: int
    cr: int


@dataclass(frozen=True, slots=True)
class PlanarLayout:
    """Rows of luma, and below them rows of Cb and Cr in turn: a pair for so many pixels."""

    down: int
    across: int
    cb: int
    """Whether Cb (0) or Cr (1) comes first."""


_UYVY, _YUYV = PackedLayout(luma=1, cb=0, cr=2), PackedLayout(luma=0, cb=1, cr=3)
# Old and new names of sensor_msgs/image_encodings.hpp.
PACKED = {"yuv422": _UYVY, "uyvy": _UYVY, "yuv422_yuy2": _YUYV, "yuyv": _YUYV}
# nv12 is NVIDIA's (Isaac ROS, Argus) and V4L2's; ROS itself knows the other two.
PLANAR = {
    "nv12": PlanarLayout(down=2, across=2, cb=0),
    "nv21": PlanarLayout(down=2, across=2, cb=1),
    "nv24": PlanarLayout(down=1, across=1, cb=0),
}

# ITU-R BT.601 with luma from 16 to 235, Cb and Cr from 16 to 240, as UVC cameras have it and as
# OpenCV reads it: by channel, how much of Cb and of Cr is added. The numbers are the standard's.
_LUMA = np.float32(1.164383)
_CHROMA = ((0.0, 1.596027), (-0.391762, -0.812968), (2.017232, 0.0))


def rgb_from_packed(rows: Bytes, layout: PackedLayout) -> Bytes:
    """RGB uint8 [height, width, 3] of rows [height, 2 * width]; the width is even."""
    return rgb_from_planes(
        rows[:, layout.luma :: 2], rows[:, layout.cb :: 4], rows[:, layout.cr :: 4]
    )


def rgb_from_planes(luma: Bytes, cb: Bytes, cr: Bytes) -> Bytes:
    """RGB uint8 [height, width, 3] of luma [height, width] and chroma, which may be coarser.

    A pair of Cb and Cr holds for all its pixels, as in OpenCV, without interpolation.
    """
    down, across = luma.shape[0] // cb.shape[0], luma.shape[1] // cb.shape[1]
    light = _LUMA * np.maximum(luma.astype(np.float32) - 16, 0)
    blue, red = cb.astype(np.float32) - 128, cr.astype(np.float32) - 128
    rgb = np.empty((*luma.shape, 3), dtype=np.uint8)
    for channel, (of_blue, of_red) in enumerate(_CHROMA):
        colour = np.float32(of_blue) * blue + np.float32(of_red) * red
        whole = light + colour.repeat(down, axis=0).repeat(across, axis=1)
        rgb[:, :, channel] = np.clip(np.rint(whole), 0, 255)
    return rgb
