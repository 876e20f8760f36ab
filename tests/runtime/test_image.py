import io
import random
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from florence_edge import ImageError
from florence_edge.image import load_image, pixels

from ..helpers.assets import Asset

SIDE = 768
ORIENTATION = 0x0112  # EXIF


def encoded(image: Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def array(image: Image.Image) -> np.ndarray:
    return np.asarray(image)


@pytest.fixture
def photo() -> Image.Image:
    """Colours that differ everywhere, so that no turn, mirror or swap goes unseen."""
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    return noise.resize((40, 30), Image.Resampling.BICUBIC)


# Equal to transformers.

Processor = Callable[..., np.ndarray]


@pytest.fixture(scope="module")
def processor() -> Processor:
    pytest.importorskip("transformers")
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    size = {"height": SIDE, "width": SIDE}
    clip = CLIPImageProcessorPil(
        size=size,
        crop_size=size,
        do_center_crop=False,
        resample=3,
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
    )

    def process(image: Image.Image | np.ndarray, **switches: bool) -> np.ndarray:
        return np.asarray(clip(image, return_tensors="np", **switches)["pixel_values"][0])

    return process


@pytest.fixture(scope="module")
def load_as_transformers() -> Callable[[str], Image.Image]:
    image_utils = pytest.importorskip("transformers.image_utils")
    load: Callable[[str], Image.Image] = image_utils.load_image
    return load


def assert_as_transformers(processor: Processor, theirs: Image.Image, ours: Image.Image) -> None:
    square = pixels(ours, SIDE)
    raw = processor(theirs, do_rescale=False, do_normalize=False)
    np.testing.assert_array_equal(square, raw.transpose(1, 2, 0))
    np.testing.assert_array_equal(processor(square, do_resize=False), processor(theirs))


@pytest.mark.parametrize("name", ["astronaut", "chelsea", "coffee", "rocket", "camera", "text"])
def test_pixels_are_those_of_transformers(name: str, processor: Processor) -> None:
    data = pytest.importorskip("skimage.data")
    photo = Image.fromarray(getattr(data, name)()).convert("RGB")
    assert_as_transformers(processor, photo, load_image(photo))


def test_pixels_of_photographs_on_disk_are_those_of_transformers(
    asset: Asset, processor: Processor, load_as_transformers: Callable[[str], Image.Image]
) -> None:
    paths = [path for path in asset("photos").glob("*/*") if path.suffix in (".jpg", ".png")]
    assert len(paths) == 46
    for path in paths:
        theirs, ours = load_as_transformers(str(path)), load_image(path)
        np.testing.assert_array_equal(array(ours), array(theirs))
        raw = processor(theirs, do_rescale=False, do_normalize=False)
        np.testing.assert_array_equal(pixels(ours, SIDE), raw.transpose(1, 2, 0))


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "LA", "PA", "CMYK", "YCbCr", "HSV"])
def test_other_modes_are_loaded_as_transformers_loads_them(
    photo: Image.Image, mode: str, load_as_transformers: Callable[[str], Image.Image]
) -> None:
    image = photo.convert("L").convert(mode) if mode in ("LA", "PA") else photo.convert(mode)
    if "A" in mode:
        image.putalpha(128)
    expected = array(load_as_transformers(image))  # type: ignore[arg-type]
    np.testing.assert_array_equal(array(load_image(image)), expected)


# Every kind of source and of picture.


def test_path_bytes_picture_and_array_give_the_same(photo: Image.Image, tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    photo.save(path)
    for source in (path, str(path), path.read_bytes(), photo, array(photo)):
        loaded = load_image(source)
        assert loaded.mode == "RGB"
        np.testing.assert_array_equal(array(loaded), array(photo))


def test_arrays_need_not_be_contiguous(photo: Image.Image) -> None:
    mirrored = array(photo)[:, ::-1]
    np.testing.assert_array_equal(array(load_image(mirrored)), mirrored)


def test_what_was_passed_in_stays_as_it_was(photo: Image.Image) -> None:
    before = array(photo).copy()
    loaded = load_image(photo)
    loaded.putpixel((0, 0), (1, 2, 3))
    np.testing.assert_array_equal(array(photo), before)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_upright(photo: Image.Image, orientation: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    turned = encoded(photo, "PNG", exif=exif)
    upright = load_image(turned)
    assert upright.size == ((40, 30) if orientation < 5 else (30, 40))
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(turned)))
    np.testing.assert_array_equal(array(upright), array(expected))


def test_sixteen_bit_grey_is_scaled_to_eight(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 256).round().astype(np.uint16).reshape(16, 16)
    loaded = array(load_image(encoded(Image.fromarray(ramp), "PNG")))
    np.testing.assert_array_equal(loaded[..., 0].ravel(), np.arange(256))
    assert (loaded == loaded[..., :1]).all()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 10.5, 255.0], [0, 10, 255]),
        ([0.0, 32896.0, 65535.0], [0, 128, 255]),
        ([-5.0, np.nan, 200.0], [0, 0, 200]),
    ],
)
def test_grey_of_floats_is_taken_as_it_is_or_scaled_from_sixteen_bits(
    values: list[float], expected: list[int]
) -> None:
    image = Image.fromarray(np.array([values], dtype=np.float32))
    assert array(load_image(image))[0, :, 0].tolist() == expected


def test_an_animation_is_its_first_frame(photo: Image.Image) -> None:
    frames = encoded(photo, "GIF", save_all=True, append_images=[ImageOps.invert(photo)])
    still = encoded(photo, "GIF")
    np.testing.assert_array_equal(array(load_image(frames)), array(load_image(still)))


def test_a_palette_with_transparency_needs_no_warning(photo: Image.Image) -> None:
    see_through = encoded(photo.convert("P"), "PNG", transparency=bytes(range(256)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = load_image(see_through)
    np.testing.assert_array_equal(array(loaded), array(photo.convert("P").convert("RGB")))


def test_one_pixel_is_enough() -> None:
    assert pixels(load_image(Image.new("RGB", (1, 1), (1, 2, 3))), 64).shape == (64, 64, 3)


def test_pixels_are_a_square_of_bytes(photo: Image.Image) -> None:
    square = pixels(photo, 64)
    assert square.shape == (64, 64, 3)
    assert square.dtype == np.uint8


# What is no picture.


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"There is no file .*nothing\.jpg"):
        load_image(tmp_path / "nothing.jpg")


def test_a_folder_is_no_picture(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="is a folder, expected an image file"):
        load_image(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not an image in a format that is opened here"),
        (b"not an image", "is not an image in a format that is opened here: JPEG, PNG, "),
        (b"\x89PNG\r\n\x1a\n", "begins as PNG does, but its head cannot be read"),
    ],
)
def test_a_file_that_is_no_picture_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "letter.jpg"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=rf"letter\.jpg {message}"):
        load_image(path)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "TIFF", "BMP", "WEBP"])
def test_a_picture_cut_short_is_refused(photo: Image.Image, format: str) -> None:
    whole = encoded(photo.resize((200, 200)), format)
    with pytest.raises(ImageError, match=r"image of .* bytes (cannot be decoded|begins as)"):
        load_image(whole[: len(whole) // 2])


def test_a_picture_of_pillow_that_turns_out_cut_short_is_refused(photo: Image.Image) -> None:
    whole = encoded(photo.resize((200, 200)), "JPEG")
    opened = Image.open(io.BytesIO(whole[: len(whole) // 2]))  # reads no further than the head
    with pytest.raises(ImageError, match="the PIL image cannot be decoded"):
        load_image(opened)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "TIFF", "BMP", "WEBP", "PPM"])
def test_damage_anywhere_gives_a_picture_or_an_image_error(photo: Image.Image, format: str) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    whole = encoded(photo, format, **({"exif": exif} if format in ("JPEG", "PNG", "WEBP") else {}))
    chance = random.Random(0)
    refused = 0
    for _ in range(100):
        damaged = bytearray(whole)
        for _ in range(chance.choice([1, 2, 10])):
            damaged[chance.randrange(len(damaged) // chance.choice([1, 4]))] = chance.choice(
                [0, 1, 128, 255]
            )
        try:
            load_image(bytes(damaged))
        except ImageError:
            refused += 1
    assert refused > 0


@pytest.mark.parametrize("size", [(0, 5), (5, 0), (0, 0)])
def test_a_picture_without_pixels_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ImageError, match=f"has no pixels: its size is {size[0]}x{size[1]}"):
        load_image(Image.new("RGB", size))
    with pytest.raises(ImageError, match="has no pixels"):
        load_image(np.zeros((*size, 3), dtype=np.uint8))


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((4, 4), dtype=np.uint8),
        np.zeros((3, 4, 4), dtype=np.uint8),
        np.zeros((4, 4, 4), dtype=np.uint8),
        np.zeros((1, 4, 4, 3), dtype=np.uint8),
        np.zeros((4, 4, 3), dtype=np.float32),
        np.zeros((4, 4, 3), dtype=np.int64),
        np.zeros((4, 4, 3), dtype=object),
    ],
    ids=lambda wrong: f"{wrong.dtype}{list(wrong.shape)}",
)
def test_an_array_of_another_kind_is_refused_with_the_kind_expected(wrong: np.ndarray) -> None:
    message = r"expected as HxWx3 uint8 in RGB order .*color='bgr'.*, got .*Convert"
    with pytest.raises(ImageError, match=message):
        load_image(wrong)


@pytest.mark.parametrize("wrong", [None, 5, ["a.jpg"], object(), bytearray(b"")])
def test_anything_else_is_refused_with_what_is_expected(wrong: Any) -> None:
    with pytest.raises(ImageError, match=r"expected as a path, bytes, an open file, a PIL"):
        load_image(wrong)


def test_a_path_that_cannot_exist_is_refused() -> None:
    with pytest.raises(ImageError, match="cannot be read"):
        load_image("a\0b.jpg")
