"""Bayer frames (one colour a pixel, as the sensor has it) as RGB, by OpenCV."""

from typing import Any

import numpy as np
import numpy.typing as npt

from florence_edge.errors import ImageError, MissingPackageError
from florence_edge.extras import pip_install

# By the colours of the first two pixels of the first two rows, as ROS names them. OpenCV names the
# same pattern by the second and third pixel of the second and third row.
_OPENCV = {"rggb": "BG", "bggr": "RG", "gbrg": "GR", "grbg": "GB"}
PATTERNS = {f"bayer_{pattern}{bits}": pattern for pattern in _OPENCV for bits in (8, 16)}
"""Encodings of sensor_msgs/image_encodings.hpp, and their patterns."""


def rgb_from_bayer(values: npt.NDArray[Any], pattern: str, topic: str) -> npt.NDArray[Any]:
    """RGB [height, width, 3] of a mosaic [height, width], uint8 or uint16, of the same dtype.

    Colours between are interpolated bilinearly, as image_proc and cv_bridge do.

    Raises:
        MissingPackageError: OpenCV is not installed.
        ImageError: the mosaic is too small to have all colours.
    """
    try:
        import cv2
    except ImportError as error:  # also of a library that OpenCV wants, such as libGL
        raise MissingPackageError(
            f"{topic} carries Bayer frames, whose colours OpenCV makes, and it cannot be imported "
            f"({error}). Use a topic of image_proc, or install it: apt install python3-opencv, or "
            f"{pip_install('bayer')}"
        ) from error
    if min(values.shape) < _SMALLEST:
        raise ImageError(
            f"A frame of {topic} is {values.shape[1]} x {values.shape[0]} pixels: too small for a "
            "Bayer pattern."
        )
    code = getattr(cv2, f"COLOR_Bayer{_OPENCV[pattern]}2RGB")
    native = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("="))
    rgb: npt.NDArray[Any] = cv2.cvtColor(native, code)
    return rgb


_SMALLEST = 3  # pixels a side: below, OpenCV leaves black what has no neighbours on both sides
