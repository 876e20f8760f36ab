"""What a watcher reports on `/diagnostics`: its counts, and whether its bundle has changed."""

import time
from dataclasses import dataclass, field
from pathlib import Path

from florence_edge.bundle import MANIFEST

from .messages import DiagnosticLevel, DiagnosticStatus
from .parameters import NodeParameters

_SILENCE = 5.0  # seconds without a frame that are worth a warning


@dataclass(slots=True)
class FrameCounts:
    """Counts of one life of a watcher. Frames are counted by one thread, answers by another."""

    received: int = 0
    dropped: int = 0
    answered: int = 0
    failed: int = 0
    seconds: float = 0.0
    """Computing time of the last answer."""
    error: str = ""
    """Why the last frame was not answered; empty if it was."""
    last_frame: float = field(default_factory=time.monotonic)

    def frame(self, *, dropped: bool) -> None:
        """A frame came in; `dropped` if it, or the one that waited, is not answered."""
        self.received += 1
        self.dropped += dropped
        self.last_frame = time.monotonic()

    def answer(self, seconds: float) -> None:
        """A frame was answered."""
        self.answered += 1
        self.seconds = seconds
        self.error = ""

    def failure(self, error: str) -> None:
        """A frame could not be answered."""
        self.failed += 1
        self.error = error


def diagnostic_status(
    counts: FrameCounts, parameters: NodeParameters, topic: str, *, change: str, active: bool
) -> DiagnosticStatus:
    """The status of a watcher; `change` is what has happened to its bundle, empty if nothing."""
    level, message = _level(counts, topic, change, active)
    return DiagnosticStatus(
        level=level,
        message=message,
        values={
            "bundle": parameters.folder,
            "device": parameters.device,
            "task": parameters.task,
            "frames received": str(counts.received),
            "frames answered": str(counts.answered),
            "frames dropped": str(counts.dropped),
            "frames failed": str(counts.failed),
            "last answer (ms)": f"{1000 * counts.seconds:.0f}",
        },
    )


def manifest_of(folder: Path) -> bytes | None:
    """The manifest as it stands, which names a bundle by its hashes; None if there is none."""
    try:
        return (folder / MANIFEST).read_bytes()
    except OSError:
        return None


def bundle_change(folder: Path, loaded: bytes | None, node: str) -> str:
    """What has happened to the bundle of a node since it was loaded; empty if nothing."""
    now = manifest_of(folder)
    if now == loaded:
        return ""
    what = "is gone" if now is None else "was replaced"
    return (
        f"The bundle at {folder} {what} since it was loaded; the node still answers with the one "
        "it loaded. To load anew: ros2 lifecycle set "
        f"{node} deactivate, then cleanup, configure and activate."
    )


def _level(
    counts: FrameCounts, topic: str, change: str, active: bool
) -> tuple[DiagnosticLevel, str]:
    if counts.error:
        return "ERROR", counts.error
    if change:
        return "WARN", change
    if not active:
        return "OK", "not active"
    silence = time.monotonic() - counts.last_frame
    if silence > _SILENCE:
        return "WARN", f"no frame from {topic} for {silence:.0f} s"
    return "OK", "answering"
