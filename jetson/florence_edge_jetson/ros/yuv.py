"""YUV 4:2:2 as cameras send it: two pixels in four bytes, with a colour for both."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Octets = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Packing:
    """In which of the four bytes the two lights begin, and where the two colours are."""

    light: int
    blue: int
    red: int


_UYVY, _YUYV = Packing(light=1, blue=0, red=2), Packing(light=0, blue=1, red=3)
# Old and new names of sensor_msgs/image_encodings.hpp.
PACKINGS = {"yuv422": _UYVY, "uyvy": _UYVY, "yuv422_yuy2": _YUYV, "yuyv": _YUYV}


def rgb_from_packed(rows: Octets, packing: Packing) -> Octets:
    """RGB uint8 [height, width, 3] of rows [height, 2 * width]; the width is even.

    ITU-R BT.601 with light from 16 to 235 and colours from 16 to 240, as UVC cameras have it and
    as OpenCV reads it; the numbers are those of the standard.
    """
    fours = rows.reshape(len(rows), -1, 4).astype(np.float32)
    light = 1.164383 * (fours[:, :, packing.light :: 2] - 16)
    blue, red = fours[:, :, packing.blue, None] - 128, fours[:, :, packing.red, None] - 128
    colours = (
        light + 1.596027 * red,
        light - 0.391762 * blue - 0.812968 * red,
        light + 2.017232 * blue,
    )
    rgb = np.stack([each.reshape(len(rows), -1) for each in colours], axis=2)
    rounded: Octets = np.clip(np.rint(rgb), 0, 255).astype(np.uint8)
    return rounded
