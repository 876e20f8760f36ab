"""Which files are opened as pictures, how large they may be, and which a folder has."""

import io
import os
import re
import stat
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pytest
from PIL import Image, ImageFile, ImageOps, PngImagePlugin, features

from florence_edge import Florence2, RequestError, run_many
from florence_edge.errors import ImageError, ImageNotFoundError
from florence_edge.image import load_image
from florence_edge.image_file import (
    FORMATS,
    MAX_PIXELS,
    SUFFIXES,
    ImageOptions,
    pictures_in,
)

from ..helpers.assets import Asset
from ..helpers.pictures import PNG, assert_equal, chunk, encoded, noise

POSTSCRIPT = (
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n%%EndComments\n"
    b"1 0 0 setrgbcolor 0 0 100 100 rectfill showpage\n"
)


def png_of(width: int, height: int, *, bits: int = 8, colour: int = 0) -> bytes:
    """A PNG whose rows are all alike, so that a large one is small as a file."""
    row = b"\0" + b"\x11" * (width * bits // 8 * (3 if colour == 2 else 1))
    packer = zlib.compressobj(1)
    rows = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    head = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return PNG + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


# Formats, by content.


WRITTEN = {
    "JPEG": ".jpe", "PNG": ".png", "WEBP": ".webp", "BMP": ".bmp", "TIFF": ".TIFF", "GIF": ".gif",
    "AVIF": ".avif", "PPM": ".pgm", "JPEG2000": ".jp2",
}  # fmt: skip


@pytest.mark.parametrize("format", WRITTEN)
def test_every_format_is_read_whatever_the_file_is_called(tmp_path: Path, format: str) -> None:
    if format == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    photo = noise()
    content = encoded(photo, format)
    path = tmp_path / "picture.txt"
    path.write_bytes(content)
    with Image.open(io.BytesIO(content)) as expected:
        assert_equal(load_image(path), expected)
        assert_equal(load_image(content), expected)


def test_every_written_format_is_on_the_list_and_every_suffix_is_pillows() -> None:
    assert {*WRITTEN, "HEIF"} == set(FORMATS)
    registered = Image.registered_extensions()
    ours = {suffix: format for format, suffixes in FORMATS.items() for suffix in suffixes}
    for suffix, format in ours.items():
        assert registered[suffix] in (format, "MPO")
    assert {s for s, format in registered.items() if format in ours.values()} == set(ours) - {
        ".mpo"
    }
    assert set(ours) == SUFFIXES


@pytest.fixture
def ghostscript(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program called gs on PATH; the file that it makes when it is started."""
    mark, program = tmp_path / "started", tmp_path / "bin" / "gs"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ntouch {mark}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    from PIL import EpsImagePlugin

    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)  # it looks once
    return mark


def test_postscript_that_is_called_a_picture_starts_no_program(
    ghostscript: Path, tmp_path: Path
) -> None:
    path = tmp_path / "x.jpg"
    path.write_bytes(POSTSCRIPT)
    with Image.open(path) as image, pytest.raises(OSError):
        image.load()
    assert ghostscript.exists()  # so it is what Pillow would start
    ghostscript.unlink()
    for source in (path, str(path), POSTSCRIPT):
        with pytest.raises(ImageError, match="is not an image in a format that is opened here"):
            load_image(source)
    with Image.open(path) as image, pytest.raises(ImageError, match="is EPS, not yet decoded"):
        load_image(image)
    assert not ghostscript.exists()


def test_the_case_of_the_trial_is_refused(asset: Asset) -> None:
    with pytest.raises(ImageError, match=r"ps\.jpg is not an image in a format"):
        load_image(asset("cases") / "ps.jpg")


@pytest.mark.parametrize("format", ["PCX", "TGA", "SGI", "ICO", "DDS"])
def test_formats_that_are_not_on_the_list_are_refused(format: str) -> None:
    with pytest.raises(ImageError, match="is not an image in a format that is opened here"):
        load_image(encoded(noise(), format))


def test_a_picture_of_pillows_that_is_decoded_already_may_have_had_any_format() -> None:
    with Image.open(io.BytesIO(encoded(noise(), "TGA"))) as image:
        with pytest.raises(ImageError, match=r"the PIL image is TGA.*image\.load\(\)"):
            load_image(image)
        image.load()
        assert_equal(load_image(image), noise())


@pytest.mark.parametrize("format", ["WEBP", "AVIF"])
def test_a_library_that_pillow_lacks_is_named(monkeypatch: pytest.MonkeyPatch, format: str) -> None:
    content = encoded(noise(), format) if features.check(format.lower()) else b""
    if not content:
        pytest.skip(f"this Pillow has no {format}")
    Image.init()
    lacking = (Image.OPEN[format][0], lambda head: f"{format} support not installed")
    monkeypatch.setitem(Image.OPEN, format, lacking)
    with pytest.raises(ImageError, match=rf"is {format}: .*not installed\. Update Pillow"):
        load_image(content)
    monkeypatch.delitem(Image.OPEN, format)
    expected = "is AVIF, which this Pillow" if format == "AVIF" else "is not an image in a format"
    with pytest.raises(ImageError, match=expected):
        load_image(content)


# What is not a file.


def test_a_pipe_as_a_picture_does_not_hang(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.jpg"
    os.mkfifo(pipe)
    with pytest.raises(ImageError, match=r"pipe\.jpg cannot be read: it is a named pipe"):
        load_image(pipe)


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/null", "/dev/tty"])
def test_a_device_as_a_picture_is_refused(device: str) -> None:
    with pytest.raises(ImageError, match=rf"{device} cannot be read: it is a device"):
        load_image(device)


def test_a_file_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "private.png"
    path.write_bytes(encoded(noise(), "PNG"))
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")
    with pytest.raises(ImageError, match=r"private\.png cannot be read: Permission denied"):
        load_image(path)


def test_a_broken_link_is_called_one(tmp_path: Path) -> None:
    link = tmp_path / "x.png"
    link.symlink_to(tmp_path / "gone.png")
    with pytest.raises(ImageNotFoundError, match=r"x\.png is a broken link: there is no .*gone"):
        load_image(link)


@pytest.mark.parametrize(("empty", "message"), [("", "path of the picture is empty"), (b"", "0 b")])
def test_an_empty_picture_is_refused(empty: str | bytes, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        load_image(empty)


# How large.


def test_a_picture_above_the_limit_is_refused_before_it_is_decoded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda *_: pytest.fail("it was decoded"))
    bomb = png_of(13_000, 13_080)
    with pytest.raises(ImageError, match="is too large: 13000 x 13080 are 170,040,000") as refusal:
        load_image(bomb)
    assert "at most 110,000,000 are read" in str(refusal.value)
    assert "max_pixels=170040000" in str(refusal.value)
    assert "damaged" not in str(refusal.value)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    with Image.open(io.BytesIO(bomb)) as image, pytest.raises(ImageError, match="is too large"):
        load_image(image)


@pytest.mark.parametrize("format", WRITTEN)
def test_the_limit_holds_for_every_format_to_the_pixel(format: str) -> None:
    if format == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    content = encoded(noise(40, 30), format)
    assert load_image(content, ImageOptions(max_pixels=1200)).size == (40, 30)
    with pytest.raises(ImageError, match="is too large: 40 x 30 are 1,200 pixels"):
        load_image(content, ImageOptions(max_pixels=1199))


def test_more_can_be_allowed_than_pillow_itself_would_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert load_image(encoded(noise(), "PNG")).size == (40, 30)
    assert load_image(encoded(noise(), "JPEG")).size == (40, 30)
    assert Image.MAX_IMAGE_PIXELS == 100
    if int(PIL.__version__.partition(".")[0]) >= 12:  # WebP's decoder has the limit within
        with pytest.raises(ImageError, match=r"is too large for Pillow: .*Shrink it, or"):
            load_image(encoded(noise(), "WEBP"))


def test_pictures_in_memory_already_have_no_limit() -> None:
    options = ImageOptions(max_pixels=1)
    assert load_image(noise(), options).size == (40, 30)
    assert load_image(np.asarray(noise()), options).size == (40, 30)


@pytest.mark.parametrize("wrong", [0, -1, True, 1.5, "9"])
def test_a_limit_that_is_none_is_refused(wrong: Any) -> None:
    with pytest.raises(RequestError, match=r"max_pixels is .*whole number of 1 or more"):
        ImageOptions(max_pixels=wrong)


def test_a_range_that_does_not_exist_is_refused() -> None:
    wrong: Any = "half"
    with pytest.raises(RequestError, match="deep_range is 'half'; it must be 'full'"):
        ImageOptions(deep_range=wrong)


def test_a_phone_of_108_megapixels_is_within_the_default() -> None:
    assert 12_000 * 9_000 <= MAX_PIXELS < 120_000_000


_MEASURE = """
import pathlib, re, sys
from florence_edge.image import load_image
def peak():  # of this process; ru_maxrss begins with that of the one that started it
    status = pathlib.Path("/proc/self/status").read_text()
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+) kB", status)[1])
before = peak()
image = load_image(sys.argv[1])
print((peak() - before) / (image.width * image.height))
"""


@pytest.mark.parametrize(
    ("bits", "colour", "most"), [(16, 0, 8.5), (8, 2, 6.0), (8, 0, 6.5)], ids=["16", "rgb", "grey"]
)
def test_memory_is_in_proportion_to_the_picture(
    tmp_path: Path, bits: int, colour: int, most: float
) -> None:
    """Bytes a pixel at the most; RGB of Pillow's has four, and more than two copies never exist."""
    path = tmp_path / "large.png"
    path.write_bytes(png_of(4000, 4000, bits=bits, colour=colour))
    command = [sys.executable, "-c", _MEASURE, str(path)]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    assert 0 < float(found.stdout) < most


def test_only_the_first_picture_of_several_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    first, others = noise(), [ImageOps.invert(noise()), noise()] * 4
    for format in ("GIF", "TIFF", "WEBP", "PNG", "AVIF"):
        if format == "AVIF" and not features.check("avif"):
            continue
        exact = {"lossless": True} if format == "WEBP" else {}
        several = encoded(first, format, save_all=True, append_images=others, **exact)
        with Image.open(io.BytesIO(several)) as expected:
            assert getattr(expected, "n_frames", 1) > 1
            expected.load()
            kind = type(expected)
            seek = kind.seek

            def first_alone(image: Any, frame: int, seek: Any = seek) -> None:
                assert frame == 0
                seek(image, frame)

            monkeypatch.setattr(kind, "seek", first_alone)
            assert_equal(load_image(several), expected)


# Too little memory.


@pytest.mark.parametrize(
    "failure", [MemoryError(), OSError("out of memory error when reading image file")]
)
def test_too_little_memory_is_called_that(
    monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    def load(*_: object) -> None:
        raise failure

    content = encoded(noise(), "PNG")
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", load)
    with pytest.raises(ImageError, match="There is not enough memory to decode the im") as refusal:
        load_image(content)
    assert "damaged" not in str(refusal.value)
    assert "max_pixels" in str(refusal.value)


def test_a_variant_that_pillow_does_not_know_is_not_called_damaged_alone() -> None:
    eight, twelve = struct.pack("<3H", 8, 8, 8), struct.pack("<3H", 12, 12, 12)
    content = encoded(noise(), "TIFF").replace(eight, twelve)
    with pytest.raises(ImageError, match=r"begins as TIFF does, but .*: unknown pixel mode\. It"):
        load_image(content)


def test_an_error_of_pillows_without_words_is_named_by_its_kind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def load(*_: object) -> None:
        raise EOFError

    content = encoded(noise(), "PNG")
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", load)
    with pytest.raises(ImageError, match="cannot be decoded: EOFError"):
        load_image(content)


# The model and its batches.


def test_the_limit_of_a_model_holds_wherever_it_reads(tiny_bundle: Path) -> None:
    content = encoded(noise(), "PNG")
    with Florence2.load(tiny_bundle, threads=1, max_pixels=1199) as model:
        with pytest.raises(ImageError, match="is too large"):
            model.encode(content)
        (answered,) = run_many(model, [content], "CAPTION")
        assert isinstance(answered.error, ImageError)
        assert "at most 1,199" in str(answered.error)
    with pytest.raises(RequestError, match="max_pixels is 0"):
        Florence2.load(tiny_bundle, max_pixels=0)


# Folders.


def test_pictures_are_found_by_all_names_in_any_case(tmp_path: Path) -> None:
    names = ["a.avif", "b.jp2", "c.pgm", "d.jfif", "e.JPE", "f.Png", "g.HEIC.jpg", "h.TIFF"]
    for name in [*names, "notes.txt", "x.heic", "README"]:
        (tmp_path / name).touch()
    (tmp_path / "broken.webp").symlink_to(tmp_path / "gone")
    (tmp_path / "loop.gif").symlink_to(tmp_path / "loop.gif")
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "z.bmp").touch()
    (tmp_path / "folder.jpg").mkdir()
    os.mkfifo(tmp_path / "pipe.jpg")
    found = pictures_in(tmp_path)
    expected = sorted([*names, "broken.webp", "loop.gif", "pipe.jpg"])
    assert [path.name for path in found.paths] == expected
    assert found.left_out() == ("3 files that are not pictures and 2 folders in it left out.")
    deeper = pictures_in(tmp_path, below=True)
    assert [path.name for path in deeper.paths] == sorted(
        [*expected, "z.bmp"],
        key=lambda name: str(tmp_path / ("below/" if name == "z.bmp" else "") / name),
    )
    assert deeper.left_out() == "3 files that are not pictures left out."


def test_nothing_left_out_is_not_mentioned(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    assert pictures_in(tmp_path).left_out() == ""
    (tmp_path / "b").touch()
    assert pictures_in(tmp_path).left_out() == "1 file that is not a picture left out."


def test_a_folder_that_cannot_be_read_is_an_error_and_one_below_is_counted(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=re.escape("gone")):
        pictures_in(tmp_path / "gone")
    (tmp_path / "a.png").touch()
    closed = tmp_path / "closed"
    closed.mkdir()
    closed.chmod(0)
    try:
        if os.access(closed, os.R_OK):
            pytest.skip("this user may read everything")
        assert pictures_in(tmp_path, below=True).folders == 1
    finally:
        closed.chmod(stat.S_IRWXU)
