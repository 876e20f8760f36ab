"""Images in: anything a caller has, as RGB, and as the square of bytes that the model sees."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageOps

from .backends.base import Pixels
from .cuda.frame import DeviceFrame, DeviceImage, frame_of, is_on_gpu
from .errors import ImageError, ImageTooLargeError, RequestError
from .image_file import (
    Color,
    ImageOptions,
    check_color,
    check_undecoded,
    decode,
    quiet_pillow,
    warn_of_darkness,
)

HostImage: TypeAlias = str | Path | bytes | IO[bytes] | Image.Image | npt.NDArray[Any]

_DEFAULT = ImageOptions()
_WHITE = 65535.0  # the largest value of 16 bits
_INFINITE = 1e300  # further than any float32, and finite after arithmetic
_VALUES_AT_ONCE = 1 << 20


def load_image(
    source: HostImage, options: ImageOptions = _DEFAULT, color: Color = "rgb"
) -> Image.Image:
    """An RGB picture, turned upright as its EXIF orientation says; of several, the first.

    Arrays are HxWx3 uint8 in the order that `color` says; an open file is read from where it
    stands. Other modes become RGB as Pillow, and so transformers, converts them, alpha dropped;
    only deep grey is scaled to 8 bits, where Pillow would clip it. Colours of 16 bits keep their
    upper 8, as in Pillow. Files and bytes are opened if they are of one of `image_file.FORMATS` and
    within `options.max_pixels`.

    Raises:
        ImageError: the source cannot be read, is too large, has no pixels, does not fit into
            memory, or is an array of another kind.
        RequestError: there is no such order of channels.
    """
    check_color(color)
    if isinstance(source, np.ndarray):
        return _from_array(source, color)
    source = _plain(source)
    name = _name(source)
    try:
        with quiet_pillow():
            if isinstance(source, Image.Image):
                check_undecoded(source, name, options)
                return _as_rgb(_upright(source), name, options, ours=False)
            return _as_rgb(decode(source, name, options), name, options, ours=True)
    except ImageError:
        raise
    except MemoryError:
        raise ImageError(_NO_MEMORY.format(name=name)) from None
    except Image.DecompressionBombError as error:
        raise ImageTooLargeError(
            f"{name} is too large for Pillow: {error}. Shrink it, or save it as PNG or JPEG."
        ) from None
    except Exception as error:
        if "out of memory" in str(error):  # a decoder's
            raise ImageError(_NO_MEMORY.format(name=name)) from error
        reason = str(error) or type(error).__name__
        raise ImageError(
            f"{name} cannot be decoded: {reason.rstrip('.')}. It is damaged or cut short, or of a "
            "variant that Pillow does not know: fetch it again, or convert it to PNG or JPEG."
        ) from error


def _read(file: Any) -> bytes:
    try:
        content = file.read()
    except (OSError, ValueError) as error:  # ValueError: it is closed
        raise ImageError(f"The file object cannot be read: {error}. Open it again.") from error
    if not isinstance(content, bytes):
        raise ImageError("The file object gives text. Open it in binary mode: open(path, 'rb').")
    return content


_NO_MEMORY = (
    "There is not enough memory to decode {name}. Shrink it, or free some; to have such pictures "
    "refused at once, lower max_pixels (on the command line: --max-pixels)."
)


def pixels(image: Image.Image, side: int) -> npt.NDArray[np.uint8]:
    """[side, side, 3] uint8: squashed to a square by Pillow's bicubic filter, as originally."""
    resized = image.resize((side, side), resample=Image.Resampling.BICUBIC)
    return np.asarray(resized, dtype=np.uint8)


def _name(source: str | Path | bytes | Image.Image) -> str:
    """What to call a picture in messages."""
    if isinstance(source, Image.Image):
        return "the PIL image"
    return f"the image of {len(source)} bytes" if isinstance(source, bytes) else str(source)


def _plain(source: object) -> str | Path | bytes | Image.Image:
    """The picture itself; what an open file holds."""
    if isinstance(source, str | Path | bytes | Image.Image):
        return source
    if hasattr(source, "read"):
        return _read(source)
    raise ImageError(
        "A picture is expected as a path, bytes, an open file, a PIL image or an HxWx3 uint8 "
        f"array in RGB order, got {type(source).__name__}."
    )


def _from_array(array: npt.NDArray[Any], color: Color) -> Image.Image:
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8:
        raise ImageError(
            f"An array image is expected as HxWx3 uint8 in RGB order (OpenCV's BGR: color='bgr'), "
            f"got {array.dtype} {list(array.shape)}. Convert it first."
        )
    if 0 in array.shape:
        raise ImageError(f"The image has no pixels: its shape is {list(array.shape)}.")
    rgb = array[..., ::-1] if color == "bgr" else array
    return Image.fromarray(np.ascontiguousarray(rgb))


def _upright(image: Image.Image) -> Image.Image:
    """The caller's picture turned upright: itself where it is already, and else a new one."""
    turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
    return ImageOps.exif_transpose(image) if turned else image


def _as_rgb(image: Image.Image, name: str, options: ImageOptions, *, ours: bool) -> Image.Image:
    """In RGB, and never the caller's own."""
    if 0 in image.size:
        raise ImageError(f"{name} has no pixels: its size is {image.width}x{image.height}.")
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _from_deep_grey(image, name, options)
    if image.mode != "RGB":
        return image.convert("RGB")
    return image if ours else image.copy()


def eight_bits(values: npt.NDArray[Any], name: str, options: ImageOptions) -> npt.NDArray[np.uint8]:
    """Values of 16 bits, of any shape, in 8: 65535 is 255, or what `options.deep_range` says.

    Darkness that comes from a camera of fewer bits (12 of 16) is said once, in a warning.
    """
    low, high = int(values.min()), int(values.max())
    if options.deep_range == "full":
        warn_of_darkness(name, high)
    return _cut(values, low, high, options)


def _cut(
    values: npt.NDArray[Any], low: int, high: int, options: ImageOptions
) -> npt.NDArray[np.uint8]:
    """Values of 16 bits in 8; `low` and `high` are the smallest and the largest of the picture."""
    if options.deep_range == "own" and high > low:
        return ((values.astype(np.uint32) - low) * 255 // (high - low)).astype(np.uint8)
    return (values // 257).astype(np.uint8)


def _from_deep_grey(image: Image.Image, name: str, options: ImageOptions) -> Image.Image:
    """Grey of 16 or 32 bits or of floats in 8 bits, some rows at a time: no copy of it is made."""
    found = [(values.min(), values.max()) for _, values in _rows(image)]
    low, high = min(low for low, _ in found), max(high for _, high in found)
    own, of_16_bits = options.deep_range == "own" and high > low, image.mode.startswith("I;16")
    black, white = (float(low), float(high)) if own else (0.0, _white(image.mode, high))
    if white == _WHITE and not own:
        warn_of_darkness(name, high)
    grey = np.empty((image.height, image.width), dtype=np.uint8)
    for top, values in _rows(image):
        if of_16_bits:
            scaled = _cut(values, int(low), int(high), options)
        else:
            scaled = np.clip((values - black) * 255 / (white - black), 0, 255)
        grey[top : top + len(values)] = scaled
    return Image.fromarray(grey).convert("RGB")


def _white(mode: str, high: float) -> float:
    """Which value is white: of 16 bits the largest, of others the one that the values suggest."""
    if mode.startswith("I;16") or high > 255:
        return _WHITE
    return 1.0 if mode == "F" and high <= 1 else 255.0


def _rows(image: Image.Image) -> Iterator[tuple[int, npt.NDArray[Any]]]:
    """The rows of a grey picture, a few megabytes at a time: the first one's number, and values.

    Those of 16 bits are uint16, others float64, in which 0 stands for what is not a number.
    """
    count = max(1, _VALUES_AT_ONCE // image.width)
    for top in range(0, image.height, count):
        part = image.crop((0, top, image.width, min(top + count, image.height)))
        if image.mode.startswith("I;16"):
            yield top, np.asarray(part)
        else:
            values = np.asarray(part, dtype=np.float64)
            yield top, np.nan_to_num(values, posinf=_INFINITE, neginf=-_INFINITE)


ImageLike: TypeAlias = HostImage | DeviceImage
"""A path, bytes, an open file, a PIL image, an HxWx3 uint8 array in RGB order (OpenCV's BGR with
`color="bgr"`), or an RGB array on the GPU."""


@dataclass(frozen=True, slots=True)
class PictureSize:
    """What is kept of a picture whose pixels are needed no more: width and height."""

    size: tuple[int, int]


Picture: TypeAlias = Image.Image | DeviceFrame | PictureSize


def load_pictures(
    images: Sequence[ImageLike], options: ImageOptions = _DEFAULT, color: Color = "rgb"
) -> Sequence[Picture]:
    """The pictures of one batch, all on the host or all on the GPU.

    Raises:
        ImageError: a picture cannot be read.
        RequestError: the batch has some of each, or frames on the GPU that are not in RGB order.
    """
    on_gpu = [image for image in images if _may_be_on_gpu(image) and is_on_gpu(image)]
    if on_gpu and len(on_gpu) < len(images):
        raise RequestError(
            f"{len(on_gpu)} of {len(images)} pictures are on the GPU. Encode them in two batches, "
            "or bring all to one side."
        )
    if on_gpu and color != "rgb":
        raise RequestError(
            "Frames on the GPU are read in RGB order, and color is 'bgr'. Turn them there "
            "(CuPy: cupy.ascontiguousarray(frame[..., ::-1]), torch: frame.flip(-1)) and leave "
            "color out."
        )
    on_host = [] if on_gpu else [cast(HostImage, image) for image in images]
    return [frame_of(image) for image in on_gpu] or [
        load_image(image, options, color) for image in on_host
    ]


def _may_be_on_gpu(image: object) -> bool:
    return not isinstance(image, str | Path | bytes | Image.Image | np.ndarray)


def squares(pictures: Sequence[Picture], side: int) -> Pixels:
    """What the vision encoder is given: squares of bytes, or the frames, resized on the GPU."""
    frames = [picture for picture in pictures if isinstance(picture, DeviceFrame)]
    if frames:
        return frames
    images = [picture for picture in pictures if isinstance(picture, Image.Image)]
    return np.stack([pixels(image, side) for image in images])


def to_pil(picture: Picture) -> Image.Image:
    """The picture in host memory; a frame on the GPU is copied from there as it is now.

    Raises:
        RequestError: only its size was kept.
    """
    if isinstance(picture, PictureSize):
        raise RequestError(
            "Only the size of this picture was kept. Draw on the picture that was given, or "
            "prepare it without `without_pictures`."
        )
    return picture if isinstance(picture, Image.Image) else picture.to_image()
