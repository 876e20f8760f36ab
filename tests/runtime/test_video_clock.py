"""Times that only grow, whatever the clock does that they are read from."""

import math
from collections.abc import Iterable

import pytest

from florence_edge.video.clock import FrameClock


def given(times: Iterable[float | None], **how: float) -> list[float]:
    clock = FrameClock(**{"spacing": 0.1, **how})
    return [clock.next(time) for time in times]


def test_times_that_grow_stay_as_they_are() -> None:
    times = [0.0, 0.04, 0.5, 7.0, 7.04, 3600.0]
    assert given(times) == times


def test_a_clock_that_falls_back_goes_on_at_the_spacing_that_it_had() -> None:
    times = [10.0, 10.04, 10.08, 2.0, 2.04, 2.08, 9.0]
    expected = [10.0, 10.04, 10.08, 10.12, 10.16, 10.2, 17.12]
    assert given(times) == pytest.approx(expected)


def test_a_file_that_is_played_in_a_loop_is_as_long_as_its_rounds() -> None:
    rounds = [n / 10 for n in range(5)] * 4
    assert given(rounds) == pytest.approx([n / 10 for n in range(20)])


def test_a_leap_is_a_gap_unless_gaps_have_a_longest() -> None:
    times = [0.0, 0.2, 0.4, 95443.7, 95443.9]
    assert given(times) == times
    assert given(times, longest_gap=10.0) == pytest.approx([0.0, 0.2, 0.4, 0.6, 0.8])


def test_frames_out_of_order_or_of_one_time_do_not_shift_those_behind_them() -> None:
    assert given([0.0, 0.1, 0.1, 0.4, 0.5]) == pytest.approx([0.0, 0.1, 0.2, 0.4, 0.5])
    assert given([0.0, 0.2, 0.1, 0.6, 0.8]) == pytest.approx([0.0, 0.2, 0.4, 0.6, 0.8])


def test_frames_without_a_time_are_one_spacing_apart() -> None:
    assert given([None, None, None]) == pytest.approx([0.0, 0.1, 0.2])
    assert given([1.0, None, 1.5, math.nan]) == pytest.approx([1.0, 1.1, 1.5, 2.0])
    assert given([math.inf, 0.05]) == pytest.approx([0.0, 0.05])


def test_two_seams_in_a_row() -> None:
    times = [5.0, 5.1, 3.0, 1.0, 1.1]
    assert given(times) == pytest.approx([5.0, 5.1, 5.2, 5.3, 5.4])
