import re
from xml.etree import ElementTree

import pytest

from florence_edge_benchmarks.report import units
from florence_edge_benchmarks.report.plots import Bar, Series, bars, lines
from florence_edge_benchmarks.report.scales import Scale, beginning, tick_text, ticks
from florence_edge_benchmarks.report.scatter import Mark, Marks, scatter


@pytest.mark.parametrize(
    ("highest", "expected"),
    [
        (1.0, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (7.0, [0, 2, 4, 6, 8]),
        (0.0, [0, 1]),
        (123, [0, 50, 100, 150]),
    ],
)
def test_ticks_are_round_and_reach_the_highest(highest: float, expected: list[float]) -> None:
    assert ticks(highest) == pytest.approx(expected)


@pytest.mark.parametrize("highest", [1e-6, 0.3, 0.7, 3.14, 99.9, 1e9])
def test_ticks_are_neither_many_nor_few(highest: float) -> None:
    found = ticks(highest)
    assert 3 <= len(found) <= 7
    assert found[-1] >= highest * (1 - 1e-9)


def test_a_scale_places_values_between_its_ends() -> None:
    scale = Scale(50, 100, 200)
    assert [scale.place(value) for value in (0, 25, 50)] == [100, 150, 200]
    assert tick_text(0.30000000000000004) == "0.3"
    assert tick_text(25000) == "25,000"


def test_an_axis_begins_at_0_unless_all_values_lie_far_above_it() -> None:
    assert beginning([0.3, 0.8]) == beginning([0.8, 0.8]) == beginning([]) == 0
    assert beginning([0.774, 0.797]) == 0.774
    marks = ticks(0.797, lowest=0.774)
    assert marks == pytest.approx([0.77, 0.775, 0.78, 0.785, 0.79, 0.795, 0.8])
    scale = Scale(0.8, 300, 100, 0.77)
    assert [scale.place(value) for value in (0.77, 0.785, 0.8)] == pytest.approx([300, 200, 100])


def test_bars_are_as_long_as_their_values() -> None:
    svg = bars(["one", "two"], [Bar("a", [1.0, 3.0], "4 ms"), Bar("b", [2.0, 0.0], "2 ms")], "ms")
    widths = [float(width) for width in re.findall(r'<rect [^>]*? width="([\d.]+)"', svg)]
    assert widths[1] == pytest.approx(3 * widths[0], abs=0.3)
    assert widths[2] == pytest.approx(2 * widths[0], abs=0.3)
    assert widths[3] == 0


def test_names_are_escaped() -> None:
    for svg in (
        bars(["x"], [Bar("<a> & b", [1.0], "1")], "ms"),
        lines([Series("<a> & b", [(0, 0), (1, 1)])], "x", "y"),
        scatter([Marks("<a> & b", [Mark(1, 1)])], "x", "y"),
    ):
        texts = [element.text for element in ElementTree.fromstring(svg).iter()]
        assert "<a> & b" in texts


def test_lines_rise_with_their_values() -> None:
    svg = lines([Series("a", [(0, 0), (10, 50), (20, 100)])], "tokens", "ms")
    (placed,) = re.findall(r'<polyline points="([^"]+)"', svg)
    pairs = [tuple(map(float, point.split(","))) for point in placed.split()]
    assert pairs[0][0] < pairs[1][0] < pairs[2][0]
    assert pairs[0][1] > pairs[1][1] > pairs[2][1], "up is less in SVG"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "-"), (2.345, "2.35 s"), (0.4123, "412 ms"), (0.0123, "12.3 ms"), (0.00052, "520 µs")],
)
def test_durations_have_three_digits(seconds: float | None, text: str) -> None:
    assert units.duration(seconds) == text


def test_sizes_are_of_a_million_bytes() -> None:
    assert [units.size(count) for count in (None, 3_450_000, 1_234_567_890)] == [
        "-", "3.5 MB", "1,235 MB"
    ]  # fmt: skip


def test_a_name_that_is_too_long_loses_its_middle() -> None:
    name = "fp32 on openvino, bf16 (/some/where/far/away/from/here/bundle)"
    svg = bars(["one"], [Bar(name, [1.0], "1"), Bar("short", [1.0], "1")], "ms")
    assert name not in svg
    assert re.search(r">fp32 on openvi[^<]*…[^<]*here/bundle\)<", svg)
    assert ">short<" in svg
