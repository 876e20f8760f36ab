"""Images in: anything a caller has, as RGB, and as the square of bytes that the model sees."""

import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from .backends.base import Pixels
from .cuda.frame import DeviceFrame, DeviceImage, frame_of, is_on_gpu
from .errors import ImageError, ImageNotFoundError, RequestError

HostImage: TypeAlias = str | Path | bytes | Image.Image | npt.NDArray[Any]

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm"})


def load_image(source: HostImage) -> Image.Image:
    """An RGB picture, turned upright as its EXIF orientation says.

    Arrays are HxWx3 uint8 in RGB order. Other modes become RGB as Pillow, and so transformers,
    converts them, alpha dropped; only deep grey is scaled to 8 bits, where Pillow would clip it.

    Raises:
        ImageError: the source cannot be read, has no pixels, or is an array of another kind.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source)
    name = _name(source)
    try:
        if isinstance(source, Image.Image):
            return _as_rgb(source, name)
        file = io.BytesIO(source) if isinstance(source, bytes) else source
        with _without_size_warning(), Image.open(file) as image:
            return _as_rgb(image, name)
    except ImageError:
        raise
    except FileNotFoundError:
        raise ImageNotFoundError(f"There is no file {name}.") from None
    except IsADirectoryError:
        raise ImageError(f"{name} is a folder, expected an image file.") from None
    except UnidentifiedImageError:
        raise ImageError(f"{name} is not an image that Pillow can read.") from None
    except Exception as error:
        raise ImageError(f"{name} is damaged or cannot be read: {error}") from error


@contextmanager
def _without_size_warning() -> Iterator[None]:
    """Pillow warns from 89 megapixels on and refuses twice that; the warning is not passed on."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        yield


def pixels(image: Image.Image, side: int) -> npt.NDArray[np.uint8]:
    """[side, side, 3] uint8: squashed to a square by Pillow's bicubic filter, as originally."""
    resized = image.resize((side, side), resample=Image.Resampling.BICUBIC)
    return np.asarray(resized, dtype=np.uint8)


def _name(source: object) -> str:
    """What to call a picture in messages."""
    if isinstance(source, Image.Image):
        return "the PIL image"
    if isinstance(source, bytes):
        return f"the image of {len(source)} bytes"
    if isinstance(source, str | Path):
        return str(source)
    raise ImageError(
        "A picture is expected as a path, bytes, a PIL image or an HxWx3 uint8 array, got "
        f"{type(source).__name__}."
    )


def _from_array(array: npt.NDArray[Any]) -> Image.Image:
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8:
        raise ImageError(
            f"An array image is expected as HxWx3 uint8 RGB, got {array.dtype} "
            f"{list(array.shape)}. Convert it first (OpenCV: cv2.cvtColor(x, cv2.COLOR_BGR2RGB))."
        )
    if 0 in array.shape:
        raise ImageError(f"The image has no pixels: its shape is {list(array.shape)}.")
    return Image.fromarray(np.ascontiguousarray(array))


def _as_rgb(image: Image.Image, name: str) -> Image.Image:
    if 0 in image.size:
        raise ImageError(f"{name} has no pixels: its size is {image.width}x{image.height}.")
    upright = ImageOps.exif_transpose(image)
    if isinstance(upright.info.get("transparency"), bytes):
        upright = upright.convert("RGBA")  # the same colours, without a warning of Pillow's
    if upright.mode in ("I", "F") or upright.mode.startswith("I;16"):
        return _from_deep_grey(upright)
    return upright.convert("RGB")


def _from_deep_grey(image: Image.Image) -> Image.Image:
    values = np.asarray(image, dtype=np.float64)
    values = np.nan_to_num(values)
    if image.mode.startswith("I;16") or values.max() > 255:
        values = values / 257  # 65535 -> 255
    elif image.mode == "F" and values.max() <= 1:
        values = values * 255
    grey = np.clip(values, 0, 255).astype(np.uint8)
    return Image.fromarray(grey).convert("RGB")


ImageLike: TypeAlias = HostImage | DeviceImage
"""A path, bytes, a PIL image, an HxWx3 uint8 RGB array, or such an array on the GPU."""
Picture: TypeAlias = Image.Image | DeviceFrame


def load_pictures(images: Sequence[ImageLike]) -> Sequence[Picture]:
    """The pictures of one batch, all on the host or all on the GPU.

    Raises:
        ImageError: a picture cannot be read.
        RequestError: the batch has some of each.
    """
    on_gpu = [image for image in images if _may_be_on_gpu(image) and is_on_gpu(image)]
    if on_gpu and len(on_gpu) < len(images):
        raise RequestError(
            f"{len(on_gpu)} of {len(images)} pictures are on the GPU. Encode them in two batches, "
            "or bring all to one side."
        )
    on_host = [] if on_gpu else [cast(HostImage, image) for image in images]
    return [frame_of(image) for image in on_gpu] or [load_image(image) for image in on_host]


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
    """The picture in host memory; a frame on the GPU is copied from there as it is now."""
    return picture if isinstance(picture, Image.Image) else picture.to_image()
