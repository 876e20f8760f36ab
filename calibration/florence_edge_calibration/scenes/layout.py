"""What a scene consists of, and where its things may stand.

Coordinates are whole numbers of 1/64 of the picture; corners of boxes stand on even ones. A coarse
grid makes truth exact at every picture size, and location tokens learnable by a small model.
"""

from dataclasses import dataclass

import numpy as np

from .shapes import COLOURS, SHAPES
from .words import WORDS, aspect_of

GRID = 64
_CELL = 2  # boxes are laid out in cells of 1/32 of the picture
_CELLS = GRID // _CELL

GridBox = tuple[int, int, int, int]  # x1, y1, x2, y2 in 1/GRID of the picture
GridPoint = tuple[int, int]

BACKGROUNDS: tuple[str, ...] = ("plain", "textured", "photographic")

_SIZES = {"small": (5, 8), "large": (9, 13)}  # longest side in cells, upper end excluded
_WORD_HEIGHTS = (4, 7)  # 12 to 19 % of the picture
_OBJECT_COUNTS = {1: 0.15, 2: 0.2, 3: 0.3, 4: 0.2, 5: 0.15}
_MAX_HIDDEN = 0.25  # of an object's box, by those in front of it
_PLACES_TRIED = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneObject:
    """A coloured shape; of two that overlap, the one of greater depth number is in front."""

    shape: str
    colour: str
    size: str
    box: GridBox
    depth: int

    @property
    def name(self) -> str:
        """Colour and shape, which no other object of the scene shares."""
        return f"{self.colour} {self.shape}"

    @property
    def description(self) -> str:
        """Size, colour and shape."""
        return f"{self.size} {self.name}"

    @property
    def polygon(self) -> tuple[GridPoint, ...]:
        """The corners, clockwise from the shape's first one."""
        x1, y1, x2, y2 = self.box
        corners = SHAPES[self.shape].corners
        xs = np.floor(x1 + corners[:, 0] * (x2 - x1) + 0.5).astype(int)
        ys = np.floor(y1 + corners[:, 1] * (y2 - y1) + 0.5).astype(int)
        return tuple(zip(xs.tolist(), ys.tolist(), strict=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneWord:
    """A printed word; its box is the outline of its ink."""

    text: str
    box: GridBox
    dark: bool
    plate: bool

    @property
    def quad(self) -> tuple[GridPoint, ...]:
        """The four corners, clockwise from the upper left one."""
        x1, y1, x2, y2 = self.box
        return ((x1, y1), (x2, y1), (x2, y2), (x1, y2))


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """Everything a picture shows: objects from left to right, words from top to bottom."""

    seed: int
    background: str
    noise: float  # standard deviation in grey levels of 255
    objects: tuple[SceneObject, ...]
    words: tuple[SceneWord, ...]

    @property
    def depth_order(self) -> tuple[SceneObject, ...]:
        """The objects from back to front."""
        return tuple(sorted(self.objects, key=lambda thing: thing.depth))


def draw_object_count(random: np.random.Generator) -> int:
    """Choose how many objects a scene has: 1 to 5, 3 on average."""
    return int(random.choice(list(_OBJECT_COUNTS), p=list(_OBJECT_COUNTS.values())))


def compose(seed: int, object_count: int, random: np.random.Generator) -> Scene:
    """Lay out a scene; tries again until everything has found its place."""
    while True:
        words = _place_words(1 + int(random.random() < 0.4), random)
        objects = _place_objects(object_count, [word.box for word in words], random)
        if objects is not None:
            return Scene(
                seed=seed,
                background=str(random.choice(BACKGROUNDS)),
                noise=float(random.uniform(0, 8)),
                objects=tuple(sorted(objects, key=lambda thing: thing.box)),
                words=tuple(sorted(words, key=lambda word: (word.box[1], word.box[0]))),
            )


def _place_words(count: int, random: np.random.Generator) -> list[SceneWord]:
    words: list[SceneWord] = []
    for text in random.choice(WORDS, size=count, replace=False):
        height = int(random.integers(*_WORD_HEIGHTS))
        width = round(aspect_of(str(text)) * height)
        if width > _CELLS - 2:
            height, width = _WORD_HEIGHTS[0], round(aspect_of(str(text)) * _WORD_HEIGHTS[0])
        for _ in range(_PLACES_TRIED):
            box = _random_box(width, height, random)
            if not any(_overlap(_grown(box), word.box) for word in words):
                dark, plate = (bool(flag) for flag in random.integers(0, 2, size=2))
                words.append(SceneWord(text=str(text), box=box, dark=dark, plate=plate))
                break
    return words


def _place_objects(
    count: int, occupied: list[GridBox], random: np.random.Generator
) -> list[SceneObject] | None:
    """Place objects clear of words, none hidden too much; None where one finds no place."""
    names = [(colour, shape) for colour in COLOURS for shape in SHAPES]
    objects: list[SceneObject] = []
    for depth, chosen in enumerate(random.choice(len(names), size=count, replace=False)):
        colour, shape = names[chosen]
        size = str(random.choice(list(_SIZES)))
        box = _free_box(shape, size, occupied, [thing.box for thing in objects], random)
        if box is None:
            return None
        objects.append(SceneObject(shape=shape, colour=colour, size=size, box=box, depth=depth))
    return objects


def _free_box(
    shape: str,
    size: str,
    occupied: list[GridBox],
    behind: list[GridBox],
    random: np.random.Generator,
) -> GridBox | None:
    longest = int(random.integers(*_SIZES[size]))
    sides = [
        longest,
        longest if SHAPES[shape].square else max(5, longest - int(random.integers(3))),
    ]
    if random.random() < 0.5:
        sides.reverse()
    for _ in range(_PLACES_TRIED):
        box = _random_box(sides[0], sides[1], random)
        clear = not any(_overlap(_grown(box), other) for other in occupied)
        if clear and all(_overlap(box, other) <= _MAX_HIDDEN * _area(other) for other in behind):
            return box
    return None


def _random_box(width: int, height: int, random: np.random.Generator) -> GridBox:
    x = int(random.integers(0, _CELLS - width + 1))
    y = int(random.integers(0, _CELLS - height + 1))
    return (x * _CELL, y * _CELL, (x + width) * _CELL, (y + height) * _CELL)


def _grown(box: GridBox) -> GridBox:
    return (box[0] - _CELL, box[1] - _CELL, box[2] + _CELL, box[3] + _CELL)


def _area(box: GridBox) -> int:
    return (box[2] - box[0]) * (box[3] - box[1])


def _overlap(one: GridBox, other: GridBox) -> int:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(0, width) * max(0, height)
