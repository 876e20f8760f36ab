"""Frames in: ROS 2 image messages as RGB arrays, in numpy and Pillow, Bayer patterns by OpenCV.

Messages are read by their field names only, so those of rclpy and of rosbags are read alike.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from florence_edge.errors import ImageError, RequestError
from florence_edge.image import eight_bits, load_image
from florence_edge.image_file import ImageOptions

from .bayer import PATTERNS, rgb_from_bayer
from .message_types import COMPRESSED_IMAGE, IMAGE
from .yuv import PACKED, PLANAR, PlanarLayout, rgb_from_packed, rgb_from_planes

RgbImage = npt.NDArray[np.uint8]  # [height, width, 3]


@dataclass(frozen=True, slots=True)
class _PixelLayout:
    """How the bytes of one pixel are to be read."""

    bytes_a_value: int
    channels: int
    red_green_blue: tuple[int, int, int] = (0, 1, 2)  # which channel holds what


# Names are those of sensor_msgs/image_encodings.hpp; one-channel pictures become grey. What has
# OpenCV's type alone has OpenCV's order, as in RViz.
_COLOURS = {
    "rgb8": _PixelLayout(1, 3, (0, 1, 2)),
    "bgr8": _PixelLayout(1, 3, (2, 1, 0)),
    "rgba8": _PixelLayout(1, 4, (0, 1, 2)),
    "bgra8": _PixelLayout(1, 4, (2, 1, 0)),
    "mono8": _PixelLayout(1, 1, (0, 0, 0)),
    "8UC1": _PixelLayout(1, 1, (0, 0, 0)),
    "8UC3": _PixelLayout(1, 3, (2, 1, 0)),
    "8UC4": _PixelLayout(1, 4, (2, 1, 0)),
    "rgb16": _PixelLayout(2, 3, (0, 1, 2)),
    "bgr16": _PixelLayout(2, 3, (2, 1, 0)),
    "rgba16": _PixelLayout(2, 4, (0, 1, 2)),
    "bgra16": _PixelLayout(2, 4, (2, 1, 0)),
    "mono16": _PixelLayout(2, 1, (0, 0, 0)),
    "16UC1": _PixelLayout(2, 1, (0, 0, 0)),
    "16UC3": _PixelLayout(2, 3, (2, 1, 0)),
    "16UC4": _PixelLayout(2, 4, (2, 1, 0)),
}
_LAYOUTS = {
    **_COLOURS,
    **{name: _PixelLayout(1, 2) for name in PACKED},  # a luma, and Cb or Cr
    **{name: _PixelLayout(1, 1) for name in PLANAR},  # of the rows of luma
    **{name: _PixelLayout(2 if name.endswith("16") else 1, 1) for name in PATTERNS},
}

ENCODINGS = tuple(_LAYOUTS)


def rgb_from_image(message: Any, topic: str, options: ImageOptions | None = None) -> RgbImage:
    """A `sensor_msgs/Image` as RGB uint8 [height, width, 3].

    Rows may be padded (`step`). Alpha is dropped, one channel becomes grey. Values of 16 bits are
    scaled over their whole range, 65535 to 255, as the runtime scales deep grey files, or as
    `options.deep_range` says. 16UC1 is a depth map in millimetres (REP 118) and is read only where
    `deep_range` "own" asks for its shades. YUV is read as BT.601 (see `yuv`), Bayer patterns by
    OpenCV (see `bayer`).

    Args:
        message: of rclpy or rosbags.
        topic: where it came from, for messages to people.
        options: how 16 bits are scaled.

    Raises:
        RequestError: the encoding is not known, or depth that nobody asked for.
        ImageError: no pixels, or fewer bytes than height, width and step need.
        MissingPackageError: a Bayer pattern, and OpenCV is not installed.
    """
    layout = _LAYOUTS.get(message.encoding)
    if layout is None:
        raise RequestError(
            f"{topic} carries the encoding {message.encoding!r}, which is not known here. Known: "
            f"{', '.join(ENCODINGS)}. Choose another pixel format in the camera's driver, or "
            "convert the frames first."
        )
    options = options or ImageOptions()
    _check_depth_is_meant(message.encoding, topic, options)
    planar = PLANAR.get(message.encoding)
    if planar is not None:
        return _rgb_from_planar(message, planar, topic)
    _check_rows(message, layout, topic)
    values = _values(message, layout)
    if message.encoding in PACKED:
        _check_even(message, topic, across=2, down=1)
        return rgb_from_packed(values.reshape(message.height, -1), PACKED[message.encoding])
    if message.encoding in PATTERNS:
        colours = rgb_from_bayer(values[:, :, 0], PATTERNS[message.encoding], topic)
    else:
        colours = values[:, :, layout.red_green_blue]
    if layout.bytes_a_value == 2:
        return eight_bits(colours, f"A frame of {topic}", options)
    rgb: RgbImage = colours.astype(np.uint8)
    return rgb


def _values(message: Any, layout: _PixelLayout) -> npt.NDArray[Any]:
    """The message's own values, [height, width, channels]."""
    order, size = ">" if message.is_bigendian else "<", layout.bytes_a_value
    values: npt.NDArray[Any] = np.ndarray(
        shape=(message.height, message.width, layout.channels),
        dtype=f"{order}u{size}",
        buffer=message.data,
        strides=(message.step, layout.channels * size, size),
    )
    return values


def _rgb_from_planar(message: Any, layout: PlanarLayout, topic: str) -> RgbImage:
    height, width = message.height, message.width
    rows, row = height // layout.down, 2 * width // layout.across  # of chroma
    needed = height * width + rows * row
    step = message.step
    if len(message.data) == needed and width < step <= 2 * width:
        step = width  # some drivers write the bytes of all planes a row there, without padding
    _check_step(message, width, step, topic)
    below = step * 2 // layout.across
    _check_length(message, height * step + (rows - 1) * below + row, topic)
    _check_even(message, topic, across=layout.across, down=layout.down)
    luma = np.ndarray((height, width), np.uint8, message.data, strides=(step, 1))
    chroma = np.ndarray(
        (rows, row // 2, 2), np.uint8, message.data, height * step, strides=(below, 2, 1)
    )
    return rgb_from_planes(luma, chroma[:, :, layout.cb], chroma[:, :, 1 - layout.cb])


def rgb_from_compressed(message: Any, topic: str, options: ImageOptions | None = None) -> RgbImage:
    """A `sensor_msgs/CompressedImage` (JPEG, PNG, ...) as RGB uint8 [height, width, 3].

    What the bytes are is read from them, not from `format`; 16-bit PNGs are scaled as raw frames.
    Only a Bayer pattern is known from there: compressed_image_transport compresses it as if it
    were grey.

    Raises:
        RequestError: it is depth with a header of its own (compressedDepth), or depth that nobody
            asked for.
        ImageError: the bytes are not a picture, one that is damaged, or larger than
            `options.max_pixels`.
        MissingPackageError: a Bayer pattern, and OpenCV is not installed.
    """
    if "compressedDepth" in message.format:
        raise RequestError(
            f"{topic} carries the format {message.format!r}: depth with a header of its own, which "
            "is not read here. Known: JPEG, PNG and other formats of picture files. Use a topic of "
            "colour or grey pictures."
        )
    options = options or ImageOptions()
    raw, _, compressed = message.format.partition(";")
    _check_depth_is_meant(raw.strip(), topic, options)
    try:
        picture = np.array(load_image(bytes(message.data), options))
    except ImageError as error:
        raise ImageError(
            f"A frame of {topic} with the format {message.format!r} cannot be read: {error}"
        ) from error
    pattern = PATTERNS.get(raw.strip())
    if pattern is None or compressed.rstrip().endswith(("rgb8", "bgr8")):
        return picture
    return rgb_from_bayer(picture[:, :, 0], pattern, topic)


READERS: dict[str, Callable[[Any, str, ImageOptions | None], RgbImage]] = {
    IMAGE: rgb_from_image,
    COMPRESSED_IMAGE: rgb_from_compressed,
}
"""By message type, how its frames are read."""


def _check_depth_is_meant(encoding: str, topic: str, options: ImageOptions) -> None:
    if encoding == "16UC1" and options.deep_range == "full":
        raise RequestError(
            f"{topic} carries the encoding '16UC1', which is depth in millimetres: read as a grey "
            "picture it is nearly black. Choose a topic of colour or grey pictures, or have each "
            "frame's largest value white with deep_range own (florence-bag --deep-range own)."
        )


def _check_rows(message: Any, layout: _PixelLayout, topic: str) -> None:
    row = message.width * layout.channels * layout.bytes_a_value
    _check_step(message, row, message.step, topic)
    # Some drivers leave the last row's padding out.
    _check_length(message, message.step * (message.height - 1) + row, topic)


def _check_step(message: Any, row: int, step: int, topic: str) -> None:
    if message.height < 1 or message.width < 1:
        raise ImageError(
            f"A frame of {topic} has no pixels: its size is {message.width} x {message.height}."
        )
    if step < row:
        raise ImageError(
            f"A frame of {topic} claims that a row has {step} bytes (step), but {message.width} "
            f"pixels of {message.encoding} take {row}. Fix the camera's driver."
        )


def _check_length(message: Any, needed: int, topic: str) -> None:
    if len(message.data) < needed:
        raise ImageError(
            f"A frame of {topic} has {len(message.data)} bytes, but {message.width} x "
            f"{message.height} pixels of {message.encoding} take {needed}: it was cut short."
        )


def _check_even(message: Any, topic: str, *, across: int, down: int) -> None:
    if message.width % across or message.height % down:
        raise ImageError(
            f"A frame of {topic} is {message.width} x {message.height} pixels, but "
            f"{message.encoding} has one colour for {across} x {down} of them. Fix the camera's "
            "driver."
        )
