"""What plots are drawn of: text, lines, grids, legends and colours, as SVG."""

from collections.abc import Callable, Sequence
from html import escape

from .scales import Scale, tick_text, ticks

# Okabe and Ito's colours, which the colour-blind can tell apart.
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#8C8C8C", "#B8A000")
WIDTH = 860
LETTER = 7.2  # pixels a letter takes, about
_LEGEND_ROW = 20
_HIGH = 260  # pixels of an axis that goes up

Sign = Callable[[int, float, float], str]
"""Draws what stands for a number of a legend, its left end and middle given."""


def svg(height: float, drawn: Sequence[str]) -> str:
    """A whole drawing."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" '
        f'width="{WIDTH}" height="{height:.0f}" role="img" font-family="sans-serif" '
        f'font-size="13" fill="#1a1a1a">{"".join(drawn)}</svg>'
    )


def text(x: float, y: float, said: str, *, anchor: str = "start") -> str:
    """A line of text; `y` is its base."""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(said)}</text>'


def upright_grid(marks: Sequence[float], scale: Scale, top: float, bottom: float, name: str) -> str:
    """Lines upwards from an axis with its numbers and its name."""
    drawn = []
    for mark in marks:
        x = scale.place(mark)
        drawn.append(_line(x, top, x, bottom))
        drawn.append(text(x, bottom + 16, tick_text(mark), anchor="middle"))
    drawn.append(text((scale.begin + scale.end) / 2, bottom + 33, name, anchor="middle"))
    return "".join(drawn)


def axes(
    points: Sequence[tuple[float, float]],
    top: float,
    names: tuple[str, str],
    begins: tuple[float, float] = (0, 0),
) -> tuple[list[str], Scale, Scale]:
    """A grid for points, and where its values lie.

    Args:
        points: what is to be drawn.
        top: where the grid begins.
        names: of the axes, across and up.
        begins: the lowest values of the axes.
    """
    x_marks = ticks(max((x for x, _ in points), default=0), 8, lowest=begins[0])
    y_marks = ticks(max((y for _, y in points), default=0), lowest=begins[1])
    x_scale = Scale(x_marks[-1], 70, WIDTH - 30, x_marks[0])
    y_scale = Scale(y_marks[-1], top + _HIGH, top, y_marks[0])
    drawn = [upright_grid(x_marks, x_scale, top, y_scale.begin, names[0])]
    for mark in y_marks:
        y = y_scale.place(mark)
        drawn.append(_line(x_scale.begin, y, x_scale.end, y))
        drawn.append(text(x_scale.begin - 8, y + 4, tick_text(mark), anchor="end"))
    drawn.append(text(8, top - 13, names[1]))
    return drawn, x_scale, y_scale


def legend(names: Sequence[str], sign: Sign, wide: float) -> tuple[str, int]:
    """Names in rows, each behind its sign `wide` pixels; and how high the rows are."""
    drawn, x, y = [], 8.0, 4
    for number, name in enumerate(names):
        width = wide + 10 + len(name) * LETTER
        if x + width > WIDTH and x > 8:
            x, y = 8.0, y + _LEGEND_ROW
        drawn.append(sign(number, x, y + 6) + text(x + wide + 5, y + 11, name))
        x += width + 12
    return "".join(drawn), y + _LEGEND_ROW + 4 if names else 6


def polyline(
    points: Sequence[tuple[float, float]], number: int, *, width: float, dashes: str
) -> str:
    """A line through places on the drawing, in the colour of a series."""
    places = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return (
        f'<polyline points="{places}" fill="none" stroke="{colour(number)}" '
        f'stroke-width="{width:g}" stroke-dasharray="{dashes}"/>'
    )


def colour(number: int) -> str:
    """The colour of a series."""
    return _COLOURS[number % len(_COLOURS)]


def _line(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="#ddd"/>'
