"""Complaints that do not flood a log, however often something goes wrong."""

import time
from collections.abc import Callable

_PAUSE = 10.0  # seconds between two complaints


class Complaints:
    """Says what goes wrong, at most once in ten seconds; what was held back is counted.

    What lasts is said once: the same text again is told only after `settled`.
    """

    def __init__(
        self, say: Callable[[str], None], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._say = say
        self._clock = clock
        self._last = ""
        self._next = -float("inf")
        self._held = 0

    def about(self, text: str) -> bool:
        """Say it, or hold it back; whether it was said."""
        if text == self._last:
            return False
        now = self._clock()
        if now < self._next:
            self._held += 1
            return False
        held = f" (and {self._held} other complaints since the last one)" if self._held else ""
        self._last, self._next, self._held = text, now + _PAUSE, 0
        self._say(text + held)
        return True

    def settled(self) -> None:
        """All is well again: should it go wrong as before, that is news."""
        self._last = ""
