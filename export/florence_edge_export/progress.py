"""Lines in the log about long work."""

import logging
import time
from collections.abc import Callable

logger = logging.getLogger(__name__)

_SILENCE = 15.0  # seconds at most between two lines


def log_progress(
    what: str, unit: str = "pictures", clock: Callable[[], float] = time.monotonic
) -> Callable[[int, int], None]:
    """Say in the log now and then how far it is, and how long the rest will take.

    The rest is told by the mean so far, in minutes.
    """
    begun = said = clock()

    def progress(done: int, count: int) -> None:
        nonlocal said
        now = clock()
        if done < count and now - said < _SILENCE:
            return
        said = now
        left = (now - begun) / done * (count - done) / 60
        rest = f", about {max(1, round(left))} min left" if done < count else ""
        logger.info("%s: %d of %d %s%s", what, done, count, unit, rest)

    return progress
