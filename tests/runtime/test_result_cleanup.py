"""`Result.clean`: what slips of a model leave in regions is taken out, and nothing else is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from florence_edge.results.result import Result, TokenPiece, read_answer
from florence_edge.tasks import TASKS, find_task

SIZE = (1000, 1000)  # a location is a pixel


def answer(task: str, text: str) -> Result:
    return read_answer(find_task(task), [TokenPiece(5, text, -1.0)], image_size=SIZE)


def locations(*numbers: int) -> str:
    return "".join(f"<loc_{number}>" for number in numbers)


def kept(result: Result) -> list[tuple[str, tuple[float, ...]]]:
    return [(region.label, region.rings[0]) for region in result.clean().regions]


def test_what_is_in_order_stays_as_it_is() -> None:
    result = answer("OD", f"a car < 3 <b>{locations(1, 2, 30, 40)}")
    assert [region.label for region in result.regions] == ["b>"]  # the original's own reading
    assert result.clean() == result


@pytest.mark.parametrize(
    "corners", [(5, 6, 5, 60), (5, 6, 50, 6), (5, 6, 5, 6)], ids=["no width", "no height", "a dot"]
)
def test_a_box_without_an_area_goes(corners: tuple[int, ...]) -> None:
    result = answer("OD", f"car{locations(*corners)}bus{locations(1, 2, 30, 40)}")
    assert len(result.regions) == 2
    assert kept(result) == [("bus", (1, 2, 30, 40))]


def test_a_box_whose_label_is_a_location_goes() -> None:
    """One location too many at the front: the first becomes the label, and the box is shifted."""
    result = answer("OD", locations(1, 2, 30, 40, 50))
    assert [region.label for region in result.regions] == ["loc_1>"]
    assert kept(result) == []


def test_a_label_loses_the_location_that_strayed_into_it() -> None:
    quad = (10, 10, 90, 10, 90, 40, 10, 40)
    result = answer("OCR_WITH_REGION", f"STOP{locations(*quad)}{locations(7)}GO{locations(*quad)}")
    assert [region.label for region in result.regions] == ["STOP", "<loc_7>GO"]
    assert kept(result) == [("STOP", quad), ("GO", quad)]


def test_rings_without_an_area_go_and_their_region_with_the_last() -> None:
    triangle, line = locations(1, 1, 50, 1, 1, 50), locations(3, 3, 9, 9)
    result = answer("REFERRING_EXPRESSION_SEGMENTATION", f"{triangle}<sep>{line}")
    assert [len(region.rings) for region in result.regions] == [2]
    assert [region.rings for region in result.clean().regions] == [((1, 1, 50, 1, 1, 50),)]
    assert kept(answer("REFERRING_EXPRESSION_SEGMENTATION", line)) == []


def test_a_quad_whose_sides_cross_stays() -> None:
    """Its area by the shoelace formula is 0, and the word is there."""
    quad = (10, 10, 90, 10, 10, 40, 90, 40)
    result = answer("OCR_WITH_REGION", f"STOP{locations(*quad)}GO{locations(*quad[:4] * 2)}")
    assert result.regions[0].area == 0
    assert kept(result) == [("STOP", quad)]


def test_what_the_model_said_stays() -> None:
    result = answer("OD", f"car{locations(5, 6, 5, 60)}")
    cleaned = result.clean()
    assert (cleaned.raw_text, cleaned.status) == (result.raw_text, "ok")
    assert cleaned.to_hf() == {"<OD>": {"bboxes": [], "labels": []}}


PARTS = st.sampled_from(
    ["car", "STOP 12", "<loc_7>", "<loc_90>", "<sep>", "<poly>", "</poly>", "<"]
)


@given(st.sampled_from(sorted(TASKS)), st.lists(PARTS, max_size=40))
def test_cleaned_regions_have_an_area_and_no_token_and_cleaning_twice_is_once(
    task: str, parts: list[str]
) -> None:
    result = answer(task, "".join(parts)).clean()
    for region in result.regions:
        left, top, right, bottom = region.box
        assert left < right
        assert top < bottom
        assert "loc_" not in region.label
    assert result.clean() == result
