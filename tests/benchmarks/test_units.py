import pytest

from florence_edge_benchmarks.report import units


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
