"""Uncompressed frames of ROS: every encoding, rows with padding, 16 bits, depth."""

import io
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from florence_edge.errors import ImageError, RequestError
from florence_edge.image import load_image
from florence_edge.image_file import ImageOptions
from florence_edge_jetson.robots.ros.images import ENCODINGS, READERS, RgbImage, rgb_from_image

from .ros_frames import ALPHA, BAYER, GREY, PICTURE, PLANAR, TOPIC, YUV, frame


def deep(values: RgbImage) -> Any:
    """The same picture in 16 bits."""
    return values.astype(np.uint16) * 257


EIGHT_BITS = {
    "rgb8": (PICTURE, PICTURE),
    "bgr8": (PICTURE[:, :, ::-1], PICTURE),
    "rgba8": (np.concatenate([PICTURE, ALPHA], axis=2), PICTURE),
    "bgra8": (np.concatenate([PICTURE[:, :, ::-1], ALPHA], axis=2), PICTURE),
    "mono8": (GREY[:, :, :1], GREY),
    "8UC1": (GREY[:, :, :1], GREY),
    "8UC3": (PICTURE[:, :, ::-1], PICTURE),
    "8UC4": (np.concatenate([PICTURE[:, :, ::-1], ALPHA], axis=2), PICTURE),
}
SIXTEEN_BITS = {
    "rgb16": (deep(PICTURE), PICTURE),
    "bgr16": (deep(PICTURE[:, :, ::-1]), PICTURE),
    "rgba16": (deep(np.concatenate([PICTURE, ALPHA], axis=2)), PICTURE),
    "bgra16": (deep(np.concatenate([PICTURE[:, :, ::-1], ALPHA], axis=2)), PICTURE),
    "mono16": (deep(GREY[:, :, :1]), GREY),
    "16UC3": (deep(PICTURE[:, :, ::-1]), PICTURE),
    "16UC4": (deep(np.concatenate([PICTURE[:, :, ::-1], ALPHA], axis=2)), PICTURE),
}
ALL = {**EIGHT_BITS, **SIXTEEN_BITS}


def test_every_encoding_is_tried_here() -> None:
    assert {*ALL, *YUV, *PLANAR, *BAYER, "16UC1"} == set(ENCODINGS)


@pytest.mark.parametrize("encoding", ALL)
@pytest.mark.parametrize("padding", [0, 7])
def test_every_encoding_becomes_rgb_with_and_without_padding(encoding: str, padding: int) -> None:
    values, expected = ALL[encoding]
    rgb = rgb_from_image(frame(encoding, values, padding=padding), TOPIC)
    assert rgb.dtype == np.uint8
    np.testing.assert_array_equal(rgb, expected)


@pytest.mark.parametrize("encoding", SIXTEEN_BITS)
def test_the_order_of_bytes_is_respected(encoding: str) -> None:
    values, expected = SIXTEEN_BITS[encoding]
    values = values - np.minimum(values, 1)  # the two bytes of a value differ
    low = np.array(values // 257, dtype=np.uint8)
    rgb = rgb_from_image(frame(encoding, values, bigendian=True, padding=3), TOPIC)
    np.testing.assert_array_equal(rgb, rgb_from_image(frame(encoding, values), TOPIC))
    assert set(np.unique(rgb)) <= set(np.unique(low))
    assert np.abs(rgb.astype(int) - expected).max() == 1


def test_sixteen_bits_are_scaled_as_those_of_a_file_are() -> None:
    values = np.array([[[0], [256], [257], [40_000], [65_535]]], dtype=np.uint16)
    rgb = rgb_from_image(frame("mono16", values), TOPIC)
    assert rgb[0, :, 0].tolist() == [0, 0, 1, 155, 255]
    file = io.BytesIO()
    Image.fromarray(values[:, :, 0]).save(file, "PNG")
    np.testing.assert_array_equal(rgb, np.asarray(load_image(file.getvalue())))


def test_the_last_row_may_lack_its_padding() -> None:
    message = frame("rgb8", PICTURE, padding=7)
    message.data = message.data[:-7]
    np.testing.assert_array_equal(rgb_from_image(message, TOPIC), PICTURE)


def test_bytes_and_numpy_arrays_are_read_as_well() -> None:
    message = frame("rgb8", PICTURE)
    for data in (bytes(message.data), np.array(message.data, dtype=np.uint8)):
        message.data = data
        np.testing.assert_array_equal(rgb_from_image(message, TOPIC), PICTURE)


def test_the_frame_may_be_thrown_away() -> None:
    message = frame("rgb8", PICTURE)
    rgb = rgb_from_image(message, TOPIC)
    message.data[0] ^= 255
    np.testing.assert_array_equal(rgb, PICTURE)


def test_an_unknown_encoding_is_named_with_those_that_are_known() -> None:
    with pytest.raises(RequestError) as refusal:
        rgb_from_image(frame("32FC1", PICTURE), TOPIC)
    assert not isinstance(refusal.value, ImageError)
    assert "/camera/image carries the encoding '32FC1', which is not known here" in str(
        refusal.value
    )
    assert "Known: rgb8, bgr8, rgba8," in str(refusal.value)
    assert "nv12" in str(refusal.value)
    assert "bayer_rggb8" in str(refusal.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"height": 0}, "has no pixels: its size is 5 x 0"),
        ({"width": 0}, "has no pixels: its size is 0 x 3"),
        ({"step": 14}, "a row has 14 bytes (step), but 5 pixels of rgb8 take 15"),
        ({"step": 0}, "a row has 0 bytes"),
        ({"data": b"x" * 44}, "has 44 bytes, but 5 x 3 pixels of rgb8 take 45: it was cut short"),
        ({"height": 2**32 - 1}, "was cut short"),
    ],
)
def test_a_frame_that_contradicts_itself_is_refused(changes: dict[str, Any], message: str) -> None:
    broken = SimpleNamespace(**{**vars(frame("rgb8", PICTURE)), **changes})
    with pytest.raises(ImageError, match=r"A frame of /camera/image") as refusal:
        rgb_from_image(broken, TOPIC)
    assert message in str(refusal.value)


def test_twelve_bits_of_a_camera_are_scaled_by_their_own_range_on_request() -> None:
    values = np.array([[[95], [1095], [4095]]], dtype=np.uint16)
    own = rgb_from_image(frame("mono16", values), TOPIC, ImageOptions(deep_range="own"))
    assert own[0, :, 0].tolist() == [0, 63, 255]
    message = frame("mono16", values, bigendian=True)
    np.testing.assert_array_equal(
        rgb_from_image(message, TOPIC, ImageOptions(deep_range="own")), own
    )


def test_depth_in_millimetres_is_read_only_where_its_shades_are_wanted() -> None:
    millimetres = np.array([[[0], [2000]], [[1000], [4000]]], np.uint16)
    message = frame("16UC1", millimetres)
    with pytest.raises(RequestError, match="depth in millimetres"):
        rgb_from_image(message, TOPIC)
    grey = rgb_from_image(message, TOPIC, ImageOptions(deep_range="own"))[:, :, 0]
    assert np.abs(grey.astype(int) - [[0, 128], [64, 255]]).max() <= 1


def test_there_is_a_reader_for_each_type_of_image_message() -> None:
    assert set(READERS) == {"sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"}
