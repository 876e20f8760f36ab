"""Frames in: ROS 2 image messages as RGB arrays, in numpy and Pillow alone.

Messages are read by their field names only, so those of rclpy and of rosbags are read alike.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from florence_edge.errors import ImageError, RequestError
from florence_edge.image import load_image

from .message_types import COMPRESSED_IMAGE, IMAGE

RgbImage = npt.NDArray[np.uint8]  # [height, width, 3]


@dataclass(frozen=True, slots=True)
class YuvLayout:
    """YUV 4:2:2, two pixels in four bytes: where the two lumas begin, and where Cb and Cr are."""

    luma: int
    cb: int
    cr: int


_UYVY, _YUYV = YuvLayout(luma=1, cb=0, cr=2), YuvLayout(luma=0, cb=1, cr=3)
# Old and new names of sensor_msgs/image_encodings.hpp.
YUV_LAYOUTS = {"yuv422": _UYVY, "uyvy": _UYVY, "yuv422_yuy2": _YUYV, "yuyv": _YUYV}


def rgb_from_yuv(rows: npt.NDArray[np.uint8], layout: YuvLayout) -> RgbImage:
    """RGB uint8 [height, width, 3] of rows [height, 2 * width]; the width is even.

    ITU-R BT.601 with luma from 16 to 235, Cb and Cr from 16 to 240, as UVC cameras have it and as
    OpenCV reads it; the numbers are those of the standard.
    """
    pairs = rows.reshape(len(rows), -1, 4).astype(np.float32)  # of pixels
    luma = 1.164383 * (pairs[:, :, layout.luma :: 2] - 16)
    cb, cr = pairs[:, :, layout.cb, None] - 128, pairs[:, :, layout.cr, None] - 128
    channels = (
        luma + 1.596027 * cr,
        luma - 0.391762 * cb - 0.812968 * cr,
        luma + 2.017232 * cb,
    )
    rgb = np.stack([each.reshape(len(rows), -1) for each in channels], axis=2)
    rounded: RgbImage = np.clip(np.rint(rgb), 0, 255).astype(np.uint8)
    return rounded


@dataclass(frozen=True, slots=True)
class _PixelLayout:
    """How the bytes of one pixel are to be read."""

    bytes_a_value: int
    channels: int
    red_green_blue: tuple[int, int, int] = (0, 1, 2)  # which channel holds what


# Names are those of sensor_msgs/image_encodings.hpp; one-channel pictures become grey.
_LAYOUTS = {
    "rgb8": _PixelLayout(1, 3, (0, 1, 2)),
    "bgr8": _PixelLayout(1, 3, (2, 1, 0)),
    "rgba8": _PixelLayout(1, 4, (0, 1, 2)),
    "bgra8": _PixelLayout(1, 4, (2, 1, 0)),
    "mono8": _PixelLayout(1, 1, (0, 0, 0)),
    "8UC1": _PixelLayout(1, 1, (0, 0, 0)),
    "rgb16": _PixelLayout(2, 3, (0, 1, 2)),
    "bgr16": _PixelLayout(2, 3, (2, 1, 0)),
    "rgba16": _PixelLayout(2, 4, (0, 1, 2)),
    "bgra16": _PixelLayout(2, 4, (2, 1, 0)),
    "mono16": _PixelLayout(2, 1, (0, 0, 0)),
    "16UC1": _PixelLayout(2, 1, (0, 0, 0)),
    **{name: _PixelLayout(1, 2) for name in YUV_LAYOUTS},  # a luma, and Cb or Cr
}

ENCODINGS = tuple(_LAYOUTS)


def rgb_from_image(message: Any, topic: str) -> RgbImage:
    """A `sensor_msgs/Image` as RGB uint8 [height, width, 3].

    Rows may be padded (`step`). Alpha is dropped, one channel becomes grey. Values of 16 bits are
    scaled over their whole range, 65535 to 255, as the runtime scales deep grey files; a depth map
    in millimetres therefore comes out nearly black: colour it before asking about it. YUV 4:2:2 is
    read by `rgb_from_yuv`.

    Args:
        message: of rclpy or rosbags.
        topic: where it came from, for messages to people.

    Raises:
        RequestError: the encoding is not known.
        ImageError: no pixels, or fewer bytes than height, width and step need.
    """
    layout = _LAYOUTS.get(message.encoding)
    if layout is None:
        raise RequestError(
            f"{topic} carries the encoding {message.encoding!r}, which is not known here. Known: "
            f"{', '.join(ENCODINGS)}. Convert the frames first (image_proc does, for Bayer "
            "patterns), or choose another pixel format in the camera's driver."
        )
    _check_bytes(message, layout, topic)
    yuv = YUV_LAYOUTS.get(message.encoding)
    if yuv is not None and message.width % 2:
        raise ImageError(
            f"A frame of {topic} is {message.width} pixels wide, but {message.encoding} has pixels "
            "in pairs. Fix the camera's driver."
        )
    order = ">" if message.is_bigendian else "<"
    size = layout.bytes_a_value
    values: npt.NDArray[np.unsignedinteger[Any]] = np.ndarray(
        shape=(message.height, message.width, layout.channels),
        dtype=f"{order}u{size}",
        buffer=message.data,
        strides=(message.step, layout.channels * size, size),
    )
    if yuv is not None:
        return rgb_from_yuv(values.reshape(message.height, -1).astype(np.uint8), yuv)
    colours = values[:, :, layout.red_green_blue]
    if size == 2:
        colours = colours // 257  # 65535 -> 255
    return colours.astype(np.uint8)


def rgb_from_compressed(message: Any, topic: str) -> RgbImage:
    """A `sensor_msgs/CompressedImage` (JPEG, PNG, ...) as RGB uint8 [height, width, 3].

    What the bytes are is read from them, not from `format`; 16-bit PNGs are scaled as raw frames.

    Raises:
        RequestError: it is depth with a header of its own (compressedDepth).
        ImageError: the bytes are not a picture, or a damaged one.
    """
    if "compressedDepth" in message.format:
        raise RequestError(
            f"{topic} carries the format {message.format!r}: depth with a header of its own, which "
            "is not read here. Known: what Pillow reads, JPEG and PNG above all. Use a topic of "
            "colour or grey pictures."
        )
    try:
        return np.array(load_image(bytes(message.data)))
    except ImageError as error:
        raise ImageError(
            f"A frame of {topic} with the format {message.format!r} cannot be read: {error} "
            "Expected JPEG, PNG or what else Pillow reads."
        ) from error


READERS: dict[str, Callable[[Any, str], RgbImage]] = {
    IMAGE: rgb_from_image,
    COMPRESSED_IMAGE: rgb_from_compressed,
}
"""By message type, how its frames are read."""


def _check_bytes(message: Any, layout: _PixelLayout, topic: str) -> None:
    height, width, step = message.height, message.width, message.step
    if height < 1 or width < 1:
        raise ImageError(f"A frame of {topic} has no pixels: its size is {width} x {height}.")
    row = width * layout.channels * layout.bytes_a_value
    if step < row:
        raise ImageError(
            f"A frame of {topic} claims that a row has {step} bytes (step), but {width} pixels of "
            f"{message.encoding} take {row}. Fix the camera's driver."
        )
    needed = step * (height - 1) + row  # some drivers leave the last row's padding out
    if len(message.data) < needed:
        raise ImageError(
            f"A frame of {topic} has {len(message.data)} bytes, but {width} x {height} pixels of "
            f"{message.encoding} take {needed}: it was cut short."
        )
