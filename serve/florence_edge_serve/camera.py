"""The box's own camera: its newest frame is looked at once, and answered for all who watch.

    frames (thread) ──> newest ──> service.answer(all that the viewers ask) ──> each viewer's slot

The camera is opened when the first viewer comes and closed some seconds after the last has left:
nobody is filmed for nobody, and an idle box stays cool.
"""

import asyncio
import io
import logging
import time
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from threading import Event

from PIL import Image

from florence_edge import FlorenceEdgeError, RequestError, Result, SourceFrame, Watching, frames
from florence_edge.image import load_image
from florence_edge.results.draw import draw
from florence_edge.tasks import AnswerKind
from florence_edge.video.sources import source_of

from .failures import Failure
from .live import Rate, frames_counter
from .schema import Wanted
from .service import Answered, Service
from .settings import MAX_QUESTIONS

logger = logging.getLogger(__name__)

_LINGER = 5.0  # seconds that the camera stays open without a viewer
_AGAIN = 3.0  # seconds between attempts to open it
_SILENCE = 10.0  # seconds without a frame after which viewers are told
_BUSY = 0.1  # seconds to wait where the queue is full
_JPEG_QUALITY = 85


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A frame with the answers to one viewer's ask."""

    frame: SourceFrame
    image: Image.Image
    jpeg: bytes
    answered: Answered

    def annotated(self, width: int | None = None) -> bytes:
        """The frame as JPEG with its answers drawn on it, at most `width` pixels wide."""
        results = self.answered.results
        regions = [region for result in results for region in result.regions]
        texts = [result.text for result in results if result.task.answer is AnswerKind.PURE_TEXT]
        drawn = draw(self.image, regions, caption="\n".join(texts))
        if width is not None and drawn.width > width:
            drawn = drawn.resize((width, max(1, drawn.height * width // drawn.width)))
        return jpeg_of(drawn)


class Viewer:
    """Who watches: what it asks, and the newest that it has not taken yet."""

    def __init__(self, wanted: Wanted) -> None:
        self.wanted = wanted
        self._slot: Shown | str | None = None
        self._news = asyncio.Event()

    def put(self, shown: "Shown | str") -> None:
        """Show it, in place of what was not taken; a text says what is wrong."""
        self._slot = shown
        self._news.set()

    async def next(self) -> "Shown | str":
        """The newest, as soon as there is one."""
        while self._slot is None:
            await self._news.wait()
            self._news.clear()
        shown, self._slot = self._slot, None
        return shown


class Camera:
    """The source, and those who watch it."""

    def __init__(self, service: Service, source: str, default: Wanted) -> None:
        self.default = default
        self.rate = Rate()
        self._service = service
        self._source = source
        self._viewers: set[Viewer] = set()
        self._came = asyncio.Event()
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="florence-serve-camera")
        self._stop = Event()

    @contextmanager
    def watched(self, wanted: Wanted) -> Iterator[Viewer]:
        """A viewer, for as long as the block runs."""
        viewer = Viewer(wanted)
        self._viewers.add(viewer)
        self._came.set()
        try:
            yield viewer
        finally:
            self._viewers.discard(viewer)

    async def run(self) -> None:
        """Serve viewers until cancelled."""
        try:
            while True:
                await self._came.wait()
                self._came.clear()
                try:
                    await self._watch()
                except (FlorenceEdgeError, Failure) as error:
                    logger.warning("The camera: %s", error)
                    self._tell(str(error))
                    await asyncio.sleep(_AGAIN)
                if self._viewers:
                    self._came.set()
        finally:
            self._stop.set()
            self._reader.shutdown(wait=False, cancel_futures=True)

    def check(self) -> None:
        """Refuse a source that cannot be one, and what the model cannot be asked.

        Raises:
            RequestError, SourceError: what is wrong with it.
        """
        source_of(self._source)
        self.default.check(self._service.model)

    async def _watch(self) -> None:
        """Answer frames until there has been no viewer for a while."""
        loop = asyncio.get_running_loop()
        self._stop.clear()
        source = self._frames()
        last_viewer = time.monotonic()
        try:
            while self._viewers or time.monotonic() - last_viewer < _LINGER:
                if not self._viewers:
                    await asyncio.sleep(_BUSY)
                    continue
                last_viewer = time.monotonic()
                frame = await loop.run_in_executor(self._reader, next, source, None)
                if frame is None:
                    return
                await self._answer(frame)
        finally:
            self._stop.set()
            with suppress(RuntimeError):  # the reader's thread has ended
                await loop.run_in_executor(self._reader, source.close)

    def _frames(self) -> Generator[SourceFrame, None, None]:
        how = Watching(patience=_SILENCE, wait=True)
        found = frames(
            self._source,
            cancel=self._stop,
            how=how,
            max_pixels=self._service.model.image_options.max_pixels,
        )
        is_live = source_of(self._source).live
        return found if is_live else _at_its_own_pace(found)

    async def _answer(self, frame: SourceFrame) -> None:
        image = await self._service.in_decoder(lambda: load_image(_picture(frame)))
        groups = self._groups(image.size)
        if not groups:
            await asyncio.sleep(_BUSY)
            return
        together = Wanted(
            parts=tuple(part for wanted, _ in groups for part in wanted.parts), min_score=0.0
        )
        jpeg = asyncio.ensure_future(self._service.in_decoder(lambda: jpeg_of(image)))
        try:
            answered = await self._service.answer(image, together)
        except Failure as failure:
            frames_counter(self._service.metrics, "camera", "busy")
            self.rate.dropped += 1
            if failure.status_code not in (429, 504):
                raise
            await asyncio.sleep(_BUSY)
            return
        finally:
            picture = await jpeg
        self.rate.note(frame.taken)
        frames_counter(self._service.metrics, "camera", "answered")
        shown = Shown(frame=frame, image=image, jpeg=picture, answered=answered)
        _hand_out(shown, groups)

    def _groups(self, size: tuple[int, int]) -> list[tuple[Wanted, list[Viewer]]]:
        """What is asked, each once, and by whom; no more than a request may ask."""
        by_ask: dict[str, tuple[Wanted, list[Viewer]]] = {}
        asked = 0
        for viewer in tuple(self._viewers):
            key = repr(viewer.wanted.parts)
            if key in by_ask:
                by_ask[key][1].append(viewer)
                continue
            try:
                count = len(viewer.wanted.asked(size))
            except RequestError as error:  # a region outside of the frame
                viewer.put(str(error))
                continue
            if asked + count > MAX_QUESTIONS:
                viewer.put("The viewers of this camera ask too much at once. Ask for less.")
                continue
            asked += count
            by_ask[key] = viewer.wanted, [viewer]
        return list(by_ask.values())

    def _tell(self, message: str) -> None:
        for viewer in tuple(self._viewers):
            viewer.put(message)


def _hand_out(shown: Shown, groups: list[tuple[Wanted, list[Viewer]]]) -> None:
    """Give each viewer the answers to its own ask."""
    first = 0
    for wanted, viewers in groups:
        count = sum(max(1, len(request.tasks)) for request, _ in wanted.parts)
        results: tuple[Result, ...] = shown.answered.results[first : first + count]
        first += count
        for viewer in viewers:
            kept = tuple(map(viewer.wanted.kept, results))
            viewer.put(replace(shown, answered=replace(shown.answered, results=kept)))


def _picture(frame: SourceFrame) -> "Image.Image":
    return frame.picture()  # type: ignore[return-value]  # a source of the host gives no GPU frames


def _at_its_own_pace(
    found: Generator[SourceFrame, None, None],
) -> Generator[SourceFrame, None, None]:
    """The frames of a file as if they came now: those that are late are left out."""
    begin = time.monotonic()
    dropped = 0
    with closing(found):
        for frame in found:
            late = time.monotonic() - begin - frame.timestamp
            if late > 0.25 and frame.index:
                dropped += 1
                continue
            time.sleep(max(0.0, -late))
            yield replace(frame, taken=time.monotonic(), dropped=dropped)


def jpeg_of(image: Image.Image) -> bytes:
    """A picture as JPEG."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return buffer.getvalue()
