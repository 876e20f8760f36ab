"""The shapes and colours of objects: outlines in a unit square, for drawing and for truth."""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from .. import Float32s, Float64s

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 32, 36),
    "orange": (246, 140, 20),
    "yellow": (250, 226, 40),
    "green": (30, 150, 50),
    "cyan": (50, 208, 220),
    "blue": (32, 66, 206),
    "purple": (128, 36, 160),
    "pink": (250, 140, 190),
    "white": (248, 248, 246),
    "black": (22, 22, 24),
}


@dataclass(frozen=True, slots=True)
class ObjectShape:
    """A shape: what is drawn, and the few corners that its polygon truth names.

    Both are [n, 2], x and y in 0 to 1, y downwards.
    """

    outline: Float64s
    corners: Float64s
    square: bool  # an oblong circle would be an ellipse: these keep width = height


def _polar(radius: float | Float64s, angles: Float64s) -> Float64s:
    return np.stack([0.5 + radius * np.sin(angles), 0.5 - radius * np.cos(angles)], axis=1)


def _turn(count: int, phase: float = 0.0) -> Float64s:
    return 2 * np.pi * (np.arange(count) + phase) / count


def _fill_unit_square(points: Float64s) -> Float64s:
    low, high = points.min(axis=0), points.max(axis=0)
    filled: Float64s = (points - low) / (high - low)
    return filled


def _angular(points: list[tuple[float, float]] | Float64s, *, square: bool = False) -> ObjectShape:
    corners = np.asarray(points, dtype=np.float64)
    return ObjectShape(outline=corners, corners=corners, square=square)


def _circle() -> ObjectShape:
    # An octagon of the circle's area; turned by half a corner it stays inside the circle's box.
    equal_area_radius = 0.5 * np.sqrt(np.pi / (8 * np.sin(np.pi / 4) / 2))
    return ObjectShape(
        outline=_polar(0.5, _turn(48)),
        corners=_polar(equal_area_radius, _turn(8, 0.5)),
        square=True,
    )


def _star() -> ObjectShape:
    radius = np.where(np.arange(10) % 2 == 0, 0.5, 0.22)
    return _angular(_fill_unit_square(_polar(radius, _turn(10))))


def _heart() -> ObjectShape:
    angle = _turn(48)
    x = 16 * np.sin(angle) ** 3
    y = 13 * np.cos(angle) - 5 * np.cos(2 * angle) - 2 * np.cos(3 * angle) - np.cos(4 * angle)
    outline = _fill_unit_square(np.stack([x, -y], axis=1))
    return ObjectShape(
        outline=outline, corners=outline[[0, 5, 8, 11, 13, 24, 35, 37, 40, 43]], square=False
    )


def _moon() -> ObjectShape:
    outer = _polar(0.5, np.linspace(-0.15 * np.pi, 1.15 * np.pi, 25))
    outer = np.stack([1 - outer[:, 0], outer[:, 1]], axis=1)
    inner = np.linspace(outer[-1], outer[0], 15)
    bulge = 0.34 * np.sin(np.linspace(0, np.pi, 15))
    inner[:, 0] -= bulge
    outline = _fill_unit_square(np.concatenate([outer, inner[1:-1]]))
    return ObjectShape(
        outline=outline, corners=outline[[0, 5, 9, 12, 15, 19, 24, 28, 31, 34]], square=False
    )


_CROSS = [
    *[(1, 0), (2, 0), (2, 1), (3, 1), (3, 2), (2, 2)],
    *[(2, 3), (1, 3), (1, 2), (0, 2), (0, 1), (1, 1)],
]

SHAPES: dict[str, ObjectShape] = {
    "circle": _circle(),
    "square": _angular([(0, 0), (1, 0), (1, 1), (0, 1)], square=True),
    "triangle": _angular([(0.5, 0), (1, 1), (0, 1)]),
    "diamond": _angular([(0.5, 0), (1, 0.5), (0.5, 1), (0, 0.5)]),
    "star": _star(),
    "cross": _angular(np.array(_CROSS) / 3),
    "heart": _heart(),
    "arrow": _angular([(0, 0.3), (0.5, 0.3), (0.5, 0), (1, 0.5), (0.5, 1), (0.5, 0.7), (0, 0.7)]),
    "moon": _moon(),
}

_OVERSAMPLING = 4


def shape_mask(shape: ObjectShape, width: int, height: int) -> tuple[Float32s, Float32s]:
    """How much of each pixel of a box is inside the shape, and on its rim: [height, width]."""
    size = (width * _OVERSAMPLING, height * _OVERSAMPLING)
    points = [(x * size[0], y * size[1]) for x, y in shape.outline]
    inside, rim = Image.new("L", size), Image.new("L", size)
    ImageDraw.Draw(inside).polygon(points, fill=255)
    rim_width = max(_OVERSAMPLING * 2, round(0.08 * min(size)))
    ImageDraw.Draw(rim).line(
        [*points, points[0], points[1]], fill=255, width=rim_width, joint="curve"
    )
    covered, edge = (_shares(mask.reduce(_OVERSAMPLING)) for mask in (inside, rim))
    return covered, edge * covered


def _shares(mask: Image.Image) -> Float32s:
    return np.asarray(mask, dtype=np.float32) / np.float32(255)
