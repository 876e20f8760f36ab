import re

import pytest

from florence_edge_benchmarks.report.scatter import Mark, Marks, scatter

_TEXT = re.compile(r'<text x="([\d.]+)" y="([\d.]+)" text-anchor="(\w+)">([^<]*)</text>')
_SIGN = re.compile(r'<path d="([^"]+)" transform="translate\(([\d.]+) ([\d.]+)\)" fill="([^"]+)"')


def signs(svg: str) -> list[tuple[str, float, float, str]]:
    return [(shape, float(x), float(y), fill) for shape, x, y, fill in _SIGN.findall(svg)]


def words(svg: str) -> list[tuple[float, float, str]]:
    """Words at points, which alone have a halo."""
    halos = "".join(re.findall(r"<g [^>]*paint-order[^>]*>(.*?)</g>", svg))
    return [(float(x), float(y), said) for x, y, _, said in _TEXT.findall(halos)]


def test_names_stand_in_a_legend_and_not_at_the_points() -> None:
    names = [f"int8 on cpu ({number})" for number in range(9)]
    svg = scatter(
        [Marks(name, [Mark(20 + 0.1 * n, 0.8)]) for n, name in enumerate(names)], "x", "y"
    )
    found = signs(svg)
    legend, points = found[: len(names)], found[len(names) :]
    assert len(points) == len(names)
    lowest_of_legend = max(y for _, _, y, _ in legend)
    assert all(y > lowest_of_legend + 20 for _, _, y, _ in points)
    places = {said: float(y) for _, y, _, said in _TEXT.findall(svg)}
    assert all(places[name] <= lowest_of_legend + 6 for name in names)
    kinds = [(shape, fill) for shape, _, _, fill in legend]
    assert kinds == [(shape, fill) for shape, _, _, fill in points]
    assert len(set(kinds)) == len(names), "told apart without their colours or without their shapes"


def test_points_that_lie_close_together_use_the_whole_drawing() -> None:
    svg = scatter([Marks("a", [Mark(100, 0.790), Mark(104, 0.800)])], "x", "y")
    *_, (_, x1, y1, _), (_, x2, y2, _) = signs(svg)
    assert x2 - x1 > 400
    assert y1 - y2 > 150


def test_points_of_one_system_are_joined_in_their_order() -> None:
    svg = scatter(
        [Marks("a", [Mark(1, 3, "1"), Mark(2, 5, "3")]), Marks("b", [Mark(3, 1)])], "x", "y"
    )
    (joined,) = re.findall(r'<polyline points="([^"]+)"', svg)
    _, _, *points = signs(svg)
    places = " ".join(f"{x:.1f},{y:.1f}" for _, x, y, _ in points[:2])
    assert joined == places


@pytest.mark.parametrize("apart", [0.0, 0.5, 5.0])
def test_words_cover_no_sign_and_no_other_word(apart: float) -> None:
    marks = [Mark(50 + apart * number, 1.0, str(number)) for number in range(8)]
    svg = scatter([Marks("a", [Mark(0, 0, "far"), *marks])], "x", "y")
    _, *points = signs(svg)
    placed = words(svg)
    assert "far" in [said for _, _, said in placed]
    if apart == 5.0:
        assert len(placed) == 9
    boxes = [(x - 3.6 * len(said), y - 9, x + 3.6 * len(said), y) for x, y, said in placed]
    boxes += {(x - 6, y - 6, x + 6, y + 6) for _, x, y, _ in points} if apart == 5.0 else set()
    for number, one in enumerate(boxes):
        for other in boxes[number + 1 :]:
            across = one[0] < other[2] and other[0] < one[2]
            assert not (across and one[1] < other[3] and other[1] < one[3])
