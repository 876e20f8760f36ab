"""Compressed frames of ROS: JPEG, PNG, WebP, and what is refused."""

import io
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from florence_edge.errors import ImageError, RequestError
from florence_edge.image_file import ImageOptions
from florence_edge_jetson.robots.ros.images import rgb_from_compressed

from .ros_frames import GREY, PICTURE, TOPIC, compressed


@pytest.mark.parametrize(
    ("kind", "words"), [("PNG", "png"), ("PNG", "rgb8; png compressed bgr8"), ("WEBP", "webp")]
)
def test_a_compressed_frame_becomes_rgb(kind: str, words: str) -> None:
    message = compressed(Image.fromarray(PICTURE), kind, words)
    if kind == "PNG":
        np.testing.assert_array_equal(rgb_from_compressed(message, TOPIC), PICTURE)
    assert rgb_from_compressed(message, TOPIC).shape == PICTURE.shape


def test_a_jpeg_frame_is_what_pillow_makes_of_it() -> None:
    message = compressed(Image.fromarray(PICTURE), "JPEG", "rgb8; jpeg compressed bgr8")
    with Image.open(io.BytesIO(bytes(message.data))) as image:
        np.testing.assert_array_equal(rgb_from_compressed(message, TOPIC), np.asarray(image))


def test_a_grey_jpeg_frame_has_three_channels() -> None:
    message = compressed(Image.fromarray(GREY[:, :, 0]), "JPEG", "mono8; jpeg compressed ")
    rgb = rgb_from_compressed(message, TOPIC)
    assert rgb.shape == PICTURE.shape
    np.testing.assert_array_equal(rgb[:, :, 0], rgb[:, :, 2])


def test_compressed_depth_in_millimetres_is_refused_as_well() -> None:
    message = SimpleNamespace(format="16UC1; png compressed ", data=b"")
    with pytest.raises(RequestError, match="depth in millimetres"):
        rgb_from_compressed(message, TOPIC)


def test_depth_with_a_header_of_its_own_is_refused() -> None:
    message = SimpleNamespace(format="16UC1; compressedDepth png", data=b"")
    with pytest.raises(RequestError, match="which is not read here") as refusal:
        rgb_from_compressed(message, TOPIC)
    assert not isinstance(refusal.value, ImageError)


@pytest.mark.parametrize("kept", [0, 12, 60])
def test_a_damaged_compressed_frame_is_named_with_its_format(kept: int) -> None:
    message = compressed(Image.fromarray(PICTURE), "PNG", "png")
    message.data = message.data[:kept]
    with pytest.raises(ImageError, match="A frame of /camera/image with the format 'png' cannot"):
        rgb_from_compressed(message, TOPIC)


def test_a_compressed_frame_above_the_limit_is_refused() -> None:
    message = compressed(Image.fromarray(PICTURE), "PNG", "png")
    assert rgb_from_compressed(message, TOPIC, ImageOptions(max_pixels=15)).shape == PICTURE.shape
    with pytest.raises(ImageError, match=r"A frame of /camera/image .*is too large: 5 x 3"):
        rgb_from_compressed(message, TOPIC, ImageOptions(max_pixels=14))


def test_postscript_in_a_compressed_frame_is_not_opened() -> None:
    message = SimpleNamespace(
        format="jpeg", data=b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"
    )
    with pytest.raises(ImageError, match="is not an image in a format that is opened here"):
        rgb_from_compressed(message, TOPIC)
