"""Charts of a report: horizontal bars, lines and points, drawn by matplotlib as SVG.

A chart is a value that says what is drawn; `figure_of` draws it and `svg_of` gives it as the text
of an SVG element. Equal charts give equal bytes. matplotlib is needed for drawing alone.
"""

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import StringIO
from typing import TYPE_CHECKING, Any

from florence_edge.errors import MissingPackageError
from florence_edge.extras import pip_install

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure
    from matplotlib.legend import Legend

# Okabe and Ito's colours, which the colour-blind can tell apart.
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#8C8C8C", "#B8A000")
# Numbers of markers and of colours share no factor, so that a pair comes again after 56 series.
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_DASHES: tuple[Any, ...] = ("-", (0, (7, 3)), (0, (2, 2)), (0, (9, 3, 2, 3)))
_MARKER_SIZE = 7.0  # points
_STEPS = (1, 2, 5, 10)  # ticks are multiples of these

# Inches; a point is 1/72 of one, and 4/3 pixels of a page.
_WIDTH = 7.8
_AXES_HEIGHT = 2.7
_BAR_HEIGHT, _BARS_MARGIN = 0.27, 0.6  # of a row of bars, and of the axis below them
_LEGEND_ROW = 0.2
_NAME_LETTERS = 34  # of a name beside bars; a longer one loses its middle

_STYLE: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.size": 9.0,
    "text.color": "#1a1a1a",
    "axes.labelcolor": "#1a1a1a",
    "axes.edgecolor": "#999999",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "legend.frameon": False,
    "legend.handlelength": 2.6,
    "svg.fonttype": "none",  # text stays text: it can be searched, and read aloud
    "svg.hashsalt": "florence-edge",  # else every drawing names its parts by chance
}


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar of several parts, in the order of the chart's legend, and a number at its end."""

    name: str
    parts: Sequence[float]
    text: str


@dataclass(frozen=True, slots=True)
class BarChart:
    """Horizontal bars under each other; a single part needs no legend."""

    parts: Sequence[str]
    bars: Sequence[Bar]
    unit: str


@dataclass(frozen=True, slots=True)
class Line:
    """A line through points."""

    name: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class LineChart:
    """Lines over axes that begin at 0."""

    lines: Sequence[Line]
    x_name: str
    y_name: str


@dataclass(frozen=True, slots=True)
class Mark:
    """A point, and a short word that tells it apart from others of its series; may be empty."""

    x: float
    y: float
    word: str = ""


@dataclass(frozen=True, slots=True)
class Marks:
    """The points of one system, in the order in which a line joins them."""

    name: str
    marks: Sequence[Mark]


@dataclass(frozen=True, slots=True)
class ScatterChart:
    """Points; an axis begins at 0 unless all of them lie far above it."""

    series: Sequence[Marks]
    x_name: str
    y_name: str


Chart = BarChart | LineChart | ScatterChart


def svg_of(chart: Chart) -> str:
    """The chart as an `<svg>` element, to stand in a page of HTML.

    Raises:
        MissingPackageError: matplotlib is not installed.
    """
    figure, text = figure_of(chart), StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with _style():
        figure.savefig(text, format="svg", metadata=nothing)
    _, begin, rest = text.getvalue().partition("<svg ")
    # Several drawings share a page: names such as `axes_1` would be there more than once.
    named = re.sub(r'<g id="[^"]*">', "<g>", rest)
    return f'{begin}role="img" {named}'.strip()


def figure_of(chart: Chart) -> "Figure":
    """The chart as a drawn figure of matplotlib, which belongs to no window and no `pyplot`.

    Raises:
        MissingPackageError: matplotlib is not installed.
    """
    with _style():
        if isinstance(chart, BarChart):
            figure = _bars(chart)
        elif isinstance(chart, LineChart):
            figure = _lines(chart)
        else:
            figure = _points(chart)
        for artist in figure.findobj():
            artist.set_clip_on(False)  # nothing lies outside; else each SVG names clip paths
    return figure


@contextmanager
def _style() -> Iterator[None]:
    """Our settings over matplotlib's own, whatever the user's matplotlibrc says."""
    try:
        from matplotlib import style
    except ImportError as error:
        raise MissingPackageError(
            "Charts are drawn by matplotlib, which is not installed. Write the report as "
            f"Markdown, which has none, or install it with: {pip_install('bench')}"
        ) from error
    with style.context(["default", _STYLE]):
        yield


def _new_figure(height: float) -> "tuple[Figure, Axes]":
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    FigureCanvasSVG(figure)
    return figure, figure.add_subplot()


def _bars(chart: BarChart) -> "Figure":
    figure, axes = _new_figure(_BARS_MARGIN + _BAR_HEIGHT * len(chart.bars))
    places = range(len(chart.bars))
    reached = [0.0] * len(chart.bars)
    for number, part in enumerate(chart.parts):
        widths = [bar.parts[number] for bar in chart.bars]
        axes.barh(
            places, widths, left=reached, height=0.7, label=part,
            color=_colour(number), edgecolor="white", linewidth=0.5,
        )  # fmt: skip
        reached = [left + width for left, width in zip(reached, widths, strict=True)]
    for place, bar, end in zip(places, chart.bars, reached, strict=True):
        axes.annotate(
            bar.text, (end, place), xytext=(4, 0), textcoords="offset points", va="center"
        )
    axes.set_yticks(places, [_fitting(bar.name) for bar in chart.bars])
    axes.set_ylim(len(chart.bars) - 0.4, -0.6)  # the first on top
    axes.tick_params(axis="y", length=0)
    _round_axis(axes.xaxis, 0, max(reached, default=0))
    axes.grid(axis="x")
    axes.set_xlabel(chart.unit)
    if len(chart.parts) > 1:
        _add_legend(figure, axes)
    return figure


def _lines(chart: LineChart) -> "Figure":
    figure, axes = _new_figure(_AXES_HEIGHT)
    for number, line in enumerate(chart.lines):
        apart = max(1, len(line.points) // 8)
        axes.plot(
            [x for x, _ in line.points],
            [y for _, y in line.points],
            label=line.name,
            color=_colour(number),
            linestyle=_DASHES[number % len(_DASHES)],
            linewidth=1.6,
            marker=_MARKERS[number % len(_MARKERS)],
            markersize=_MARKER_SIZE - 2,
            markevery=(number * apart // max(1, len(chart.lines)), apart),  # not on each other
        )
    every = [point for line in chart.lines for point in line.points]
    _round_axis(axes.xaxis, 0, max((x for x, _ in every), default=0))
    _round_axis(axes.yaxis, 0, max((y for _, y in every), default=0), count=5)
    _name_axes(axes, chart.x_name, chart.y_name)
    _add_legend(figure, axes)
    return figure


def _points(chart: ScatterChart) -> "Figure":
    figure, axes = _new_figure(_AXES_HEIGHT)
    for number, series in enumerate(chart.series):
        axes.plot(
            [mark.x for mark in series.marks],
            [mark.y for mark in series.marks],
            label=series.name,
            color=_colour(number),
            linestyle=":",
            linewidth=1.0,
            marker=_MARKERS[number % len(_MARKERS)],
            markersize=_MARKER_SIZE,
            markeredgecolor="white",
            markeredgewidth=0.5,
        )
    every = [mark for series in chart.series for mark in series.marks]
    for axis, count, values in (
        (axes.xaxis, 8, [mark.x for mark in every]),
        (axes.yaxis, 5, [mark.y for mark in every]),
    ):
        _round_axis(axis, _beginning(values), max(values, default=0), count=count)
    _name_axes(axes, chart.x_name, chart.y_name)
    legend = _add_legend(figure, axes)
    for line in legend.get_lines():
        line.set_linestyle("")
    _add_words(figure, axes, every)
    return figure


def _beginning(values: Sequence[float]) -> float:
    """Where an axis may begin: at 0, unless all values lie together far above it."""
    low, high = min(values, default=0), max(values, default=0)
    return low if high / 2 < low < high else 0


def _round_axis(axis: "Axis", lowest: float, highest: float, *, count: int = 8) -> None:
    """Let an axis begin and end on a round tick, with at most `count` steps between them."""
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    high = highest if highest > lowest else lowest + 1
    ticks = MaxNLocator(count, steps=_STEPS).tick_values(lowest, high)
    axis.set_ticks(ticks)
    axis.set_major_formatter(StrMethodFormatter("{x:,.10g}"))
    axis.set_view_interval(ticks[0], ticks[-1], ignore=True)


def _name_axes(axes: "Axes", x_name: str, y_name: str) -> None:
    axes.grid()
    axes.set_xlabel(x_name)
    axes.set_title(y_name, loc="left", fontsize="medium")  # upright, it would take half the width


def _add_legend(figure: "Figure", axes: "Axes") -> "Legend":
    """A legend above the axes, in as many columns as the figure is wide, and room for it."""
    count = max(1, len(axes.get_legend_handles_labels()[1]))
    for rows in range(1, count + 1):
        legend = figure.legend(
            loc="outside upper left",
            ncols=math.ceil(count / rows),
            borderpad=0.1,
            columnspacing=1.4,
        )
        if rows == count or legend.get_window_extent().width <= figure.bbox.width:
            break
        legend.remove()
    figure.set_figheight(figure.get_figheight() + _LEGEND_ROW * rows)
    return legend


def _add_words(figure: "Figure", axes: "Axes", marks: Sequence[Mark]) -> None:
    """Words beside their points; one that would cover a point or another word is left out."""
    figure.draw_without_rendering()  # now points have their places
    from matplotlib.transforms import Bbox

    radius = _MARKER_SIZE / 2 * figure.dpi / 72
    taken = []
    for mark in marks:
        x, y = axes.transData.transform((mark.x, mark.y))
        taken.append(Bbox.from_extents(x - radius, y - radius, x + radius, y + radius))
    gap = _MARKER_SIZE / 2 + 2
    room = axes.bbox.padded(5)  # pixels, to the numbers of the axes
    sides = ((0, gap, "center", "bottom"), (0, -gap, "center", "top"),
             (gap, 0, "left", "center"), (-gap, 0, "right", "center"))  # fmt: skip
    for mark in (mark for mark in marks if mark.word):
        for across, up, horizontal, vertical in sides:
            word = axes.annotate(
                mark.word, (mark.x, mark.y), xytext=(across, up), textcoords="offset points",
                ha=horizontal, va=vertical, fontsize="small", in_layout=False,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5},  # over the line
            )  # fmt: skip
            box = word.get_window_extent()
            inside = room.contains(*box.min) and room.contains(*box.max)
            if inside and not any(map(box.overlaps, taken)):
                taken.append(box)
                break
            word.remove()


def _fitting(name: str) -> str:
    """The name, without its middle where it is too long."""
    if len(name) <= _NAME_LETTERS:
        return name
    half = _NAME_LETTERS // 2
    return f"{name[: half - 1]}…{name[half - _NAME_LETTERS :]}"


def _colour(number: int) -> str:
    return _COLOURS[number % len(_COLOURS)]
