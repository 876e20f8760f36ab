import pytest

from florence_edge_benchmarks.summary import median_by_position, percentile, ratios


def test_percentiles_are_interpolated() -> None:
    assert percentile([1, 2, 3, 4], 50) == 2.5
    assert percentile([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11], 90) == 10


def test_ratios_are_taken_round_by_round() -> None:
    """The machine was busy in the second round: both took twice as long, the ratio stays."""
    spread = ratios(of=[2.0, 4.0, 2.1], to=[1.0, 2.0, 1.0])
    assert [spread.median, spread.low, spread.high] == pytest.approx([2.0, 2.0, 2.1])


def test_ratios_need_the_same_rounds() -> None:
    with pytest.raises(ValueError, match="zip"):
        ratios(of=[1.0], to=[1.0, 2.0])


def test_the_median_of_a_position_is_of_the_rows_that_reach_it() -> None:
    assert median_by_position([[1, 2], [3, 4, 9], [5, 6]]) == [3, 4, 9]
    assert median_by_position([]) == []
