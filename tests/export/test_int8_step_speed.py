"""Whether int4 is said to be faster than int8: only where three of four steps were."""

from typing import Any

import pytest

from florence_edge_export.quantization import gate
from florence_edge_export.quantization.gate import StepSpeed, compare_steps


class Clocked:
    """A model of which each decoder's steps take the given seconds, over and over."""

    def __init__(self, *seconds: float) -> None:
        self.seconds = seconds


@pytest.fixture
def clocked(monkeypatch: pytest.MonkeyPatch) -> None:
    def steps(model: Any, _: int) -> Any:
        return iter(model.seconds * 40)

    monkeypatch.setattr(gate, "_open_decoder", steps)
    monkeypatch.setattr(gate, "_step", lambda decoder, _: next(decoder))


@pytest.mark.usefixtures("clocked")
def test_a_step_that_is_mostly_faster_is_faster() -> None:
    found = compare_steps(Clocked(2.0, 2.0, 2.0, 2.0, 0.5), Clocked(1.0))  # type: ignore[arg-type]
    assert found["greedy"] == found["3 beams"] == StepSpeed(2.0, (2.0, 2.0))
    assert found["greedy"].faster
    assert str(found["greedy"]) == "2.00 times (2.00 to 2.00)"


@pytest.mark.usefixtures("clocked")
def test_a_median_that_noise_can_give_is_not_faster() -> None:
    found = compare_steps(Clocked(0.7, 1.1, 1.1), Clocked(1.0))  # type: ignore[arg-type]
    assert found["greedy"].ratio == 1.1
    assert not found["greedy"].faster
