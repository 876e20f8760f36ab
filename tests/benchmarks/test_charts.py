"""What a reader relies on in a chart: all series, their values, round axes, nothing outside."""

import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from xml.etree import ElementTree

import pytest

pytest.importorskip("matplotlib")

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.transforms import Bbox, BboxBase

from florence_edge.errors import MissingPackageError
from florence_edge_benchmarks.report.charts import (
    Bar,
    BarChart,
    Chart,
    Line,
    LineChart,
    Mark,
    Marks,
    ScatterChart,
    figure_of,
    svg_of,
)

SYSTEMS = [f"int8 on cpu (bundle-{number})" for number in range(9)]
LONG = "fp32 on openvino, bf16 (/some/where/far/away/from/here/bundle)"


def bars(*names: str) -> BarChart:
    rows = [Bar(name, [1.0 + n, 30.0], f"{31 + n} ms") for n, name in enumerate(names)]
    return BarChart(["vision", "decoder"], rows, "milliseconds")


def lines(*names: str) -> LineChart:
    curves = [Line(name, [(0, 5), (50, 90 + n), (100, 180)]) for n, name in enumerate(names)]
    return LineChart(curves, "new tokens", "milliseconds until then")


def points(*names: str) -> ScatterChart:
    series = [
        Marks(name, [Mark(100 + n, 0.5, "1"), Mark(140 + n, 0.5 + 0.01 * n, "3")])
        for n, name in enumerate(names)
    ]
    return ScatterChart(series, "median milliseconds", "AP50:95")


ALL = [pytest.param(make, id=make.__name__) for make in (bars, lines, points)]


def legend_of(figure: Figure) -> list[str]:
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def drawn_lines(figure: Figure) -> list[Line2D]:
    return list(figure.axes[0].get_lines())


def values_of(line: Line2D) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in np.asarray(line.get_xydata())]


def shown_texts(figure: Figure) -> list[Text]:
    found = figure.findobj(Text)
    return [
        text for text in found if isinstance(text, Text) and text.get_text() and text.get_visible()
    ]


def box_of(text: Text) -> Bbox:
    return text.get_window_extent()


def is_inside(inner: BboxBase, outer: BboxBase) -> bool:
    return (
        inner.x0 >= outer.x0 - 1
        and inner.x1 <= outer.x1 + 1
        and inner.y0 >= outer.y0 - 1
        and inner.y1 <= outer.y1 + 1
    )


@pytest.mark.parametrize("make", [lines, points])
def test_every_system_is_in_the_legend_and_looks_like_nothing_else_there(
    make: Callable[..., Chart],
) -> None:
    figure = figure_of(make(*SYSTEMS))
    assert legend_of(figure) == SYSTEMS
    looks = {(line.get_color(), str(line.get_marker())) for line in drawn_lines(figure)}
    assert len(looks) == len(SYSTEMS)
    signs = [(line.get_color(), line.get_marker()) for line in figure.legends[0].get_lines()]
    assert signs == [(line.get_color(), line.get_marker()) for line in drawn_lines(figure)]


def test_parts_of_bars_have_a_legend_and_a_single_part_needs_none() -> None:
    assert legend_of(figure_of(bars("a", "b"))) == ["vision", "decoder"]
    assert legend_of(figure_of(BarChart(["memory"], [Bar("a", [1.0], "1 MB")], "MB"))) == []


def test_bars_are_as_long_as_their_values_and_one_follows_the_other() -> None:
    chart = BarChart(["one", "two"], [Bar("a", [1.0, 3.0], "4 ms"), Bar("b", [2.0, 0.0], "2 ms")],
                     "ms")  # fmt: skip
    axes = figure_of(chart).axes[0]
    one, two = (
        [(patch.get_x(), patch.get_width()) for patch in container] for container in axes.containers
    )
    assert one == [(0, 1), (0, 2)]
    assert two == [(1, 3), (2, 0)]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b"]
    assert axes.yaxis_inverted(), "the first bar is on top"
    assert [text.get_text() for text in axes.texts] == ["4 ms", "2 ms"]
    assert [text.xy for text in axes.texts] == [(4, 0), (2, 1)]  # type: ignore[attr-defined]


def test_lines_go_through_their_values() -> None:
    chart = LineChart([Line("a", [(0, 0), (10, 50), (20, 100)])], "tokens", "ms")
    (line,) = drawn_lines(figure_of(chart))
    assert values_of(line) == [(0, 0), (10, 50), (20, 100)]


def test_points_of_one_system_are_joined_in_their_order() -> None:
    series = [Marks("a", [Mark(2, 5, "3"), Mark(1, 3, "1")]), Marks("b", [Mark(3, 1)])]
    figure = figure_of(ScatterChart(series, "x", "y"))
    first, second = drawn_lines(figure)
    assert values_of(first) == [(2, 5), (1, 3)]
    assert values_of(second) == [(3, 1)]
    assert first.get_linestyle() == ":"
    assert first.get_marker() not in ("", "None", None)
    assert [line.get_linestyle() for line in figure.legends[0].get_lines()] == ["None", "None"]


@pytest.mark.parametrize(
    ("highest", "expected"),
    [
        (1.0, ["0", "0.2", "0.4", "0.6", "0.8", "1"]),
        (7.0, ["0", "2", "4", "6", "8"]),
        (123.0, ["0", "50", "100", "150"]),
        (25000.0, ["0", "5,000", "10,000", "15,000", "20,000", "25,000"]),
    ],
)
def test_axes_have_round_numbers_from_0_to_at_least_the_highest(
    highest: float, expected: list[str]
) -> None:
    axes = figure_of(LineChart([Line("a", [(0, 0), (1, highest)])], "x", "y")).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == expected
    low, high = axes.get_ylim()
    assert low == 0
    assert high >= highest


@pytest.mark.parametrize("highest", [0.0, 1e-6, 0.3, 0.7, 3.14, 99.9, 1e9])
def test_ticks_are_neither_many_nor_few(highest: float) -> None:
    axes = figure_of(LineChart([Line("a", [(0, 0), (1, highest)])], "x", "y")).axes[0]
    assert 2 <= len(axes.get_yticks()) <= 7
    assert axes.get_ylim()[1] >= highest * (1 - 1e-9)


def test_an_axis_begins_at_0_unless_all_points_lie_far_above_it() -> None:
    def limits(*values: float) -> tuple[float, float]:
        marks = [Mark(1.0, value) for value in values]
        return figure_of(ScatterChart([Marks("a", marks)], "x", "y")).axes[0].get_ylim()

    assert limits(0.3, 0.8)[0] == limits(0.8, 0.8)[0] == limits(0.8)[0] == 0
    assert limits(0.774, 0.797) == pytest.approx((0.77, 0.8), abs=0.006)


def test_points_that_lie_close_together_use_the_whole_drawing() -> None:
    chart = ScatterChart([Marks("a", [Mark(100, 0.790), Mark(104, 0.800)])], "x", "y")
    axes = figure_of(chart).axes[0]
    (x1, y1), (x2, y2) = axes.transData.transform([(100, 0.790), (104, 0.800)])
    assert x2 - x1 > axes.bbox.width / 2
    assert y2 - y1 > axes.bbox.height / 2


@pytest.mark.parametrize("make", ALL)
@pytest.mark.parametrize("names", [SYSTEMS, [LONG, "fp32 on cpu"], ["x" * 80], ["a"]])
def test_all_text_is_inside_and_none_covers_another(
    make: Callable[..., Chart], names: Sequence[str]
) -> None:
    figure = figure_of(make(*names))
    figure.draw_without_rendering()
    texts = shown_texts(figure)
    assert {"milliseconds", "milliseconds until then", "AP50:95"} & {t.get_text() for t in texts}
    boxes = [(text.get_text(), box_of(text)) for text in texts]
    page = figure.bbox
    assert not [name for name, box in boxes if not is_inside(box, page)]
    for number, (name, box) in enumerate(boxes):
        smaller = box.padded(-0.5)
        assert not [other for other, b in boxes[number + 1 :] if smaller.overlaps(b)], name


def test_text_is_large_enough_on_700_pixels() -> None:
    figure = figure_of(points(*SYSTEMS))
    pixels_a_point = 700 / (figure.get_figwidth() * 72)
    assert min(float(text.get_fontsize()) for text in shown_texts(figure)) * pixels_a_point >= 9


@pytest.mark.parametrize("apart", [0.0, 0.5, 5.0])
def test_words_cover_no_point_and_no_other_word(apart: float) -> None:
    marks = [Mark(50 + apart * number, 1.0, str(number)) for number in range(8)]
    figure = figure_of(ScatterChart([Marks("a", [Mark(0, 0, "far"), *marks])], "x", "y"))
    figure.draw_without_rendering()
    axes = figure.axes[0]
    words = {text.get_text(): box_of(text) for text in axes.texts}
    assert "far" in words
    if apart == 5.0:
        assert len(words) == 9
    half = drawn_lines(figure)[0].get_markersize() / 2 * figure.dpi / 72 - 1
    signs = [
        Bbox.from_extents(x - half, y - half, x + half, y + half)
        for x, y in axes.transData.transform([(mark.x, mark.y) for mark in marks])
    ]
    boxes = list(words.values())
    ticks = [box_of(label) for label in (*axes.get_xticklabels(), *axes.get_yticklabels())]
    for number, box in enumerate(boxes):
        assert not any(map(box.overlaps, [*boxes[:number], *boxes[number + 1 :], *signs, *ticks]))


def test_a_name_that_is_too_long_for_a_bar_loses_its_middle() -> None:
    labels = [
        label.get_text() for label in figure_of(bars(LONG, "short")).axes[0].get_yticklabels()
    ]
    assert labels[1] == "short"
    assert re.fullmatch(r"fp32 on openvi[^…]*…[^…]*here/bundle\)", labels[0])


@pytest.mark.parametrize("make", ALL)
def test_svg_has_the_names_as_text_and_needs_nothing_from_outside(
    make: Callable[..., Chart],
) -> None:
    chart: Chart = make("<a> & b", "other")
    svg = svg_of(chart)
    texts = [element.text for element in ElementTree.fromstring(svg).iter()]
    assert "<a> & b" in texts
    assert svg.startswith("<svg ")
    assert svg.endswith("</svg>")
    for outside in ("url(", "http://purl", "<metadata", "<image"):
        assert outside not in svg
    defined = set(re.findall(r'\bid="([^"]+)"', svg))
    assert set(re.findall(r'href="#([^"]+)"', svg)) <= defined


@pytest.mark.parametrize("make", ALL)
def test_equal_charts_give_equal_bytes_whatever_the_users_settings(
    make: Callable[..., Chart],
) -> None:
    chart: Chart = make("a", "b")
    first = svg_of(chart)
    with matplotlib.rc_context({"font.size": 30, "svg.fonttype": "path", "lines.linewidth": 9}):
        assert svg_of(chart) == first
        assert matplotlib.rcParams["font.size"] == 30, "the user's settings are left alone"


def test_drawing_opens_no_window_and_no_global_figure() -> None:
    program = (
        "import sys; from florence_edge_benchmarks.report.charts import *; "
        "svg_of(BarChart(['a'], [Bar('a', [1.0], '1')], 'MB')); "
        "print('matplotlib.pyplot' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert done.stdout == "False\n"


def test_without_matplotlib_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingPackageError, match=r"pip install .*\[bench\]"):
        svg_of(bars("a"))
