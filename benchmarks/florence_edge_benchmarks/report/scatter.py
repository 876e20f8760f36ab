"""A plot of points: every system has a sign of its own, and small words tell its points apart."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

from .drawing import LETTER, WIDTH, axes, colour, legend, polyline, svg, text
from .scales import beginning

_RADIUS = 6
_LETTER_HIGH = 12  # pixels
# Around a middle of 0, 0: a circle, and shapes that are told apart on grey paper, too.
_SHAPES = (
    "M-6 0a6 6 0 1 0 12 0a6 6 0 1 0-12 0z",
    "M-5.5-5.5h11v11h-11z",
    "M0-7.5L7 5H-7z",
    "M0-8L8 0L0 8L-8 0z",
    "M0 7.5L7-5H-7z",
    "M-2-6h4v4h4v4h-4v4h-4v-4h-4v-4h4z",
)


@dataclass(frozen=True, slots=True)
class Mark:
    """A point, and what tells it apart from others of its series; may be empty."""

    x: float
    y: float
    word: str = ""


@dataclass(frozen=True, slots=True)
class Marks:
    """The points of one system, in the order in which a line joins them."""

    name: str
    marks: Sequence[Mark]


@dataclass(frozen=True, slots=True)
class _Box:
    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: "_Box") -> bool:
        """Whether the two overlap."""
        across = self.left < other.right and other.left < self.right
        return across and self.top < other.bottom and other.top < self.bottom


def scatter(series: Sequence[Marks], x_name: str, y_name: str) -> str:
    """Points under a legend; an axis begins at 0 unless all points lie far above it."""
    named, top = legend([each.name for each in series], lambda n, x, y: _sign(n, x + 8, y), 16)
    every = [(mark.x, mark.y) for each in series for mark in each.marks]
    begins = (beginning([x for x, _ in every]), beginning([y for _, y in every]))
    drawn, x_scale, y_scale = axes(every, top + 24, (x_name, y_name), begins)
    placed = [
        [(x_scale.place(mark.x), y_scale.place(mark.y)) for mark in each.marks] for each in series
    ]
    for number, places in enumerate(placed):
        if len(places) > 1:
            drawn.append(polyline(places, number, width=1.2, dashes="3 3"))
    drawn += [_sign(number, *place) for number, places in enumerate(placed) for place in places]
    words = [mark.word for each in series for mark in each.marks]
    drawn += _words(list(zip(chain(*placed), words, strict=True)))
    return svg(y_scale.begin + 48, [named, *drawn])


def _sign(number: int, x: float, y: float) -> str:
    return (
        f'<path d="{_SHAPES[number % len(_SHAPES)]}" transform="translate({x:.1f} {y:.1f})" '
        f'fill="{colour(number)}" stroke="#fff"/>'
    )


def _words(points: Sequence[tuple[tuple[float, float], str]]) -> Iterator[str]:
    """Words beside their points; one that would cover a sign or another word is left out."""
    r = _RADIUS + 1
    taken = [_Box(x - r, y - r, x + r, y + r) for (x, y), _ in points]
    for (x, y), word in points:
        for box in _places(x, y, len(word) * LETTER) if word else ():
            if box.right <= WIDTH and not any(map(box.meets, taken)):
                taken.append(box)
                said = text((box.left + box.right) / 2, box.bottom - 2, word, anchor="middle")
                yield f'<g stroke="#fff" stroke-width="3" paint-order="stroke">{said}</g>'
                break


def _places(x: float, y: float, wide: float) -> list[_Box]:
    """Where a word may stand: above its point, below, right or left."""
    corners = ((x - wide / 2, y - 21), (x - wide / 2, y + 9), (x + 9, y - 6), (x - 9 - wide, y - 6))
    return [_Box(left, top, left + wide, top + _LETTER_HIGH) for left, top in corners]
