import io
from array import array
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from florence_edge.errors import ImageError, RequestError
from florence_edge.image import load_image
from florence_edge_jetson.robots.ros.images import (
    ENCODINGS,
    READERS,
    RgbImage,
    rgb_from_compressed,
    rgb_from_image,
)

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
}
SIXTEEN_BITS = {
    "rgb16": (deep(PICTURE), PICTURE),
    "bgr16": (deep(PICTURE[:, :, ::-1]), PICTURE),
    "rgba16": (deep(np.concatenate([PICTURE, ALPHA], axis=2)), PICTURE),
    "bgra16": (deep(np.concatenate([PICTURE[:, :, ::-1], ALPHA], axis=2)), PICTURE),
    "mono16": (deep(GREY[:, :, :1]), GREY),
    "16UC1": (deep(GREY[:, :, :1]), GREY),
}
ALL = {**EIGHT_BITS, **SIXTEEN_BITS}
YUV = ("yuv422", "uyvy", "yuv422_yuy2", "yuyv")
# White, black, and BT.601's red, green, blue and a grey, as (light, blue, red).
COLOURS = {
    (235, 128, 128): (255, 255, 255),
    (16, 128, 128): (0, 0, 0),
    (81, 90, 240): (254, 0, 0),
    (145, 54, 34): (0, 255, 1),
    (41, 240, 110): (0, 0, 255),
    (126, 128, 128): (128, 128, 128),
}


def test_every_encoding_is_tried_here() -> None:
    assert {*ALL, *YUV} == set(ENCODINGS)


def packed(encoding: str, pixels: list[tuple[int, int, int]]) -> Any:
    """One row; each colour is that of its pair's first pixel."""
    octets = []
    for (first, blue, red), (second, _, _) in zip(pixels[::2], pixels[1::2], strict=True):
        four = [blue, first, red, second]
        octets += four if encoding in ("yuv422", "uyvy") else [first, blue, second, red]
    return np.array(octets, dtype=np.uint8).reshape(1, len(pixels), 2)


@pytest.mark.parametrize("encoding", YUV)
@pytest.mark.parametrize("padding", [0, 6])
def test_yuv_becomes_the_colours_of_the_standard(encoding: str, padding: int) -> None:
    pixels = [yuv for yuv in COLOURS for _ in range(2)]
    rows = np.concatenate([packed(encoding, pixels)] * 2)
    rgb = rgb_from_image(frame(encoding, rows, padding=padding), TOPIC)
    assert rgb.shape == (2, 12, 3)
    wanted = [rgb for rgb in COLOURS.values() for _ in range(2)]
    assert np.abs(rgb.astype(int) - wanted).max() <= 1


@pytest.mark.parametrize("encoding", YUV)
def test_two_pixels_of_yuv_have_lights_of_their_own(encoding: str) -> None:
    rgb = rgb_from_image(frame(encoding, packed(encoding, [(16, 128, 128), (235, 0, 0)])), TOPIC)
    assert rgb[0].tolist() == [[0, 0, 0], [255, 255, 255]]


def test_an_odd_width_of_yuv_is_refused() -> None:
    with pytest.raises(ImageError, match="is 3 pixels wide, but uyvy has pixels in pairs"):
        rgb_from_image(frame("uyvy", np.zeros((1, 3, 2), np.uint8)), TOPIC)


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
        rgb_from_image(frame("bayer_rggb8", PICTURE), TOPIC)
    assert not isinstance(refusal.value, ImageError)
    assert "/camera/image carries the encoding 'bayer_rggb8', which is not known here" in str(
        refusal.value
    )
    assert "Known: rgb8, bgr8, rgba8," in str(refusal.value)
    assert "image_proc" in str(refusal.value)


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


# Compressed frames.


def compressed(image: Image.Image, kind: str, words: str) -> Any:
    file = io.BytesIO()
    image.save(file, kind)
    return SimpleNamespace(format=words, data=array("B", file.getvalue()))


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


def test_there_is_a_reader_for_each_type_of_image_message() -> None:
    assert set(READERS) == {"sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"}
