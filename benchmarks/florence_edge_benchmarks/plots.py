"""Plots as inline SVG: bars, lines and points, drawn by hand to stay small."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from .scales import Scale, tick_text, ticks

# Okabe and Ito's colours, which the colour-blind can tell apart.
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#8C8C8C", "#B8A000")
_WIDTH = 860
_LEFT = 250  # room for the names of bars
_RIGHT = 90  # room for the number at a bar's end
_BAR, _GAP = 18, 8
_LETTER = 7.2  # pixels a letter takes, about
_LEGEND_ROW = 20


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
    legend, top = _legend(parts if len(parts) > 1 else [])
    marks = ticks(max((sum(row.parts) for row in rows), default=0))
    scale = Scale(marks[-1], _LEFT, _WIDTH - _RIGHT)
    bottom = top + len(rows) * (_BAR + _GAP)
    drawn = [legend, _upright_grid(marks, scale, top, bottom, unit)]
    for number, row in enumerate(rows):
        y, reached = top + number * (_BAR + _GAP), 0.0
        drawn.append(_text(_LEFT - 8, y + 13, _fitting(row.name, _LEFT - 8), anchor="end"))
        for part, value in enumerate(row.parts):
            x, reached = scale.place(reached), reached + value
            width = scale.place(reached) - x
            drawn.append(
                f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{_BAR}" '
                f'fill="{_colour(part)}" stroke="#fff" stroke-width="0.6"/>'
            )
        drawn.append(_text(scale.place(reached) + 6, y + 13, row.text))
    return _svg(bottom + 40, drawn)


def lines(series: Sequence[Series], x_name: str, y_name: str) -> str:
    """Lines over numbers that begin at 0."""
    legend, top = _legend([each.name for each in series], dashed=True)
    drawn, x_scale, y_scale = _axes(series, top + 24, x_name, y_name)
    for number, each in enumerate(series):
        points = " ".join(f"{x_scale.place(x):.1f},{y_scale.place(y):.1f}" for x, y in each.points)
        drawn.append(
            f'<polyline points="{points}" fill="none" stroke="{_colour(number)}" '
            f'stroke-width="2" stroke-dasharray="{_dashes(number)}"/>'
        )
    return _svg(y_scale.begin + 48, [legend, *drawn])


def points(series: Sequence[Series], x_name: str, y_name: str) -> str:
    """Points with their names beside them."""
    drawn, x_scale, y_scale = _axes(series, 24, x_name, y_name)
    for number, each in enumerate(series):
        for x, y in each.points:
            left, up = x_scale.place(x), y_scale.place(y)
            drawn.append(f'<circle cx="{left:.1f}" cy="{up:.1f}" r="5" fill="{_colour(number)}"/>')
            far = left > _WIDTH * 0.7
            drawn.append(
                _text(
                    left + (-9 if far else 9), up + 4, each.name, anchor="end" if far else "start"
                )
            )
    return _svg(y_scale.begin + 48, drawn)


def _axes(
    series: Sequence[Series], top: float, x_name: str, y_name: str
) -> tuple[list[str], Scale, Scale]:
    x_marks = ticks(max((x for each in series for x, _ in each.points), default=0), 8)
    y_marks = ticks(max((y for each in series for _, y in each.points), default=0))
    x_scale = Scale(x_marks[-1], 70, _WIDTH - 30)
    y_scale = Scale(y_marks[-1], top + 260, top)
    drawn = [_upright_grid(x_marks, x_scale, top, y_scale.begin, x_name)]
    for mark in y_marks:
        y = y_scale.place(mark)
        drawn.append(_line(x_scale.begin, y, x_scale.end, y))
        drawn.append(_text(x_scale.begin - 8, y + 4, tick_text(mark), anchor="end"))
    drawn.append(_text(8, top - 10, y_name))
    return drawn, x_scale, y_scale


def _upright_grid(
    marks: Sequence[float], scale: Scale, top: float, bottom: float, name: str
) -> str:
    drawn = []
    for mark in marks:
        x = scale.place(mark)
        drawn.append(_line(x, top, x, bottom))
        drawn.append(_text(x, bottom + 16, tick_text(mark), anchor="middle"))
    drawn.append(_text((scale.begin + scale.end) / 2, bottom + 33, name, anchor="middle"))
    return "".join(drawn)


def _legend(names: Sequence[str], *, dashed: bool = False) -> tuple[str, int]:
    """Names in rows, each behind its colour or its line; and how high the rows are."""
    drawn, x, y = [], 8.0, 4
    for number, name in enumerate(names):
        width = 34 + len(name) * _LETTER
        if x + width > _WIDTH and x > 8:
            x, y = 8.0, y + _LEGEND_ROW
        stroke, dashes = (2, _dashes(number)) if dashed else (12, "none")
        drawn.append(
            f'<line x1="{x:.1f}" y1="{y + 6}" x2="{x + (24 if dashed else 12):.1f}" y2="{y + 6}" '
            f'stroke="{_colour(number)}" stroke-width="{stroke}" stroke-dasharray="{dashes}"/>'
            + _text(x + (29 if dashed else 17), y + 11, name)
        )
        x += width + 12
    return "".join(drawn), y + _LEGEND_ROW + 4 if names else 6


def _svg(height: float, drawn: Sequence[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height:.0f}" '
        f'width="{_WIDTH}" height="{height:.0f}" role="img" font-family="sans-serif" '
        f'font-size="13" fill="#1a1a1a">{"".join(drawn)}</svg>'
    )


def _text(x: float, y: float, text: str, *, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="#ddd"/>'


def _fitting(name: str, width: float) -> str:
    """The name, without its middle where it is too long."""
    most = int(width / _LETTER)
    return name if len(name) <= most else f"{name[: most // 2 - 1]}…{name[-(most - most // 2) :]}"


def _colour(number: int) -> str:
    return _COLOURS[number % len(_COLOURS)]


def _dashes(number: int) -> str:
    """Lines beyond the colours, and on grey paper, are told apart by their dashes."""
    return ("none", "7 3", "2 3", "9 3 2 3")[number % 4]
