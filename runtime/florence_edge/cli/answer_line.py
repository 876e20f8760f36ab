"""An answer as one line of JSON, with the same keys about a picture and about a frame.

    {"image": "drive.mp4", "frame": 12, "timestamp": 0.4, "task": "<OD>", "image_size": [640, 480],
     "result": {...}, "scores": [...], ...}

A line is one task about one picture or frame, so that `jq` filters and pandas reads them as they
are. What has no meaning, such as the frame of a picture, is null.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ..model import Florence2
from ..results.result import Result
from ..tasks import Needs, Request
from ..video.watch import VideoFrame, WatchStats


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What an answer is about."""

    image: str
    """The path of a picture or a video; of another source its name, the secrets masked."""
    frame: int | None = None
    """The number of the frame, from 0."""
    timestamp: float | None = None
    """Seconds from the start of a file; of a live source Unix time."""
    elapsed: float | None = None
    """The same, but always growing; see `VideoFrame.elapsed`."""
    stats: Mapping[str, float] | None = None
    """Of a source: answered frames a second, latency in seconds, frames dropped so far."""

    @staticmethod
    def of_frame(source: str, frame: VideoFrame, stats: WatchStats) -> "Subject":
        """A frame of the source that is called so."""
        return Subject(
            image=source,
            frame=frame.index,
            timestamp=frame.timestamp,
            elapsed=frame.elapsed,
            stats={"fps": stats.fps, "latency": stats.latency, "dropped": stats.dropped},
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerLines:
    """Makes the lines of a run, their keys always the same and in the same order."""

    request: Request
    """Which region was asked about: pixels, or fractions where it was given in percent."""
    engine: Mapping[str, Any]
    """What the model runs on."""
    tracked: bool = False
    """Whether objects are numbered over the frames."""

    @staticmethod
    def of(model: Florence2, request: Request, *, tracked: bool = False) -> "AnswerLines":
        """Those of answers by this model."""
        settings = model.engine_settings
        engine = {} if settings is None else settings.to_json()
        return AnswerLines(request=request, engine=engine, tracked=tracked)

    def about(self, subject: Subject, results: Iterable[Result]) -> list[dict[str, Any]]:
        """One line for each task."""
        return [self._line(subject, result) for result in results]

    def _line(self, subject: Subject, result: Result) -> dict[str, Any]:
        named = asdict(subject)
        stats = named.pop("stats")
        region = self.request.region if result.task.needs is Needs.REGION else None
        return {
            **named,
            **result.to_json(),
            "region": None if region is None else [float(edge) for edge in region],
            "track_ids": [each.track_id for each in result.regions] if self.tracked else None,
            "stats": stats,
            "engine": dict(self.engine),
        }


def print_lines(lines: Iterable[Mapping[str, Any]]) -> None:
    """Print them, there for whoever reads them as soon as they are."""
    for line in lines:
        print(json.dumps(line), flush=True)
