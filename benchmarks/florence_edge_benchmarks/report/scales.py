"""Axes: round ticks and places on a drawing."""

import math
from dataclasses import dataclass

_STEPS = (1, 2, 5, 10)


def ticks(highest: float, count: int = 5, *, lowest: float = 0) -> list[float]:
    """Round numbers from at most `lowest` to at least `highest`, some `count` of them."""
    if highest <= lowest:
        return [lowest, lowest + 1.0]
    rough = (highest - lowest) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in _STEPS if factor * power >= rough * (1 - 1e-9))
    first, last = math.floor(lowest / step + 1e-9), math.ceil(highest / step - 1e-9)
    return [step * place for place in range(first, last + 1)]


def beginning(values: list[float]) -> float:
    """Where an axis may begin: at 0, unless all values lie together far above it."""
    low, high = min(values, default=0), max(values, default=0)
    return low if high / 2 < low < high else 0


@dataclass(frozen=True, slots=True)
class Scale:
    """Values from `lowest` to `highest` on a line from `begin` to `end`, in pixels."""

    highest: float
    begin: float
    end: float
    lowest: float = 0

    def place(self, value: float) -> float:
        """Where a value lies."""
        share = (value - self.lowest) / (self.highest - self.lowest)
        return self.begin + (self.end - self.begin) * share


def tick_text(value: float) -> str:
    """A tick's number without needless digits."""
    return f"{value:,.10g}"
