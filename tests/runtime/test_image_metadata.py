"""Texts, profiles and EXIF of pictures, however long or broken they are."""

import io
import struct
import sys
import threading
import warnings
import zlib
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, PngImagePlugin

from florence_edge.errors import ImageError
from florence_edge.image import load_image
from florence_edge.image_file import (
    quiet_pillow,
)

from ..helpers.assets import Asset
from ..helpers.pictures import ORIENTATION, assert_equal, chunk, encoded, noise


def test_a_png_with_megabytes_of_text_is_read(asset: Asset) -> None:
    assert load_image(asset("cases") / "bigtext.png").size == (256, 256)


def png_with(photo: Image.Image, info: PngImagePlugin.PngInfo, **options: Any) -> bytes:
    return encoded(photo, "PNG", pnginfo=info, **options)


def test_texts_and_profiles_of_any_length_do_not_keep_a_png_from_being_read(tmp_path: Path) -> None:
    photo, words = noise(), "word " * 700_000
    compressed, plain, many = (PngImagePlugin.PngInfo() for _ in range(3))
    compressed.add_text("Comment", words, zip=True)
    plain.add_itxt("Comment", words, zip=True)
    for index in range(70):
        many.add_text(f"Comment{index}", "a" * 1_000_000, zip=True)
    contents = [png_with(photo, info) for info in (compressed, plain, many)]
    contents.append(encoded(photo, "PNG", icc_profile=bytes(2_000_000)))
    behind = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(words.encode()))
    whole = encoded(photo, "PNG")
    contents.append(whole[:-12] + behind + whole[-12:])
    limits = PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY
    for content in contents:
        with (
            pytest.raises(ValueError, match=r"[Dd]ata [Tt]oo [Ll]arge|Too much"),
            Image.open(io.BytesIO(content)) as image,
        ):
            image.load()
        assert_equal(load_image(content), photo)
        path = tmp_path / "texts.png"
        path.write_bytes(content)
        assert_equal(load_image(path), photo)
    assert limits == (PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY)


@pytest.mark.parametrize("kept", ["exif chunk", "xmp", "raw profile"])
def test_a_png_with_too_much_text_is_turned_as_it_says(kept: str) -> None:
    photo, info, options = noise(), PngImagePlugin.PngInfo(), {}
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    if kept == "exif chunk":
        options["exif"] = exif
    elif kept == "xmp":
        xmp = '<x:xmpmeta xmlns:tiff="t"><a tiff:Orientation="6"/></x:xmpmeta>'
        info.add_itxt("XML:com.adobe.xmp", xmp)
    else:
        raw = exif.tobytes()
        profile = f"\nexif\n{len(raw):8d}\n{raw.hex()}\n"
        info.add_text("Raw profile type exif", profile, zip=True)
    small = png_with(photo, info, **options)
    info.add_text("Comment", "word " * 700_000, zip=True)
    large = png_with(photo, info, **options)
    assert load_image(small).size == (30, 40)
    assert_equal(load_image(large), load_image(small))


def test_a_bomb_in_the_metadata_that_is_kept_is_left_out_as_well() -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("Raw profile type exif", "0" * 20_000_000, zip=True)
    info.add_itxt("XML:com.adobe.xmp", "0" * 20_000_000, zip=True)
    assert_equal(load_image(png_with(noise(), info)), noise())


def test_a_damaged_png_with_too_much_text_is_damaged() -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", "word " * 700_000, zip=True)
    whole = png_with(noise(), info)
    with pytest.raises(ImageError, match="cannot be decoded"):
        load_image(whole[:-500])


def with_odd_exif(photo: Image.Image) -> bytes:
    """A JPEG whose EXIF claims more bytes than it has."""
    entry = struct.pack("<HHII", 0x010E, 2, 100_000, 1_000)
    exif = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", 1) + entry + b"\0\0\0\0"
    return encoded(photo, "JPEG", exif=exif)


def test_warnings_of_pillow_are_not_passed_on(capfd: pytest.CaptureFixture[str]) -> None:
    content = with_odd_exif(noise())
    with (
        pytest.warns(UserWarning, match="[Tt]ag|Truncated"),
        Image.open(io.BytesIO(content)) as image,
    ):
        image.getexif()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert load_image(content).size == (40, 30)
        with quiet_pillow(), Image.open(io.BytesIO(content)) as image:
            assert load_image(image).size == (40, 30)
    assert capfd.readouterr().err == ""


def test_other_warnings_come_while_pictures_are_read_and_all_come_afterwards() -> None:
    before = list(warnings.filters)
    inside, leave = threading.Barrier(2), threading.Event()

    def read() -> None:
        with quiet_pillow():
            inside.wait(10)
            leave.wait(10)

    thread = threading.Thread(target=read)
    thread.start()
    with quiet_pillow():  # enters second or first, and leaves before the other
        inside.wait(10)
        with pytest.warns(UserWarning, match="of somebody else"):
            warnings.warn("of somebody else", UserWarning, stacklevel=1)
    assert list(warnings.filters) != before or getattr(sys.flags, "context_aware_warnings", False)
    leave.set()
    thread.join()
    assert list(warnings.filters) == before
