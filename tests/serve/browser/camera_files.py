"""Videos for Chromium's fake camera, and where an overlay of the page has lines of a colour."""

import base64
import io
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

FRAMES_A_SECOND = 10
_NEAR = 40  # how far a colour of the canvas may lie from the one that was named, smoothing included


def write_y4m(path: Path, pictures: Iterable[Image.Image]) -> Path:
    """Write pictures of one size, with even sides, as raw 4:2:0; Chromium plays them in a loop."""
    with path.open("wb") as file:
        for number, picture in enumerate(pictures):
            if number == 0:
                width, height = picture.size
                header = f"YUV4MPEG2 W{width} H{height} F{FRAMES_A_SECOND}:1 Ip A1:1 C420mpeg2\n"
                file.write(header.encode())
            file.write(b"FRAME\n")
            luma, blue, red = (
                np.asarray(plane, float) for plane in picture.convert("YCbCr").split()
            )
            # Pillow's planes have the full range, those of a video 16 to 235 and 16 to 240.
            file.write(np.uint8(16 + luma * 219 / 255 + 0.5).tobytes())
            for plane in (blue, red):
                halved = plane.reshape(height // 2, 2, width // 2, 2).mean(axis=(1, 3))
                file.write(np.uint8(128 + (halved - 128) * 224 / 255 + 0.5).tobytes())
    return path


def image_of(data_url: str) -> Image.Image:
    """The picture of a `data:` URL."""
    return Image.open(io.BytesIO(base64.b64decode(data_url.partition(",")[2])))


def rgb_of(css: str) -> tuple[int, int, int]:
    """`rgb(230, 159, 0)` as numbers."""
    red, green, blue = css.removeprefix("rgb(").removesuffix(")").split(",")
    return int(red), int(green), int(blue)


def outlined_share(
    overlay: Image.Image, box: tuple[float, ...], colour: tuple[int, int, int], reach: float
) -> float:
    """How much of a box's outline an overlay has in a colour, 0 to 1: the edge that has the least.

    Args:
        overlay: the canvas over the picture, RGBA.
        box: left, top, right, bottom as fractions of the picture.
        colour: of the line.
        reach: how far from its place a line may lie, as a fraction of the picture.
    """
    lines = _lines(overlay, colour)
    height, width = lines.shape
    left, top, right, bottom = np.array(box) * (width, height, width, height)
    across, down = max(1, reach * width), max(1, reach * height)
    rows, columns = slice(round(top), round(bottom)), slice(round(left), round(right))
    shares = [lines[rows, _around(x, across, width)].any(axis=1).mean() for x in (left, right)]
    shares += [lines[_around(y, down, height), columns].any(axis=0).mean() for y in (top, bottom)]
    return float(min(shares))


def _lines(overlay: Image.Image, colour: tuple[int, int, int]) -> npt.NDArray[np.bool_]:
    pixels = np.asarray(overlay.convert("RGBA"), int)
    near = np.abs(pixels[..., :3] - colour).max(axis=-1) <= _NEAR
    return near & (pixels[..., 3] > 200)


def _around(at: float, reach: float, side: int) -> slice:
    return slice(max(0, round(at - reach)), min(side, round(at + reach) + 1))
