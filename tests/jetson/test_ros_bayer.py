"""Mosaics of sensors behind a Bayer filter become what OpenCV makes of them."""

import sys
from typing import Any

import numpy as np
import pytest
from PIL import Image

from florence_edge.errors import ImageError, MissingPackageError
from florence_edge_jetson.robots.ros.images import rgb_from_compressed, rgb_from_image

from .ros_frames import BAYER, PICTURE, TOPIC, assert_close, compressed, frame, mosaic, scene

OPENCV_BAYER = {"rggb": "BG", "bggr": "RG", "gbrg": "GR", "grbg": "GB"}


@pytest.mark.parametrize("encoding", BAYER)
@pytest.mark.parametrize(("padding", "bigendian"), [(0, False), (6, False), (6, True)])
def test_bayer_patterns_are_what_opencv_makes_of_them(
    cv2: Any, encoding: str, padding: int, bigendian: bool
) -> None:
    pattern = encoding.removeprefix("bayer_")[:4]
    picture = scene(47, 64) if encoding.endswith("8") else scene(47, 64).astype(np.uint16) * 257
    seen = mosaic(picture, pattern)
    code = getattr(cv2, f"COLOR_Bayer{OPENCV_BAYER[pattern]}2RGB")
    expected = cv2.cvtColor(seen, code)
    if encoding.endswith("16"):
        expected = cv2.convertScaleAbs(expected, alpha=255 / 65535)
    message = frame(encoding, seen[:, :, None], padding=padding, bigendian=bigendian)
    assert_close(rgb_from_image(message, TOPIC), expected)


@pytest.mark.parametrize("encoding", BAYER)
def test_a_colour_behind_a_bayer_filter_is_that_colour(cv2: Any, encoding: str) -> None:
    colour = np.array([200, 100, 30], dtype=np.uint8)
    picture = np.broadcast_to(colour, (8, 8, 3))
    deep_picture = picture.astype(np.uint16) * 257 if encoding.endswith("16") else picture
    seen = mosaic(deep_picture, encoding.removeprefix("bayer_")[:4])
    rgb = rgb_from_image(frame(encoding, seen[:, :, None]), TOPIC)
    np.testing.assert_array_equal(rgb, picture)


def test_a_mosaic_too_small_for_its_pattern_is_refused(cv2: Any) -> None:
    with pytest.raises(ImageError, match="is 2 x 4 pixels: too small for a Bayer pattern"):
        rgb_from_image(frame("bayer_rggb8", np.zeros((4, 2, 1), np.uint8)), TOPIC)


def test_without_opencv_a_bayer_frame_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    message = frame("bayer_rggb8", np.zeros((4, 4, 1), np.uint8))
    with pytest.raises(MissingPackageError, match=r"apt install python3-opencv.*\[bayer\]"):
        rgb_from_image(message, TOPIC)


@pytest.mark.parametrize("words", ["bayer_grbg8; png compressed ", "bayer_grbg8; jpeg compressed"])
def test_a_compressed_mosaic_becomes_colours(cv2: Any, words: str) -> None:
    seen = mosaic(scene(48, 64), "grbg")
    message = compressed(Image.fromarray(seen), "PNG", words)
    raw = rgb_from_image(frame("bayer_grbg8", seen[:, :, None]), TOPIC)
    np.testing.assert_array_equal(rgb_from_compressed(message, TOPIC), raw)


def test_colours_that_were_made_of_a_mosaic_before_stay() -> None:
    words = "bayer_grbg8; jpeg compressed bgr8"
    message = compressed(Image.fromarray(PICTURE), "PNG", words)
    np.testing.assert_array_equal(rgb_from_compressed(message, TOPIC), PICTURE)
