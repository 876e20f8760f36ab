"""Regions in pixels and in location tokens: each side of a picture is cut into 1,000 bins.

    pixels (of 640 x 480)    34, 160, 597, 371
    location_tokens          <loc_53><loc_333><loc_932><loc_772>
    dequantize               34, 160, 596, 370           (Microsoft's: 34.24, 160.08, 596.8, 370.8)

A round trip is therefore exact to one bin, and one pixel more in whole numbers.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np

from .errors import RequestError

LOCATION_BINS = 1000

Convention = Literal["native", "microsoft"]
"""Whose coordinates: the whole numbers of transformers, or the fractions of the original code."""
RegionShape = Literal["box", "quad", "polygon"]
"""What a region's rings are."""
Ring = tuple[float, ...]
"""Pixel coordinates, flat: x1, y1, x2, y2, ..."""
Box = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels."""
BoxLike = Sequence[float]
"""The same four numbers, however a caller has them."""


class RelativeBox(NamedTuple):
    """A region in fractions of the picture's sides, 0 to 1; goes wherever one in pixels does."""

    left: float
    top: float
    right: float
    bottom: float


# The vocabulary holds <loc_0> to <loc_999>, without leading zeros.
_NUMBER = re.compile("[0-9]+")
_FOUR_LOCATIONS = re.compile(r"\s*(?:<loc_(?:0|[1-9][0-9]{0,2})>){4}\s*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """One thing that an answer points at.

    `rings` holds pixel coordinates, flat x, y, x, y, ...: a box is one ring of two corners
    (left, top, right, bottom), a quad one ring of four corners, a polygon one ring or more.
    The native convention gives whole numbers, Microsoft's gives fractions.
    """

    label: str
    shape: RegionShape
    rings: tuple[Ring, ...]
    score: float
    """exp of the mean log-probability of the region's location tokens, 0 to 1."""
    label_score: float | None = None
    """The same over the tokens of the label; None where there is no label."""
    track_id: int | None = None
    """The object's number over the frames of a video; None unless it is tracked."""

    @property
    def box(self) -> Box:
        """The upright box around all rings: left, top, right, bottom (zeros without a point)."""
        xs = [x for ring in self.rings for x in ring[0::2]]
        ys = [y for ring in self.rings for y in ring[1::2]]
        if not xs:
            return 0, 0, 0, 0
        return min(xs), min(ys), max(xs), max(ys)

    @property
    def area(self) -> float:
        """Square pixels: of the box, or of all rings together."""
        return sum(ring_area(ring, self.shape) for ring in self.rings)


def has_area(ring: Ring, shape: RegionShape) -> bool:
    """Whether a ring covers anything: it is wide and high, and a polygon has three points.

    Its extent decides: `ring_area` is 0 for a quad whose sides cross, of a word that is there.
    """
    xs, ys = ring[0::2], ring[1::2]
    if len(xs) < (2 if shape == "box" else 3):
        return False
    return min(xs) < max(xs) and min(ys) < max(ys)


def ring_area(ring: Ring, shape: RegionShape) -> float:
    """Square pixels: of a box's two corners, or of a polygon's by the shoelace formula."""
    if shape == "box":
        left, top, right, bottom = ring
        return abs((right - left) * (bottom - top))
    xs, ys = ring[0::2], ring[1::2]
    twice = sum(
        x * next_y - next_x * y
        for x, y, next_x, next_y in zip(xs, ys, (*xs[1:], *xs[:1]), (*ys[1:], *ys[:1]), strict=True)
    )
    return abs(twice) / 2


def location_tokens(box_xyxy: Sequence[float], image_size: tuple[int, int]) -> str:
    """The four location tokens of a box, as region tasks take them.

    Args:
        box_xyxy: left, top, right, bottom in pixels, or a `RelativeBox`.
        image_size: width, height in pixels.

    Raises:
        RequestError: the box is not four finite numbers, has no area, or leaves the picture.
    """
    check_image_size(image_size)
    left, top, right, bottom = _edges(box_xyxy)
    width, height = image_size
    if isinstance(box_xyxy, RelativeBox):
        left, top, right, bottom = left * width, top * height, right * width, bottom * height
    if right > width or bottom > height:
        raise RequestError(
            f"The region ({left:g}, {top:g}, {right:g}, {bottom:g}) leaves the picture, which is "
            f"{width} x {height} pixels. Clip it, or give it in pixels of the original picture."
        )
    sides = (width, height, width, height)
    edges = zip((left, top, right, bottom), sides, strict=True)
    return "".join(f"<loc_{_bin(edge, side)}>" for edge, side in edges)


def check_region(box_xyxy: Sequence[float]) -> Box:
    """The left, top, right and bottom edge of a region, whatever picture it belongs to.

    Raises:
        RequestError: it is not four finite numbers, has no area, begins outside, or is meant in
            fractions of the picture without being a `RelativeBox`.
    """
    box = _edges(box_xyxy)
    if max(box) <= 1 and not isinstance(box_xyxy, RelativeBox):
        numbers = ", ".join(f"{edge:g}" for edge in box)
        percent = ",".join(f"{100 * edge:g}%" for edge in box)
        raise RequestError(
            f"The region ({numbers}) is not even a pixel, so it seems to be in fractions of the "
            "picture, and pixels are expected. For fractions give "
            f"region=RelativeBox({numbers}); on the command line: --region {percent}"
        )
    return box


def _edges(box_xyxy: Sequence[float]) -> Box:
    left, top, right, bottom = _four_numbers(box_xyxy)
    if right <= left or bottom <= top:
        raise RequestError(
            f"The region ({left:g}, {top:g}, {right:g}, {bottom:g}) has no area. Expected x1 < x2 "
            "and y1 < y2: give the left, top, right and bottom edge in this order."
        )
    if left < 0 or top < 0:
        raise RequestError(
            f"The region ({left:g}, {top:g}, {right:g}, {bottom:g}) leaves the picture: its edges "
            "count from 0. Clip it."
        )
    if isinstance(box_xyxy, RelativeBox) and (right > 1 or bottom > 1):
        raise RequestError(
            f"The region ({left:g}, {top:g}, {right:g}, {bottom:g}) leaves the picture: fractions "
            "go from 0 to 1. Clip it, or give pixels as a plain tuple."
        )
    return left, top, right, bottom


def is_location_text(text: str) -> bool:
    """Whether a text is a region written as four location tokens; white space around is allowed."""
    return _FOUR_LOCATIONS.fullmatch(text) is not None


def box_of_locations(text: str, image_size: tuple[int, int], convention: Convention) -> Box | None:
    """The box in pixels that four location tokens name; None if a text is something else."""
    if not is_location_text(text):
        return None
    bins = [int(number) for number in _NUMBER.findall(text)]
    left, top, right, bottom = dequantize(bins, image_size, convention)
    return left, top, right, bottom


def dequantize(
    bins: Sequence[int], image_size: tuple[int, int], convention: Convention
) -> tuple[float, ...]:
    """The pixel coordinates at the centres of flat bins x, y, x, y, ...

    Both conventions compute in float32, as the torch tensors of the originals do, so that
    coordinates agree to the last bit. The native one then cuts the fraction off.

    Raises:
        RequestError: `convention` is not known.
    """
    check_convention(convention)
    pixels_per_bin = np.array([side / LOCATION_BINS for side in image_size], dtype=np.float32)
    # By way of int64, as there: a number of many digits would be rounded twice on a direct way.
    centres = np.array(bins, np.int64).astype(np.float32).reshape(-1, 2) + np.float32(0.5)
    pixels = (centres * pixels_per_bin).ravel()
    if convention == "microsoft":
        return tuple(pixels.tolist())
    # The native one ends in int32, where x86 turns what does not fit into the lowest number.
    fits = pixels < np.float32(2**31)
    return tuple(np.where(fits, pixels, np.float32(-(2**31))).astype(np.int64).tolist())


def check_convention(convention: str) -> None:
    """Refuse a convention that does not exist.

    Raises:
        RequestError: naming the two that do.
    """
    if convention not in get_args(Convention):
        raise RequestError(
            f"There is no coordinate convention {convention!r}. Use 'native' for the whole "
            "numbers of transformers, or 'microsoft' for the fractions of the original code."
        )


def check_image_size(image_size: tuple[int, int]) -> None:
    """Refuse what is not a width and a height of at least one pixel.

    Raises:
        RequestError: saying what was given.
    """
    if len(image_size) != 2 or min(image_size) < 1:
        raise RequestError(
            f"A picture cannot be of size {image_size}. "
            "Give (width, height) of the original picture in pixels, both at least 1."
        )


def _four_numbers(box_xyxy: Sequence[float]) -> tuple[float, ...]:
    try:
        numbers = tuple(float(number) for number in box_xyxy)
    except (TypeError, ValueError):
        numbers = ()
    if len(numbers) != 4 or not all(map(math.isfinite, numbers)):
        raise RequestError(
            f"{box_xyxy!r} is not a region. Expected four finite numbers: "
            "give (x1, y1, x2, y2) in pixels of the original picture."
        )
    return numbers


def _bin(edge: float, side: int) -> int:
    # The far edge of the picture would be bin 1000, which the vocabulary does not have.
    return min(math.floor(edge / (side / LOCATION_BINS)), LOCATION_BINS - 1)
