"""Axes: round ticks and places on a drawing."""

import math
from dataclasses import dataclass

_STEPS = (1, 2, 5, 10)


def ticks(highest: float, count: int = 5) -> list[float]:
    """Round numbers from 0 to at least `highest`, some `count` of them."""
    if highest <= 0:
        return [0.0, 1.0]
    rough = highest / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in _STEPS if factor * power >= rough * (1 - 1e-9))
    return [step * place for place in range(math.ceil(highest / step - 1e-9) + 1)]


@dataclass(frozen=True, slots=True)
class Scale:
    """Values from 0 to `highest` on a line from `begin` to `end`, in pixels."""

    highest: float
    begin: float
    end: float

    def place(self, value: float) -> float:
        """Where a value lies."""
        return self.begin + (self.end - self.begin) * value / self.highest


def tick_text(value: float) -> str:
    """A tick's number without needless digits."""
    return f"{value:,.10g}"
