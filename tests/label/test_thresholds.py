"""Least scores by class, and doubles."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from florence_edge import Region, RequestError
from florence_edge_label.thresholds import Thresholds, without_doubles

from .conftest import box


def test_scores_hold_by_class_and_else_for_all() -> None:
    kept = Thresholds.parse("0.3,Helmet=0.5", None).apply(
        [
            box("helmet", 0, 0, 9, 9, 0.4),
            box("person", 0, 0, 9, 9, 0.4),
            box("person", 0, 0, 9, 9, 0.2),
        ]
    )
    assert [(each.label, each.score) for each in kept] == [("person", 0.4)]


@pytest.mark.parametrize("text", ["x", "0.3,=0.5", "helmet=", "2", "-0.1", "a=1.5", "nan"])
def test_what_is_not_a_score_is_refused(text: str) -> None:
    with pytest.raises(RequestError):
        Thresholds.parse(text, None)


def test_of_doubles_of_a_class_the_better_one_stays() -> None:
    doubles = [
        box("person", 0, 0, 10, 10, 0.5),
        box("Person ", 1, 0, 11, 10, 0.9),
        box("helmet", 0, 0, 10, 10, 0.1),
        box("person", 20, 20, 30, 30, 0.2),
    ]
    assert without_doubles(doubles, 0.5) == doubles[1:]
    assert without_doubles(doubles, 1.0) == doubles


def test_outlines_are_doubles_by_the_boxes_around_them() -> None:
    polygon = Region(label="a", shape="polygon", rings=((0, 0, 10, 0, 10, 10),), score=0.9)
    assert without_doubles([box("a", 0, 0, 10, 10, 0.5), polygon], 0.5) == [polygon]


boxes = st.builds(
    lambda label, left, top, width, height, score: box(
        label, left, top, left + width, top + height, score
    ),
    st.sampled_from("ab"),
    *(st.integers(0, 20),) * 2,
    *(st.integers(0, 15),) * 2,
    st.sampled_from((0.1, 0.5, 0.5, 0.9)),
)


def iou(one: Region, other: Region) -> float:
    (a, b, c, d), (e, f, g, h) = one.box, other.box
    both = max(0, min(c, g) - max(a, e)) * max(0, min(d, h) - max(b, f))
    union = (c - a) * (d - b) + (g - e) * (h - f) - both
    return both / union if union else 0.0


@settings(max_examples=40)
@given(st.lists(boxes, max_size=12), st.sampled_from((0.0, 0.3, 0.5, 0.9)))
def test_no_double_is_left_and_none_is_lost(regions: list[Region], most: float) -> None:
    """By definition: what is kept overlaps with nothing kept, what went with something better."""
    kept = without_doubles(regions, most)
    for place, one in enumerate(kept):
        assert all(iou(one, o) <= most for o in kept[place + 1 :] if o.label == one.label)
    for gone in regions:
        if gone not in kept:
            better = (k for k in kept if k.label == gone.label and k.score >= gone.score)
            assert any(iou(gone, k) > most for k in better)
