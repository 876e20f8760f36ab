"""Frames of a GStreamer pipeline, through the system's cv2 or, where that lacks it, through gi.

Both come with the system (on a Jetson with JetPack); pip's opencv-python has no GStreamer in it.
"""

import re
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from ..errors import MissingPackageError, SourceError
from .clock import FrameClock
from .formats import SCHEMES
from .redact import without_secrets
from .source import Captured, Frames

_NEWEST, _EACH = "drop=true max-buffers=1 sync=false", "max-buffers=2 sync=false"
_NANOSECONDS = 1_000_000_000
_SPACING = 1 / 25  # seconds between frames, where the pipeline gives them no times
_ERROR_CHECK = 0.2  # seconds between two checks for errors
_SINK = re.compile(r"(?<![^\s!])appsink(?![^\s!])")  # the element, not a part of a file's name
_SINK_NAME = re.compile(_SINK.pattern + r"[^!]*?\sname\s*=\s*\"?([\w-]+)")
_OVER_THE_NETWORK = (*SCHEMES, "data")
_WITH_AN_END = ("num-buffers", "filesrc", "file:")


def frames_of(pipeline: str, timeout: float, *, live: bool) -> Callable[[], Frames]:
    """What opens the pipeline; a missing appsink is added, with the conversion to RGB or BGR.

    `timeout` is how many seconds may pass without a frame; a pipeline that is not `live` waits
    until each of its frames is taken.
    """
    keeps = _NEWEST if live else _EACH

    def frames() -> Frames:
        if (gst := _gst()) is not None:
            return _by_gi(*gst, *_for_gi(pipeline, keeps), timeout, live)
        if (cv2 := _cv2_with_gstreamer()) is not None:
            return _by_cv2(cv2, _for_cv2(pipeline, keeps), live)
        raise MissingPackageError(
            "A GStreamer pipeline needs the system's gi or a cv2 that was built with GStreamer; "
            "neither can be imported here. Install: sudo apt install python3-gi "
            "gstreamer1.0-plugins-good gir1.2-gst-plugins-base-1.0, and make the virtual "
            "environment with --system-site-packages."
        )

    return frames


def _gst() -> tuple[Any, Any] | None:
    """Gst, and nothing further of gi: GstApp's methods are reached by signals."""
    try:
        import gi

        gi.require_version("Gst", "1.0")
        from gi.repository import Gst
    except (ImportError, ValueError):
        return None
    Gst.init(None)
    return gi, Gst


def _cv2_with_gstreamer() -> Any:
    try:
        import cv2
    except ImportError:
        return None
    built = [line for line in cv2.getBuildInformation().splitlines() if "GStreamer" in line]
    return cv2 if any("YES" in line for line in built) else None


def _for_gi(pipeline: str, keeps: str) -> tuple[str, str]:
    """The pipeline with an appsink that has a name, and the name."""
    if not _SINK.search(pipeline):
        pipeline = f"{pipeline} ! videoconvert ! video/x-raw,format=RGB ! appsink"
    own = _SINK_NAME.search(pipeline)
    named = keeps if own else f"name=florence {keeps}"  # the user's own settings follow and prevail
    return _SINK.sub(rf"\g<0> {named}", pipeline, count=1), own[1] if own else "florence"


def _for_cv2(pipeline: str, keeps: str) -> str:
    if _SINK.search(pipeline):
        return pipeline
    return f"{pipeline} ! videoconvert ! video/x-raw,format=BGR ! appsink {keeps}"


def _by_gi(gi: Any, gst: Any, pipeline: str, name: str, timeout: float, live: bool) -> Frames:
    try:
        running = gst.parse_launch(pipeline)
    except gi.repository.GLib.Error as error:
        raise SourceError(
            f"GStreamer does not understand the pipeline: {without_secrets(error.message)}."
        ) from error
    clock = _PipelineTime(live)
    led_astray = _watch_playlists(running)
    try:
        begun = running.set_state(gst.State.PAUSED)
        running.set_state(gst.State.PLAYING)
        sink, bus = running.get_by_name(name), running.get_bus()
        while True:
            sample = _next_sample(gst, bus, sink, timeout, led_astray)
            if sample is None:
                _check_end(gst, begun, pipeline)
                return
            timestamp = clock.seconds(partial(_presented, gst, sample))
            yield Captured(timestamp=timestamp, picture=partial(_rgb, gst, sample))
    finally:
        running.set_state(gst.State.NULL)


def _watch_playlists(running: Any) -> list[str]:
    """Let no playlist lead to a file of this machine; to where it tried to is appended.

    decodebin and uridecodebin take one for a video, and its demuxer (HLS, DASH) makes a source for
    each address in it. A source that the pipeline itself names stands in no demuxer.
    """
    led_astray: list[str] = []

    def added(_: Any, parent: Any, element: Any) -> None:
        if not hasattr(element, "get_uri") or not _is_in_demuxer(parent):
            return
        uri = element.get_uri() or ""
        if uri.partition(":")[0] not in _OVER_THE_NETWORK:
            led_astray.append(without_secrets(uri))
            if element.find_property("location") is not None:
                element.set_property("location", "")  # nothing is open yet, nor can be now

    running.connect("deep-element-added", added)
    return led_astray


def _is_in_demuxer(element: Any) -> bool:
    while element is not None:
        factory = element.get_factory()
        if factory is not None and "Demuxer" in factory.get_metadata("klass"):
            return True
        element = element.get_parent()
    return False


class _PipelineTime:
    """When frames are: Unix time of a live pipeline, else seconds from its first frame."""

    def __init__(self, live: bool) -> None:
        self._live = live
        self._clock = FrameClock(_SPACING)
        self._first: float | None = None

    def seconds(self, presented: Callable[[], float | None]) -> float:
        """`presented` gives when a frame is to be shown, on the pipeline's own clock."""
        if self._live:
            return time.time()
        moment = presented()
        if moment is not None:
            self._first = moment if self._first is None else self._first
            moment -= self._first
        return self._clock.next(moment)


def _presented(gst: Any, sample: Any) -> float | None:
    nanoseconds = sample.get_buffer().pts
    return None if nanoseconds == gst.CLOCK_TIME_NONE else nanoseconds / _NANOSECONDS


def _next_sample(gst: Any, bus: Any, sink: Any, timeout: float, led_astray: list[str]) -> Any:
    """The next frame; None at the end. An element that fails need not end the pipeline."""
    give_up = time.monotonic() + timeout
    while time.monotonic() < give_up:
        sample = sink.emit("try-pull-sample", int(_ERROR_CHECK * _NANOSECONDS))
        if led_astray:
            raise SourceError(
                f"The pipeline reads a playlist that leads to {led_astray[0]}, which is not read: "
                "a playlist may lead to addresses in the network alone. Name the video itself."
            )
        if sample is not None:
            return sample
        message = bus.pop_filtered(gst.MessageType.ERROR)
        if message is not None:
            what = without_secrets(message.parse_error()[0].message)
            raise SourceError(f"The pipeline failed: {what}")
        if sink.get_property("eos"):
            return None
    raise SourceError(f"The pipeline stalled: no frame came for {timeout:g} s.")


def _check_end(gst: Any, begun: Any, pipeline: str) -> None:
    """A camera or stream has no end of its own; GStreamer knows them by what they cannot preroll.

    An RTSP server that goes away, for one, ends the pipeline as a file's last frame does.
    """
    if begun == gst.StateChangeReturn.NO_PREROLL and "num-buffers" not in pipeline:
        raise SourceError("The pipeline ended, though its source is live.")


def _rgb(gst: Any, sample: Any) -> Any:
    """[H, W, 3] uint8; rows are padded to a multiple of four bytes in GStreamer."""
    shape = sample.get_caps().get_structure(0)
    layout = shape.get_value("format")
    if layout != "RGB":
        raise SourceError(
            f"The pipeline gives {layout}, expected RGB. Leave appsink out, or put before it: "
            "videoconvert ! video/x-raw,format=RGB"
        )
    width, height = shape.get_value("width"), shape.get_value("height")
    buffer = sample.get_buffer()
    held, view = buffer.map(gst.MapFlags.READ)
    if not held:
        raise SourceError("GStreamer does not let a frame be read.")
    try:
        rows = np.frombuffer(view.data, dtype=np.uint8).reshape(height, -1)
        return rows[:, : 3 * width].reshape(height, width, 3).copy()
    finally:
        buffer.unmap(view)


def _by_cv2(cv2: Any, pipeline: str, live: bool) -> Frames:
    capture = cv2.VideoCapture(pipeline, cv2.CAP_GSTREAMER)
    clock = _PipelineTime(live)
    try:
        if not capture.isOpened():
            raise SourceError(
                "GStreamer cannot open the pipeline. Try it alone: "
                f"gst-launch-1.0 {without_secrets(pipeline.rsplit('!', 1)[0])}! fakesink"
            )
        while True:
            there, bgr = capture.read()
            if not there:
                break
            timestamp = clock.seconds(lambda: capture.get(cv2.CAP_PROP_POS_MSEC) / 1000)
            yield Captured(timestamp=timestamp, picture=partial(_rgb_from_bgr, bgr))
    finally:
        capture.release()
    # cv2 does not say what kind of source it was, nor whether an element failed.
    if live and not any(word in pipeline for word in _WITH_AN_END):
        raise SourceError("The pipeline ended, though its source is live.")


def _rgb_from_bgr(bgr: Any) -> Any:
    """[H, W, 3] uint8."""
    if bgr.ndim != 3 or bgr.shape[2] != 3:
        raise SourceError(
            f"The pipeline gives pixels of {1 if bgr.ndim < 3 else bgr.shape[2]} channels, "
            "expected 3 (BGR). Leave appsink out, or put before it: videoconvert ! "
            "video/x-raw,format=BGR"
        )
    return bgr[:, :, ::-1].copy()
