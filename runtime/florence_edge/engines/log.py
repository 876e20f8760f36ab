"""What TensorRT says, as Python's log levels: for building engines and for running them."""

import logging
from collections.abc import Callable
from typing import Any, TypeAlias

Hear: TypeAlias = Callable[[int, str], None]  # (level of the standard library, message)


def logger_of(trt: Any, hear: Hear) -> Any:
    """An ILogger that hands messages on; what TensorRT calls verbose is left out.

    TensorRT keeps it without keeping it alive, and the first of a process serves all later
    builders and runtimes: hold it as long as they live.
    """
    levels = {
        trt.ILogger.INTERNAL_ERROR: logging.CRITICAL,
        trt.ILogger.ERROR: logging.ERROR,
        trt.ILogger.WARNING: logging.WARNING,
        trt.ILogger.INFO: logging.DEBUG,  # TensorRT's INFO is a page a build
    }

    class Logger(trt.ILogger):  # type: ignore[misc]
        """The one class that TensorRT wants to have inherited from."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            """Called by TensorRT, from any of its threads."""
            if severity in levels:
                hear(levels[severity], message)

    return Logger()
