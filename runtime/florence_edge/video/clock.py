"""The times of frames, which only grow, whatever the clock does that they were read from."""

import math
from collections import deque
from statistics import median

_SPACINGS = 15  # so many last ones say how far apart frames are
_REORDERED = 0.5  # seconds: frames that fall back by less are out of order, not behind a seam


class FrameClock:
    """Seconds that grow from frame to frame.

    A clock that falls back, as where two recordings were joined, goes on at the spacing that
    frames had before; so does one that leaps ahead by more than `longest_gap` seconds. A frame
    without a time of its own is one spacing later than the one before it.
    """

    def __init__(self, spacing: float, *, longest_gap: float = math.inf) -> None:
        self._spacing = spacing
        self._longest_gap = longest_gap
        self._spacings: deque[float] = deque(maxlen=_SPACINGS)
        self._read: float | None = None  # the last time that a frame carried
        self._given: float | None = None
        self._shift = 0.0

    def next(self, time: float | None) -> float:
        """When the next frame is; `time` in seconds is what it carries, None where it has none."""
        if time is not None and math.isfinite(time):
            self._note(time)
            given = time + self._shift
        else:
            given = 0.0 if self._given is None else -math.inf
        if self._given is not None and given <= self._given:
            given = self._given + self._between()
        self._given = given
        return given

    def _note(self, time: float) -> None:
        """Learn the spacing; at a seam, shift what follows to where the frames before ended."""
        before, self._read = self._read, time
        if before is None or self._given is None:
            return
        if not -_REORDERED <= time - before <= self._longest_gap:
            self._shift = self._given + self._between() - time
        elif time > before:
            self._spacings.append(time - before)

    def _between(self) -> float:
        return median(self._spacings) if self._spacings else self._spacing
