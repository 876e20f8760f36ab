"""What a model is shown: pictures on the host, or frames that are on the GPU already."""

from collections.abc import Sequence
from typing import TypeAlias, cast

import numpy as np
from PIL import Image

from .backends.base import Pixels
from .cuda.frame import DeviceImage, Frame, frame_of, is_on_gpu
from .errors import RequestError
from .image import ImageLike, load_image, pixels

PictureLike: TypeAlias = "ImageLike | DeviceImage"
Picture: TypeAlias = Image.Image | Frame


def load_pictures(images: Sequence[PictureLike]) -> Sequence[Picture]:
    """The pictures of one batch, all on the host or all on the GPU.

    Raises:
        ImageError: a picture cannot be read.
        RequestError: the batch has some of each.
    """
    on_gpu = [image for image in images if is_on_gpu(image)]
    on_host = [cast(ImageLike, image) for image in images if not is_on_gpu(image)]
    if on_gpu and on_host:
        raise RequestError(
            f"{len(on_gpu)} of {len(images)} pictures are on the GPU. Look at them in two batches, "
            "or bring all to one side."
        )
    return [frame_of(image) for image in on_gpu] or [load_image(image) for image in on_host]


def squares(pictures: Sequence[Picture], side: int) -> Pixels:
    """What the vision encoder is given: squares of bytes, or the frames, resized on the GPU."""
    frames = [picture for picture in pictures if isinstance(picture, Frame)]
    if frames:
        return frames
    images = [picture for picture in pictures if isinstance(picture, Image.Image)]
    return np.stack([pixels(image, side) for image in images])
