"""One line on the terminal that says how far a long run has got."""

import sys
import time
from collections.abc import Callable
from typing import TextIO

_CLEAR = "\r\033[K"


class StatusLine:
    """A line that replaces itself; where the stream is no terminal, it is not written."""

    def __init__(self, stream: TextIO | None = None, *, wanted: bool = True) -> None:
        self._stream = stream or sys.stderr
        self._visible = wanted and self._stream.isatty()

    def __enter__(self) -> "StatusLine":
        return self

    def __exit__(self, *_: object) -> None:
        self.clear()

    def show(self, text: str) -> None:
        """Put `text` in the place of what stands there."""
        if self._visible:
            self._stream.write(f"{_CLEAR}{text}")
            self._stream.flush()

    def clear(self) -> None:
        """Make room for other output."""
        self.show("")


class Pace:
    """How many of `total` pictures are done, at what rate, and how long the rest will take."""

    def __init__(self, total: int, *, clock: Callable[[], float] = time.monotonic) -> None:
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
