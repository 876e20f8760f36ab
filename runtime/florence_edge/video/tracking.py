"""Numbers for objects that stay the same from frame to frame: ByteTrack, by the package trackers.

Boxes are matched by where they are and how they move, not by their labels, which a model may vary.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..errors import MissingPackageError
from ..extras import pip_install
from ..regions import Region
from ..results.result import Result
from .clock import FrameClock

# In the 30ths of a second that ByteTrackTracker counts in: an object may be hidden for 3 s.
_LOST_TRACK_BUFFER = 90
_SPACING = 1 / 30  # seconds between frames, where not one has told


class Tracker:
    """Follows the objects of each task by themselves."""

    def __init__(self, trackers: Sequence[Any], detections: Any) -> None:
        self._trackers = trackers
        self._detections = detections  # the class of supervision
        self._clock = FrameClock(_SPACING)

    @staticmethod
    def open(tasks: int) -> "Tracker":
        """A tracker for this many results a frame.

        Raises:
            MissingPackageError: the package is not installed; the message says how to get it.
        """
        try:
            from supervision import Detections
            from trackers import ByteTrackTracker
        except ImportError as error:
            raise MissingPackageError(
                f"Objects are tracked by the package trackers, which cannot be imported ({error}). "
                f"Install it with: {pip_install('tracking')}"
            ) from error
        # Florence-2 gives no boxes of low confidence: every box may begin a track, and none is of
        # the second kind, which ByteTrack uses only to continue one.
        trackers = [
            ByteTrackTracker(
                lost_track_buffer=_LOST_TRACK_BUFFER,
                track_activation_threshold=0.0,
                high_conf_det_threshold=0.0,
                minimum_consecutive_frames=1,
            )
            for _ in range(tasks)
        ]
        return Tracker(trackers, Detections)

    def follow(self, results: Sequence[Result], timestamp: float) -> tuple[Result, ...]:
        """The results of the next frame, with `track_id` in their regions.

        An object has its number from the second frame on in which it is found.
        `timestamp` is in seconds. At a frame that is not later than the one before it, as at the
        seam of a video that is played in a loop, time goes on as it did, and so do the numbers.
        """
        timestamp = self._clock.next(timestamp)
        pairs = zip(results, self._trackers, strict=True)
        return tuple(
            replace(result, regions=self._numbered(result.regions, tracker, timestamp))
            for result, tracker in pairs
        )

    def _numbered(
        self, regions: Sequence[Region], tracker: Any, timestamp: float
    ) -> tuple[Region, ...]:
        detections = self._detections(
            xyxy=np.array([region.box for region in regions], dtype=np.float32).reshape(-1, 4),
            confidence=np.array([region.score for region in regions], dtype=np.float32),
            data={"region": np.arange(len(regions))},
        )
        tracked = tracker.update(detections, timestamp=timestamp)
        numbers = dict(zip(tracked.data.get("region", ()), tracked.tracker_id, strict=True))
        return tuple(
            replace(region, track_id=int(number) if (number := numbers.get(i, -1)) >= 0 else None)
            for i, region in enumerate(regions)
        )
