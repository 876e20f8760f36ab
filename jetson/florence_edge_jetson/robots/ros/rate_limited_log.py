"""A log that is not flooded, however often something goes wrong."""

import time
from collections.abc import Callable

_PAUSE = 10.0  # seconds between two messages


class RateLimitedLog:
    """Logs at most one message in ten seconds; those that were held back are counted.

    A message that repeats is logged once, and again only after `reset`.
    """

    def __init__(
        self, log: Callable[[str], None], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._log = log
        self._clock = clock
        self._last = ""
        self._next = -float("inf")
        self._held = 0

    def message(self, text: str) -> bool:
        """Log it, or hold it back; whether it was logged."""
        if text == self._last:
            return False
        now = self._clock()
        if now < self._next:
            self._held += 1
            return False
        held = f" (and {self._held} other messages since the last one)" if self._held else ""
        self._last, self._next, self._held = text, now + _PAUSE, 0
        self._log(text + held)
        return True

    def reset(self) -> None:
        """All is well again: should it go wrong as before, it is logged anew."""
        self._last = ""
