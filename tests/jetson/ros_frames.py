"""Frames as ROS sends them, made of known pictures."""

import io
from array import array
from types import SimpleNamespace
from typing import Any

import numpy as np
from PIL import Image

from florence_edge_jetson.robots.ros.images import RgbImage

HEIGHT, WIDTH = 3, 5
TOPIC = "/camera/image"
PICTURE = np.random.default_rng(1).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
GREY = np.repeat(PICTURE[:, :, :1], 3, axis=2)
ALPHA = np.full((HEIGHT, WIDTH, 1), 77, dtype=np.uint8)


def frame(encoding: str, values: Any, *, padding: int = 0, bigendian: bool = False) -> Any:
    """A message of an [H, W, C] array, rows followed by `padding` bytes of 0xFF."""
    order = ">" if bigendian else "<"
    rows = np.ascontiguousarray(values).astype(values.dtype.newbyteorder(order))
    rows = rows.view(np.uint8).reshape(values.shape[0], -1)
    padded = np.pad(rows, ((0, 0), (0, padding)), constant_values=255)
    return SimpleNamespace(
        height=values.shape[0],
        width=values.shape[1],
        encoding=encoding,
        is_bigendian=int(bigendian),
        step=padded.shape[1],
        data=array("B", padded.tobytes()),  # what rclpy keeps a uint8[] in
    )


YUV = ("yuv422", "uyvy", "yuv422_yuy2", "yuyv")
PLANAR = ("nv12", "nv21", "nv24")
BAYER = [
    f"bayer_{pattern}{bits}" for pattern in ("rggb", "bggr", "gbrg", "grbg") for bits in (8, 16)
]
# White, black, and BT.601's red, green, blue and a grey, as (light, blue, red).
COLOURS = {
    (235, 128, 128): (255, 255, 255),
    (16, 128, 128): (0, 0, 0),
    (81, 90, 240): (254, 0, 0),
    (145, 54, 34): (0, 255, 1),
    (41, 240, 110): (0, 0, 255),
    (126, 128, 128): (128, 128, 128),
}


def scene(height: int, width: int) -> RgbImage:
    """Smooth colours, an edge, and lumas and chromas beyond what a camera should send."""
    y, x = np.mgrid[0:height, 0:width] / [[[height]], [[width]]]
    waves = [np.sin(9 * x + 3 * y), np.cos(7 * y), np.sin(5 * x * y + 1)]
    smooth = np.stack([127.5 + 127.5 * wave for wave in waves], axis=2)
    smooth[height // 3 :, width // 2 :] = 255 - smooth[height // 3 :, width // 2 :]
    return smooth.round().astype(np.uint8)


def assert_close(found: RgbImage, expected: RgbImage) -> None:
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).max() <= 2


# Which colour the first two pixels of the first two rows have; cv_bridge names the codes so.
FIRST_ROWS = {"rggb": "RGGB", "bggr": "BGGR", "gbrg": "GBRG", "grbg": "GRBG"}


def mosaic(picture: Any, pattern: str) -> Any:
    """What a sensor behind a Bayer filter sees of a picture."""
    height, width, _ = picture.shape
    seen = np.empty((height, width), dtype=picture.dtype)
    for place, colour in enumerate(FIRST_ROWS[pattern]):
        row, column = divmod(place, 2)
        seen[row::2, column::2] = picture[row::2, column::2, "RGB".index(colour)]
    return seen


def compressed(image: Image.Image, kind: str, words: str) -> Any:
    file = io.BytesIO()
    image.save(file, kind)
    return SimpleNamespace(format=words, data=array("B", file.getvalue()))
