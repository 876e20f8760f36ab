"""What TensorRT says while it builds, as our events: its warnings and its progress."""

import logging
from typing import Any

from .job import Message, Progress, Tell

# The parser says so of every int64 input and output; they are int64 in the contract.
_EXPECTED = "has Int64 binding"


class Warnings:
    """Hands messages on, and keeps warnings and errors."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self.told: list[Message] = []

    def take(self, level: int, text: str) -> None:
        """One message of TensorRT's."""
        message = Message(logging.DEBUG if _EXPECTED in text else level, text)
        if message.level >= logging.WARNING:
            self.told.append(message)
        self._tell(message)

    def last_error(self) -> str:
        """The newest error, which is the one that ended a build."""
        errors = [message.text for message in self.told if message.level >= logging.ERROR]
        return errors[-1].strip().rstrip(".") if errors else "no reason given"


def monitor_of(trt: Any, graph: str, tell: Tell) -> Any:
    """An IProgressMonitor that tells of the outermost phase."""

    class Monitor(trt.IProgressMonitor):
        """TensorRT wants a subclass of its own class."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._steps: dict[str, int] = {}

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            """A phase begins; those with a parent are parts of it."""
            if parent is None:
                self._steps[phase] = steps
                tell(Progress(graph, 0, steps))

        def step_complete(self, phase: str, step: int) -> bool:
            """A step is done; False would stop the build."""
            if phase in self._steps:
                tell(Progress(graph, step + 1, self._steps[phase]))
            return True

        def phase_finish(self, phase: str) -> None:
            """A phase ends."""
            self._steps.pop(phase, None)

    return Monitor()
