"""Plots as inline SVG: bars and lines, drawn by hand to stay small."""

from collections.abc import Sequence
from dataclasses import dataclass

from .drawing import LETTER, WIDTH, axes, colour, legend, polyline, svg, text, upright_grid
from .scales import Scale, ticks

_LEFT = 250  # room for the names of bars
_RIGHT = 90  # room for the number at a bar's end
_BAR, _GAP = 18, 8


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar of several parts, by the names of the legend."""

    name: str
    parts: Sequence[float]
    text: str


@dataclass(frozen=True, slots=True)
class Series:
    """A line through points."""

    name: str
    points: Sequence[tuple[float, float]]


def bars(parts: Sequence[str], rows: Sequence[Bar], unit: str) -> str:
    """Horizontal bars; with one part there is no legend."""
    named, top = legend(parts if len(parts) > 1 else [], _box, 12)
    marks = ticks(max((sum(row.parts) for row in rows), default=0))
    scale = Scale(marks[-1], _LEFT, WIDTH - _RIGHT)
    bottom = top + len(rows) * (_BAR + _GAP)
    drawn = [named, upright_grid(marks, scale, top, bottom, unit)]
    for number, row in enumerate(rows):
        y, reached = top + number * (_BAR + _GAP), 0.0
        drawn.append(text(_LEFT - 8, y + 13, _fitting(row.name, _LEFT - 8), anchor="end"))
        for part, value in enumerate(row.parts):
            x, reached = scale.place(reached), reached + value
            width = scale.place(reached) - x
            drawn.append(
                f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{_BAR}" '
                f'fill="{colour(part)}" stroke="#fff" stroke-width="0.6"/>'
            )
        drawn.append(text(scale.place(reached) + 6, y + 13, row.text))
    return svg(bottom + 40, drawn)


def lines(series: Sequence[Series], x_name: str, y_name: str) -> str:
    """Lines over numbers that begin at 0."""
    named, top = legend([each.name for each in series], _stroke, 24)
    every = [point for each in series for point in each.points]
    drawn, x_scale, y_scale = axes(every, top + 24, (x_name, y_name))
    for number, each in enumerate(series):
        places = [(x_scale.place(x), y_scale.place(y)) for x, y in each.points]
        drawn.append(polyline(places, number, width=2, dashes=_dashes(number)))
    return svg(y_scale.begin + 48, [named, *drawn])


def _box(number: int, x: float, y: float) -> str:
    return (
        f'<line x1="{x:.1f}" y1="{y:.0f}" x2="{x + 12:.1f}" y2="{y:.0f}" '
        f'stroke="{colour(number)}" stroke-width="12" stroke-dasharray="none"/>'
    )


def _stroke(number: int, x: float, y: float) -> str:
    return (
        f'<line x1="{x:.1f}" y1="{y:.0f}" x2="{x + 24:.1f}" y2="{y:.0f}" '
        f'stroke="{colour(number)}" stroke-width="2" stroke-dasharray="{_dashes(number)}"/>'
    )


def _fitting(name: str, width: float) -> str:
    """The name, without its middle where it is too long."""
    most = int(width / LETTER)
    return name if len(name) <= most else f"{name[: most // 2 - 1]}…{name[-(most - most // 2) :]}"


def _dashes(number: int) -> str:
    """Lines beyond the colours, and on grey paper, are told apart by their dashes."""
    return ("none", "7 3", "2 3", "9 3 2 3")[number % 4]
