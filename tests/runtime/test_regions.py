import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from florence_edge.errors import RequestError
from florence_edge.regions import (
    Region,
    RelativeBox,
    box_of_locations,
    check_region,
    dequantize,
    is_location_text,
    location_tokens,
)

from ..helpers.thorough import examples

SIZE = (640, 480)


def bins_of(tokens: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", tokens)]


def test_a_box_becomes_the_four_bins_that_it_lies_in() -> None:
    tokens = location_tokens((34, 160, 597, 371), SIZE)
    assert tokens == "<loc_53><loc_333><loc_932><loc_772>"


def test_location_tokens_become_a_box_again() -> None:
    tokens = location_tokens((34, 160, 597, 371), SIZE)
    assert box_of_locations(tokens, SIZE, "native") == (34, 160, 596, 370)
    assert box_of_locations("a red car", SIZE, "native") is None
    assert box_of_locations("<loc_1><loc_2><loc_3>", SIZE, "native") is None


def test_the_far_edges_of_the_picture_fall_into_the_last_bin() -> None:
    assert location_tokens((0, 0, 640, 480), SIZE) == "<loc_0><loc_0><loc_999><loc_999>"


def test_a_box_may_be_a_numpy_array() -> None:
    box = np.array([0.5, 0.5, 639.5, 479.5], dtype=np.float32)
    assert location_tokens(box.tolist(), SIZE) == location_tokens(tuple(box), SIZE)


@pytest.mark.parametrize(
    ("box", "what_to_do"),
    [
        ((-1, 0, 10, 10), "Clip it"),
        ((0, 0, 641, 10), "Clip it"),
        ((0, 0, 10, 480.5), "Clip it"),
        ((10, 0, 10, 10), "give the left, top, right and bottom"),
        ((10, 10, 20, 5), "give the left, top, right and bottom"),
        ((0, 0, float("nan"), 10), r"give \(x1, y1, x2, y2\)"),
        ((0, 0, float("inf"), 10), r"give \(x1, y1, x2, y2\)"),
        ((0, 0, 10), r"give \(x1, y1, x2, y2\)"),
        ((0, 0, 10, 10, 10), r"give \(x1, y1, x2, y2\)"),
        ("0,0,10,10", r"give \(x1, y1, x2, y2\)"),
        ((0, 0, None, 10), r"give \(x1, y1, x2, y2\)"),
        (7, r"give \(x1, y1, x2, y2\)"),
    ],
)
def test_an_impossible_region_is_refused_with_what_to_do(box: Any, what_to_do: str) -> None:
    with pytest.raises(RequestError, match=what_to_do):
        location_tokens(box, SIZE)


def test_a_region_in_fractions_is_the_same_as_in_pixels() -> None:
    relative = RelativeBox(0.1, 0.2, 0.5, 0.6)
    assert location_tokens(relative, SIZE) == location_tokens((64, 96, 320, 288), SIZE)
    assert location_tokens(RelativeBox(0, 0, 1, 1), SIZE) == location_tokens((0, 0, 640, 480), SIZE)
    assert check_region(relative) == (0.1, 0.2, 0.5, 0.6)


@pytest.mark.parametrize("fractions", [(0.1, 0.2, 0.5, 0.6), (0, 0, 1, 1), (0.5, 0, 1.0, 0.25)])
def test_fractions_that_are_given_as_pixels_are_refused_with_both_ways(
    fractions: tuple[float, ...],
) -> None:
    with pytest.raises(RequestError, match="seems to be in fractions of the picture") as refusal:
        check_region(fractions)
    numbers = ", ".join(f"{number:g}" for number in fractions)
    percent = ",".join(f"{100 * number:g}%" for number in fractions)
    assert f"RelativeBox({numbers})" in str(refusal.value)
    assert f"--region {percent}" in str(refusal.value)


def test_two_pixels_are_a_region() -> None:
    assert check_region((0, 0, 2, 1)) == (0, 0, 2, 1)


@pytest.mark.parametrize(
    ("box", "message"),
    [
        (RelativeBox(0, 0, 1.01, 1), "fractions go from 0 to 1"),
        (RelativeBox(10, 20, 200, 180), "fractions go from 0 to 1"),
        (RelativeBox(0.5, 0, 0.5, 1), "has no area"),
        (RelativeBox(-0.1, 0, 0.5, 1), "leaves the picture"),
        (RelativeBox(float("nan"), 0, 1, 1), "is not a region"),
    ],
)
def test_an_impossible_region_in_fractions_is_refused(box: RelativeBox, message: str) -> None:
    for check in (check_region, lambda region: location_tokens(region, SIZE)):
        with pytest.raises(RequestError, match=message):
            check(box)


@settings(max_examples=examples(300), derandomize=True, deadline=None, database=None)
@given(
    image_size=st.tuples(st.integers(1, 9000), st.integers(1, 9000)),
    corners=st.tuples(*[st.floats(0, 1)] * 4),
)
def test_a_round_trip_is_exact_to_one_bin(
    image_size: tuple[int, int], corners: tuple[float, float, float, float]
) -> None:
    width, height = image_size
    (left, right), (top, bottom) = sorted(corners[0::2]), sorted(corners[1::2])
    box = (left * width, top * height, right * width, bottom * height)
    if box[0] == box[2] or box[1] == box[3]:
        return
    bins = bins_of(location_tokens(box, image_size))
    back = dequantize(bins, image_size, "microsoft")
    for before, after, side in zip(box, back, (width, height, width, height), strict=True):
        assert abs(before - after) <= 0.501 * side / 1000
    for whole, fractional in zip(dequantize(bins, image_size, "native"), back, strict=True):
        assert whole == int(fractional)


def test_native_coordinates_are_whole_numbers_and_microsofts_are_single_precision() -> None:
    native = dequantize((53, 333, 932, 772), SIZE, "native")
    assert native == (34, 160, 596, 370)
    assert {type(number) for number in native} == {int}
    microsoft = dequantize((53, 333), SIZE, "microsoft")
    assert microsoft == (34.23999786376953, 160.0800018310547)


def test_no_bins_are_no_coordinates() -> None:
    assert dequantize((), SIZE, "native") == ()


@pytest.mark.parametrize(
    ("text", "is_region"),
    [
        ("<loc_0><loc_10><loc_999><loc_5>", True),
        (" <loc_0><loc_1><loc_2><loc_3>\n", True),
        ("<loc_0><loc_1><loc_2>", False),
        ("<loc_0><loc_1><loc_2><loc_3><loc_4>", False),
        ("<loc_0><loc_1><loc_2><loc_1000>", False),
        ("<loc_0><loc_1><loc_2><loc_03>", False),
        ("car<loc_0><loc_1><loc_2><loc_3>", False),
        ("", False),
    ],
)
def test_four_location_tokens_are_recognised_as_a_region(text: str, is_region: bool) -> None:
    assert is_location_text(text) is is_region


def test_the_box_of_a_region_is_upright_around_all_its_rings() -> None:
    region = Region(label="", shape="polygon", rings=((5, 9, 1, 2, 3, 3), (), (7, 4)), score=1)
    assert region.box == (1, 2, 7, 9)


def test_the_box_of_a_region_without_a_point_is_empty() -> None:
    assert Region(label="", shape="polygon", rings=((),), score=1).box == (0, 0, 0, 0)
