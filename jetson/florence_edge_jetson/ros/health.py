"""How a watcher is doing: what it counted, and whether its bundle is still the one on disk."""

import time
from dataclasses import dataclass, field
from pathlib import Path

from florence_edge.bundle import MANIFEST

from .messages import Health, Level
from .settings import Settings

_SILENCE = 5.0  # seconds without a frame that are worth a warning


@dataclass(slots=True)
class Tally:
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


def health_of(tally: Tally, settings: Settings, topic: str, *, news: str, active: bool) -> Health:
    """A diagnostic status; `news` is what there is to say about the bundle."""
    level, message = _verdict(tally, topic, news, active)
    return Health(
        level=level,
        message=message,
        values={
            "bundle": settings.folder,
            "device": settings.device,
            "task": settings.task,
            "frames received": str(tally.received),
            "frames answered": str(tally.answered),
            "frames dropped": str(tally.dropped),
            "frames failed": str(tally.failed),
            "last answer (ms)": f"{1000 * tally.seconds:.0f}",
        },
    )


def manifest_of(folder: Path) -> bytes | None:
    """The manifest as it stands, which names a bundle by its hashes; None if there is none."""
    try:
        return (folder / MANIFEST).read_bytes()
    except OSError:
        return None


def bundle_news(folder: Path, loaded: bytes | None, node: str) -> str:
    """What has happened to the bundle of a node since it was loaded; empty if nothing."""
    now = manifest_of(folder)
    if now == loaded:
        return ""
    fate = "is gone" if now is None else "was replaced"
    return (
        f"The bundle at {folder} {fate} since it was loaded; the node still answers with the one "
        "it loaded. To load anew: ros2 lifecycle set "
        f"{node} deactivate, then cleanup, configure and activate."
    )


def _verdict(tally: Tally, topic: str, news: str, active: bool) -> tuple[Level, str]:
    if tally.error:
        return "ERROR", tally.error
    if news:
        return "WARN", news
    if not active:
        return "OK", "not active"
    silence = time.monotonic() - tally.last_frame
    if silence > _SILENCE:
        return "WARN", f"no frame from {topic} for {silence:.0f} s"
    return "OK", "answering"
