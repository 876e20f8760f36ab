"""When to stop an answer before its end: its time is up, or nobody wants it any more."""

import math
import time
from collections.abc import Callable
from threading import Event

Stop = Callable[[], bool]


def never() -> bool:
    """Let every answer come to its end."""
    return False


def stop_after(
    max_time: float | None,
    cancel: Event | None,
    *,
    clock: Callable[[], float] = time.monotonic,
) -> Stop:
    """Whether `max_time` seconds have passed since this call, or `cancel` is set.

    None for either means that it stops nothing.
    """
    deadline = math.inf if max_time is None else clock() + max_time
    return lambda: (cancel is not None and cancel.is_set()) or clock() > deadline
