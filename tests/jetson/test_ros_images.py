import io
import sys
from array import array
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from florence_edge.errors import ImageError, MissingPackageError, RequestError
from florence_edge.image import load_image
from florence_edge.image_file import ImageOptions
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


def test_every_encoding_is_tried_here() -> None:
    assert {*ALL, *YUV, *PLANAR, *BAYER, "16UC1"} == set(ENCODINGS)


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


# Equal to OpenCV.


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


@pytest.fixture(scope="module")
def cv2() -> Any:
    return pytest.importorskip("cv2", reason="install florence-edge[bayer]")


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


# Which colour the first two pixels of the first two rows have; cv_bridge names the codes so.
FIRST_ROWS = {"rggb": "RGGB", "bggr": "BGGR", "gbrg": "GBRG", "grbg": "GRBG"}
OPENCV_BAYER = {"rggb": "BG", "bggr": "RG", "gbrg": "GR", "grbg": "GB"}


def mosaic(picture: Any, pattern: str) -> Any:
    """What a sensor behind a Bayer filter sees of a picture."""
    height, width, _ = picture.shape
    seen = np.empty((height, width), dtype=picture.dtype)
    for place, colour in enumerate(FIRST_ROWS[pattern]):
        row, column = divmod(place, 2)
        seen[row::2, column::2] = picture[row::2, column::2, "RGB".index(colour)]
    return seen


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


def test_twelve_bits_of_a_camera_are_scaled_by_their_own_range_on_request() -> None:
    values = np.array([[[95], [1095], [4095]]], dtype=np.uint16)
    own = rgb_from_image(frame("mono16", values), TOPIC, ImageOptions(deep_range="own"))
    assert own[0, :, 0].tolist() == [0, 63, 255]
    message = frame("mono16", values, bigendian=True)
    np.testing.assert_array_equal(
        rgb_from_image(message, TOPIC, ImageOptions(deep_range="own")), own
    )


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


def test_depth_in_millimetres_is_read_only_where_its_shades_are_wanted() -> None:
    millimetres = np.array([[[0], [2000]], [[1000], [4000]]], np.uint16)
    message = frame("16UC1", millimetres)
    with pytest.raises(RequestError, match="depth in millimetres"):
        rgb_from_image(message, TOPIC)
    grey = rgb_from_image(message, TOPIC, ImageOptions(deep_range="own"))[:, :, 0]
    assert np.abs(grey.astype(int) - [[0, 128], [64, 255]]).max() <= 1


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


def test_there_is_a_reader_for_each_type_of_image_message() -> None:
    assert set(READERS) == {"sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"}


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
