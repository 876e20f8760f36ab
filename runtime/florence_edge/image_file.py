"""Pictures in files and in bytes: the formats that are opened, how large one may be, and folders.

A format is recognized by its content, whatever the file is called, and no other decoder of Pillow
than those of `FORMATS` ever sees a byte: some of them start programs (Ghostscript, for PostScript).
"""

import io
import logging
import os
import struct
import sys
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import BinaryIO, Literal, cast, get_args

from PIL import Image, ImageFile, ImageOps

from .errors import (
    ImageError,
    ImageFormatError,
    ImageNotFoundError,
    ImageTooLargeError,
    RequestError,
)
from .files import open_plain

logger = logging.getLogger(__name__)

FORMATS: dict[str, tuple[str, ...]] = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "PNG": (".png", ".apng"),
    "WEBP": (".webp",),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
    "GIF": (".gif",),
    "AVIF": (".avif", ".avifs"),  # from Pillow 11.3 on
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
    "JPEG2000": (".jp2", ".j2k", ".jpc", ".jpf", ".jpx", ".j2c"),
    "HEIF": (),  # where the program registered pillow-heif's decoder
}
"""Pillow's names of the formats that are opened, and how such files are called in folders."""
_NAMES = "JPEG, PNG, WebP, BMP, TIFF, GIF, AVIF, PPM/PGM and JPEG 2000"
_ALSO_JPEG = "MPO"  # what Pillow calls a JPEG with more pictures behind the first

SUFFIXES = frozenset(suffix for suffixes in FORMATS.values() for suffix in suffixes)

MAX_PIXELS = 110_000_000
"""The largest picture that is decoded unless one asks for more; phones make 108 megapixels."""

DeepRange = Literal["full", "own"]
"""What becomes white where a channel has more than 8 bits: the format's largest value, or the
picture's own (and its smallest value black)."""

Color = Literal["rgb", "bgr"]
"""The order of an array's channels; OpenCV has blue first. Other pictures know theirs."""


_DARK = 16383  # the largest value of 14 bits
_told_of_darkness: list[str] = []  # of which picture; a folder may have thousands


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageOptions:
    """How pictures are read.

    Raises:
        RequestError: a limit below 1 or a range that does not exist.
    """

    max_pixels: int = MAX_PIXELS
    """Width times height; a larger picture is refused before it is decoded."""
    deep_range: DeepRange = "full"

    def __post_init__(self) -> None:
        if type(self.max_pixels) is not int or self.max_pixels < 1:
            raise RequestError(
                f"max_pixels is {self.max_pixels!r}; it must be a whole number of 1 or more: the "
                "width times the height of the largest picture that is read."
            )
        if self.deep_range not in get_args(DeepRange):
            raise RequestError(
                f"deep_range is {self.deep_range!r}; it must be 'full' (65535 of 16 bits is white) "
                "or 'own' (the picture's largest value is)."
            )


def check_color(color: str) -> None:
    """Refuse an order of channels that does not exist.

    Raises:
        RequestError: naming the two that do.
    """
    if color not in get_args(Color):
        raise RequestError(
            f"color is {color!r:.40}; it must be 'rgb', or 'bgr' for OpenCV's arrays."
        )


def decode(source: str | Path | bytes, name: str, options: ImageOptions) -> Image.Image:
    """The first picture of a file or of bytes, decoded and upright, in whatever mode it is stored.

    Raises:
        ImageError: it is not a picture of a known format, too large, damaged, or not even a file.
        MemoryError, OSError, ValueError, ...: what else Pillow says about a damaged one.
    """
    with _content(source, name) as file:
        try:
            return _decode(file, name, options)
        except ImageError:
            raise
        except ValueError:
            # Pillow takes 1 MB of one compressed text and 64 MB in all, 1 MB of a colour profile.
            if not _is_png(file):
                raise
        return _decode(_without_text(file), name, options)


def check_undecoded(image: Image.Image, name: str, options: ImageOptions) -> None:
    """Hold a picture of the caller's that Pillow has not decoded yet to the rules for files.

    Raises:
        ImageError: its format is not one that is opened here, or it is too large.
    """
    if not isinstance(image, ImageFile.ImageFile) or not image.tile:
        return
    if image.format not in (*FORMATS, _ALSO_JPEG):
        raise ImageFormatError(
            f"{name} is {image.format}, not yet decoded; opened are {_NAMES}. If you trust it, "
            "decode it first: image.load()."
        )
    _check_size(image, name, options)


@contextmanager
def _content(source: str | Path | bytes, name: str) -> Iterator[BinaryIO]:
    if source in ("", b""):
        what = "The path of the picture is empty" if source == "" else f"{name} is empty"
        raise ImageError(f"{what}. Give an image file.")
    if isinstance(source, bytes):
        yield io.BytesIO(source)
        return
    try:
        file = open_plain(source)
    except FileNotFoundError:
        raise _not_found(source, name) from None
    except IsADirectoryError:
        raise ImageError(f"{name} is a folder, expected an image file.") from None
    except (OSError, ValueError) as error:  # ValueError: a path that cannot exist
        reason = (isinstance(error, OSError) and error.strerror) or error
        raise ImageError(f"{name} cannot be read: {reason}.") from None
    with file:
        yield file


def _not_found(path: str | Path, name: str) -> ImageNotFoundError:
    if os.path.islink(path):
        return ImageNotFoundError(f"{name} is a broken link: there is no {os.readlink(path)}.")
    return ImageNotFoundError(f"There is no file {name}.")


def _decode(file: BinaryIO, name: str, options: ImageOptions) -> Image.Image:
    image = _open(file, name)
    _check_size(image, name, options)
    deep_colours = image.mode in ("RGB", "RGBA") and ";16" in str(image.tile)
    image.load()
    if deep_colours:  # of which Pillow keeps the upper 8 bits
        warn_of_darkness(name, 256 * max(high for _, high in _extrema(image)[:3]) + 255)
    ImageOps.exif_transpose(image, in_place=True)
    return image


def _extrema(image: Image.Image) -> list[tuple[int, int]]:
    """The smallest and the largest value of each channel, 0 to 255."""
    return cast("list[tuple[int, int]]", image.getextrema())


def warn_of_darkness(name: str, highest: float) -> None:
    """Say once that 16 bits of which only the lower ones are used make a dark picture.

    Args:
        name: what to call the picture.
        highest: its largest value, of 65535.
    """
    if highest > _DARK or _told_of_darkness:
        return
    _told_of_darkness.append(name)
    logger.warning(
        "%s has 16 bits a channel, but no value above %d of 65535: it comes out dark, as from a "
        "camera of 10 to 14 bits. To scale grey by its own range: deep_range='own' (on the command "
        "line: --deep-range own); colours have to be scaled before. This is said once.",
        name,
        highest,
    )


def _open(file: BinaryIO, name: str) -> ImageFile.ImageFile:
    """The picture with its head read, as `Image.open` does, but for Pillow's own limit.

    That one is a global of the whole program, and 89 or 179 megapixels, depending on the format.
    """
    Image.init()  # registers all decoders; done once
    head = file.read(16)
    for each in FORMATS:
        if each not in Image.OPEN:
            continue
        decoder, accepts = Image.OPEN[each]
        accepted = accepts is None or accepts(head)
        if isinstance(accepted, str):  # a library that this Pillow was built without
            raise ImageFormatError(
                f"{name} is {each}: {accepted}. Update Pillow, or convert it to PNG."
            )
        if not accepted:
            continue
        file.seek(0)
        try:
            return decoder(file, "")  # without a name, or raw formats would be mapped
        except (SyntaxError, IndexError, TypeError, struct.error) as error:
            reason = (str(error) or type(error).__name__).rstrip(".")
            raise ImageError(
                f"{name} begins as {each} does, but its head cannot be read: {reason}. It is "
                "damaged, or of a variant that Pillow does not know: fetch it again, or convert it "
                "to PNG or JPEG."
            ) from error
    if "AVIF" not in Image.OPEN and head[4:12] in (b"ftypavif", b"ftypavis"):
        raise ImageFormatError(
            f"{name} is AVIF, which this Pillow does not read. Update it to 11.3."
        )
    raise ImageFormatError(
        f"{name} is not an image in a format that is opened here: {_NAMES}, recognized by content. "
        "Convert it to one of them."
    )


def _check_size(image: Image.Image, name: str, options: ImageOptions) -> None:
    width, height = image.size
    if width * height > options.max_pixels:
        raise ImageTooLargeError(
            f"{name} is too large: {width} x {height} are {width * height:,} pixels, and at most "
            f"{options.max_pixels:,} are read. Shrink it, or allow it: "
            f"max_pixels={width * height} (on the command line: --max-pixels), which takes "
            f"{width * height * 4 / 1e9:.1f} GB of memory or more."
        )


_PNG = b"\x89PNG\r\n\x1a\n"
_BESIDE = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")
_WITH_ORIENTATION = (b"XML:com.adobe.xmp\0", b"Raw profile type exif\0")
_MAX_KEPT = 1 << 20  # bytes of metadata that may tell how the picture is turned


def _is_png(file: BinaryIO) -> bool:
    file.seek(0)
    return file.read(len(_PNG)) == _PNG


def _without_text(file: BinaryIO) -> BinaryIO:
    """A PNG without its texts and its colour profile, on which no pixel depends here.

    Kept is what may say how the picture is turned.
    """
    file.seek(0)
    slim = io.BytesIO(file.read(len(_PNG)))
    slim.seek(0, os.SEEK_END)
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        chunk = file.read(length + 4)  # with its checksum
        if kind not in _BESIDE or _has_orientation(chunk[:length]):
            slim.write(head + chunk)
        if kind == b"IEND":
            break
    slim.seek(0)
    return slim


def _has_orientation(text: bytes) -> bool:
    if not text.startswith(_WITH_ORIENTATION) or len(text) > _MAX_KEPT:
        return False
    packed = text.partition(b"\0")[2].lstrip(b"\0\1")  # compression: a flag and a method, or none
    try:
        unpacking = zlib.decompressobj()
        unpacking.decompress(packed, _MAX_KEPT)
    except zlib.error:
        return True  # plain text
    return not unpacking.unconsumed_tail


class _QuietPillow:
    """Leaves out Pillow's warnings (about metadata, for the most part) while pictures are read.

    Which warnings are shown is one list for all threads, and each block that changes it puts back
    what it found: of several threads here, the first changes it and the last puts it back.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._inside = 0
        self._before = warnings.catch_warnings()

    @contextmanager
    def __call__(self) -> Iterator[None]:
        if getattr(sys.flags, "context_aware_warnings", False):  # Python 3.14: a list a thread
            with warnings.catch_warnings():
                _leave_out()
                yield
            return
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                self._before = warnings.catch_warnings()
                self._before.__enter__()
                _leave_out()
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
                if not self._inside:
                    self._before.__exit__(None, None, None)


def _leave_out() -> None:
    warnings.filterwarnings("ignore", module=r"PIL\.")


quiet_pillow = _QuietPillow()


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderPictures:
    """The files of a folder that are called as pictures are, by name, and what else there is."""

    paths: tuple[Path, ...]
    """Broken links among them; none has been opened."""
    others: int
    """Files that are not called so."""
    folders: int
    """Folders in it that were not looked into, or could not be."""

    def left_out(self) -> str:
        """What was left out, such as "3 files that are not pictures left out."; may be empty."""
        files = _count(self.others, "file that is not a picture", "files that are not pictures")
        folders = _count(self.folders, "folder in it", "folders in it")
        both = " and ".join(filter(None, (files, folders)))
        return f"{both} left out." if both else ""


def pictures_in(folder: Path, *, below: bool = False) -> FolderPictures:
    """The pictures of a folder by their names, in any case; those of the folders `below`, too.

    Raises:
        OSError: the folder cannot be read.
    """
    paths: list[Path] = []
    others = folders = 0
    waiting = [folder]
    while waiting:
        current = waiting.pop()
        try:
            entries = list(os.scandir(current))
        except OSError:
            if current is folder:
                raise
            folders += 1
            continue
        for entry in entries:
            if below and entry.is_dir(follow_symlinks=False):
                waiting.append(Path(entry.path))
            elif _is_folder(entry):
                folders += 1
            elif Path(entry.name).suffix.lower() in SUFFIXES:
                paths.append(Path(entry.path))
            else:
                others += 1
    return FolderPictures(paths=tuple(sorted(paths)), others=others, folders=folders)


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _count(number: int, one: str, several: str) -> str:
    return "" if not number else f"{number} {one if number == 1 else several}"
