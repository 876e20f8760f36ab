"""How far a run is: pictures, their rate, the time that is left, failures."""

import time
from collections.abc import Callable

Clock = Callable[[], float]


class Progress:
    """Counts pictures as shards are done; those of an earlier run count, but not for the rate."""

    def __init__(self, total: int, done: int, *, clock: Clock = time.monotonic) -> None:
        self.failed = 0
        """Pictures of this run with an error."""
        self._total = total
        self._before = self._done = done
        self._clock = clock
        self._begin = clock()

    def add(self, pictures: int, failed: int) -> None:
        """A shard is done."""
        self._done += pictures
        self.failed += failed

    @property
    def answered(self) -> int:
        """Pictures of this run."""
        return self._done - self._before

    @property
    def rate(self) -> float:
        """Pictures a second, since the workers were told to start; 0 before the first."""
        took = self._clock() - self._begin
        return self.answered / took if took > 0 else 0.0

    def __str__(self) -> str:
        """`1,200/126,000,000 pictures  812.30 pictures/s  43:05:12 left  3 failed`."""
        parts = [f"{self._done:,}/{self._total:,} pictures"]
        if self.rate:
            left = round((self._total - self._done) / self.rate)
            parts += [f"{self.rate:.2f} pictures/s", f"{_clock_time(left)} left"]
        if self.failed:
            parts.append(f"{self.failed:,} failed")
        return "  ".join(parts)


def _clock_time(seconds: int) -> str:
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
