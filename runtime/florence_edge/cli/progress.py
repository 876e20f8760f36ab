"""The progress of a long run: one line on a terminal, a line each minute in a log; and its end."""

import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TextIO

from ..command import printable

Clock = Callable[[], float]

_CLEAR = "\r\033[K"
_SECONDS = 60.0  # between two lines of a log


def say_written(*things: str) -> None:
    """Say at the end of a run what it has left on the disk."""
    named = " and ".join(filter(None, (", ".join(things[:-1]), *things[-1:])))
    if named:
        with suppress(OSError):  # the terminal may be gone
            print(printable(f"florence-run: Wrote {named}."), file=sys.stderr, flush=True)


class StatusLine:
    """A line that replaces itself; in a stream that is not a terminal, a new line each minute."""

    def __init__(
        self, stream: TextIO | None = None, *, shown: bool = True, clock: Clock = time.monotonic
    ) -> None:
        self._stream = stream or sys.stderr
        self._replaces = self._stream.isatty()
        self._shown = shown
        self._clock = clock
        self._written = clock()

    def __enter__(self) -> "StatusLine":
        return self

    def __exit__(self, *_: object) -> None:
        self.clear()

    def show(self, text: str) -> None:
        """Put `text` in the place of what stands there."""
        if not self._shown:
            return
        if self._replaces:
            self._write(f"{_CLEAR}{printable(text)}")
        elif self._clock() >= self._written + _SECONDS:
            self._written = self._clock()
            self._write(f"{printable(text)}\n")

    def _write(self, text: str) -> None:
        with suppress(OSError):  # a terminal that is gone is no reason to stop
            self._stream.write(text)
            self._stream.flush()

    def clear(self) -> None:
        """Make room for other output."""
        if self._replaces:
            self.show("")


class Pace:
    """How many of `total` pictures are done, at which rate, and how long the rest will take."""

    def __init__(self, total: int, *, clock: Clock = time.monotonic) -> None:
        self._total = total
        self._done = 0
        self._clock = clock
        self._begin = clock()

    def after_one_more(self) -> str:
        """Such as `12/1000  3.41 images/s  4:50 left`."""
        self._done += 1
        took = self._clock() - self._begin
        if took <= 0:
            return f"{self._done}/{self._total}"
        rate = self._done / took
        left = round((self._total - self._done) / rate)
        minutes, seconds = divmod(left, 60)
        hours, minutes = divmod(minutes, 60)
        time_left = f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
        return f"{self._done}/{self._total}  {rate:.2f} images/s  {time_left} left"
