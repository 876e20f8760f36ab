"""YUV of cameras, packed and planar, becomes the colours of the standard, as in OpenCV."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from florence_edge.errors import ImageError
from florence_edge_jetson.robots.ros.images import RgbImage, rgb_from_image

from .ros_frames import COLOURS, TOPIC, YUV, assert_close, frame, scene


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
    with pytest.raises(ImageError, match="is 3 x 1 pixels, but uyvy has one colour for 2 x 1"):
        rgb_from_image(frame("uyvy", np.zeros((1, 3, 2), np.uint8)), TOPIC)


# Equal to OpenCV.


OPENCV_YUV = {
    "yuv422": "COLOR_YUV2RGB_UYVY",
    "uyvy": "COLOR_YUV2RGB_UYVY",
    "yuv422_yuy2": "COLOR_YUV2RGB_YUYV",
    "yuyv": "COLOR_YUV2RGB_YUYV",
    "nv12": "COLOR_YUV2RGB_NV12",
    "nv21": "COLOR_YUV2RGB_NV21",
}


@pytest.mark.parametrize("padding", [0, 10])
@pytest.mark.parametrize("encoding", YUV)
def test_packed_yuv_is_what_opencv_makes_of_it(cv2: Any, encoding: str, padding: int) -> None:
    values = scene(48, 64)[:, :, :2]
    expected = cv2.cvtColor(values, getattr(cv2, OPENCV_YUV[encoding]))
    assert_close(rgb_from_image(frame(encoding, values, padding=padding), TOPIC), expected)


def planar(encoding: str, planes: RgbImage, height: int, *, padding: int = 0) -> Any:
    """A message of rows of luma and, below, of chroma, all of them padded."""
    message = frame(encoding, planes[:, :, None], padding=padding)
    message.height = height
    return message


@pytest.mark.parametrize("padding", [0, 10])
@pytest.mark.parametrize("encoding", ["nv12", "nv21"])
@pytest.mark.parametrize(("height", "width"), [(48, 64), (2, 2), (6, 10)])
def test_nv12_is_what_opencv_makes_of_it(
    cv2: Any, encoding: str, padding: int, height: int, width: int
) -> None:
    planes = scene(height * 3 // 2, width)[:, :, 0]
    expected = cv2.cvtColor(planes, getattr(cv2, OPENCV_YUV[encoding]))
    message = planar(encoding, planes, height, padding=padding)
    assert_close(rgb_from_image(message, TOPIC), expected)
    if padding:
        message.data = message.data[:-padding]  # of the last row
        assert_close(rgb_from_image(message, TOPIC), expected)


def test_every_value_of_nv12_is_what_opencv_makes_of_it(cv2: Any) -> None:
    for luma in (0, 15, 16, 17, 128, 235, 236, 255):
        chroma = np.stack(np.meshgrid(np.arange(256), np.arange(256)), axis=2).astype(np.uint8)
        planes = np.concatenate([np.full((512, 512), luma, np.uint8), chroma.reshape(256, 512)])
        expected = cv2.cvtColor(planes, cv2.COLOR_YUV2RGB_NV12)
        assert_close(rgb_from_image(planar("nv12", planes, 512), TOPIC), expected)


def test_nv12_whose_step_counts_all_planes_is_read_as_tight_rows(cv2: Any) -> None:
    planes = scene(72, 64)[:, :, 0]
    message = planar("nv12", planes, 48)
    expected = rgb_from_image(message, TOPIC)
    message.step = 96
    np.testing.assert_array_equal(rgb_from_image(message, TOPIC), expected)


@pytest.mark.parametrize("padding", [0, 10])
def test_nv24_has_a_colour_for_every_pixel(padding: int) -> None:
    light = np.array([[yuv[0] for yuv in COLOURS]] * 2, dtype=np.uint8)
    pairs = np.array([[pair for yuv in COLOURS for pair in yuv[1:]]] * 2, dtype=np.uint8)
    rows = [np.pad(light, ((0, 0), (0, padding))), np.pad(pairs, ((0, 0), (0, 2 * padding)))]
    message = SimpleNamespace(
        height=2, width=6, encoding="nv24", is_bigendian=0, step=6 + padding,
        data=b"".join(each.tobytes() for each in rows),
    )  # fmt: skip
    rgb = rgb_from_image(message, TOPIC)
    assert np.abs(rgb.astype(int) - [list(COLOURS.values())] * 2).max() <= 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 63}, "is 63 x 48 pixels, but nv12 has one colour for 2 x 2 of them"),
        ({"height": 47}, "is 64 x 47 pixels, but nv12 has one colour for 2 x 2 of them"),
        ({"step": 63}, r"a row has 63 bytes \(step\), but 64 pixels of nv12 take 64"),
        ({"data": b"x" * 4607}, "has 4607 bytes, but 64 x 48 pixels of nv12 take 4608"),
        ({"step": 200}, "has 4608 bytes, but 64 x 48 pixels of nv12 take 14264"),
        ({"height": 0}, "has no pixels"),
        ({"height": 1, "data": b"x" * 96}, "is 64 x 1 pixels, but nv12"),
    ],
)
def test_an_nv12_frame_that_contradicts_itself_is_refused(
    changes: dict[str, Any], message: str
) -> None:
    whole = planar("nv12", scene(72, 64)[:, :, 0], 48)
    with pytest.raises(ImageError, match=message):
        rgb_from_image(SimpleNamespace(**{**vars(whole), **changes}), TOPIC)
