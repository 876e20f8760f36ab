"""Many timings as few numbers: percentiles, and ratios taken round by round."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """The middle of some numbers and how far they reach."""

    median: float
    low: float
    high: float


def percentile(values: Sequence[float], percent: float) -> float:
    """The value that `percent` of them do not exceed, interpolated."""
    return float(np.percentile(np.asarray(values, dtype=np.float64), percent))


def ratios(of: Sequence[float], to: Sequence[float]) -> Spread:
    """`of` divided by `to` round by round: median, lowest and highest.

    With times of a baseline and of a system it says how many times faster the system is.
    """
    each = [one / other for one, other in zip(of, to, strict=True)]
    return Spread(median=percentile(each, 50), low=min(each), high=max(each))


def median_by_position(rows: Sequence[Sequence[float]]) -> list[float]:
    """The median of every column; rows that end earlier take no part in the later ones."""
    longest = max(map(len, rows), default=0)
    return [
        percentile([row[place] for row in rows if place < len(row)], 50) for place in range(longest)
    ]
