"""A model that watches a camera topic: all of the node but rclpy.

frames ── offer ──> Worker ──> Outlet: detections, answers, annotated pictures
requests ─ answers ──^
"""

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from florence_edge.answers.result import Result
from florence_edge.errors import FlorenceEdgeError, RequestError
from florence_edge.model import Florence2
from florence_edge.questions import Question, question
from florence_edge.view import View

from .complaints import Complaints
from .health import Tally, bundle_news, health_of, manifest_of
from .images import READERS
from .messages import Health, Messages
from .settings import CONFIGURED, Settings
from .types import IMAGE
from .worker import Worker, refusal

_logger = logging.getLogger(__name__)

_REQUESTS = 2  # at a time: each keeps a thread of the node's executor waiting


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlet:
    """Where messages go: publishers in the node, lists in a test."""

    node: str
    """The node's full name, for the commands that messages to people name."""
    open: Callable[[], bool]
    """Whether anything can be published still; what fails after that is not worth a word."""
    detections: Callable[[Any], None]
    answers: Callable[[Any], None]
    annotated: Callable[[Any], None]
    annotated_wanted: Callable[[], bool]
    """Whether anybody listens to annotated pictures; they are not drawn otherwise."""
    complain: Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One answer as the messages that tell it."""

    detections: Any
    text: Any


def questions_from(tasks: Sequence[str], texts: Sequence[str]) -> list[Question]:
    """Several questions about one picture; texts may be left out altogether, or be empty.

    Raises:
        RequestError: no task, not one text a task, or a question that cannot be asked.
    """
    if not tasks:
        raise RequestError("The request names no task. Give one or more, such as OD.")
    texts = texts or [""] * len(tasks)
    if len(texts) != len(tasks):
        raise RequestError(
            f"The request has {len(tasks)} tasks and {len(texts)} texts. Give one text a task, "
            "empty where it takes none, or no texts at all."
        )
    pairs = zip(tasks, texts, strict=True)
    return [question(task, text or None, None, image_size=None) for task, text in pairs]


class Watcher:
    """Answers frames as they come and requests as they are made.

    `offer`, `answers`, `adopt` and `health` may be called from any thread.
    """

    def __init__(
        self, model: Florence2, settings: Settings, messages: Messages, outlet: Outlet, topic: str
    ) -> None:
        model.resolve(settings.options)
        self._model = model
        self._settings = settings
        self._messages = messages
        self._outlet = outlet
        self._topic = topic
        self._manifest = manifest_of(model.bundle.folder)
        self._news = ""
        self._latest: Any = None
        self._tally = Tally()
        self._complaints = Complaints(outlet.complain)
        self._requests = threading.BoundedSemaphore(_REQUESTS)
        self._worker = Worker(self._take, self._note, idle=refusal(outlet.node))
        self._worker.rate = settings.rate

    @property
    def image_type(self) -> str:
        """Which messages `offer` expects."""
        return self._settings.image_type

    def start(self) -> None:
        """Begin to answer."""
        self._worker.start()

    def stop(self) -> None:
        """Cut the answer at hand short and stop; requests are refused, waiting ones too."""
        self._worker.stop()
        self._latest = None

    def adopt(self, settings: Settings) -> None:
        """Ask other questions, from the next frame on; the model and the transport stay.

        Raises:
            RequestError: this model cannot generate so.
        """
        self._model.resolve(settings.options)
        kept = {name: getattr(self._settings, name) for name in CONFIGURED}
        self._settings = replace(settings, **kept)
        self._worker.rate = settings.rate

    def offer(self, message: Any) -> None:
        """A new frame; if it cannot be taken at once, it replaces the one that waits."""
        if self._worker.running:
            self._latest = message
            self._tally.frame(dropped=not self._worker.offer(message))

    def answers(
        self, message: Any | None, asked: Sequence[Question], cancel: threading.Event
    ) -> Iterator[Answer]:
        """Answers to several questions about one picture, which is encoded once.

        Args:
            message: a sensor_msgs/Image; None for the latest frame.
            asked: see `questions_from`.
            cancel: once it is set, the answer at hand is cut short and no further question asked;
                `stop` sets it, too.

        Raises:
            FlorenceEdgeError: no frame yet, a frame that cannot be read, two requests are at work
                already, or the node is not active any more.
        """
        if not self._requests.acquire(blocking=False):
            raise RequestError(
                f"{_REQUESTS} requests are being answered or wait already. Ask again when one is "
                "done."
            )
        try:
            kind = IMAGE if message is not None else self.image_type
            frame = message if message is not None else self._latest
            view = self._worker.run(partial(self._look, frame, kind), cancel)
            for each in asked:
                if cancel.is_set():
                    return
                result = self._worker.run(partial(_ask, view, each, cancel), cancel)
                yield Answer(
                    detections=self._messages.detections(result, frame.header),
                    text=self._messages.text(result, frame.header),
                )
        finally:
            self._requests.release()

    def health(self) -> Health:
        """How it is doing."""
        news = bundle_news(self._model.bundle.folder, self._manifest, self._outlet.node)
        if news and news != self._news:
            self._outlet.complain(news)
        self._news = news
        return health_of(
            self._tally, self._settings, self._topic, news=news, active=self._worker.running
        )

    def _look(self, frame: Any, kind: str) -> View:
        if frame is None:
            raise RequestError(
                f"No frame has come from {self._topic} yet. Send a picture with the request, or "
                "look whether the camera publishes: ros2 topic hz " + self._topic
            )
        return self._model.look(READERS[kind](frame, self._topic), options=self._settings.options)

    def _take(self, frame: Any, cancel: threading.Event) -> None:
        asked = self._settings.question
        view = self._look(frame, self.image_type)
        result = _ask(view, asked, cancel)
        if cancel.is_set() or not self._outlet.open():
            return
        self._outlet.detections(self._messages.detections(result, frame.header))
        self._outlet.answers(self._messages.text(result, frame.header))
        if self._outlet.annotated_wanted():
            picture = result.draw(view.image)
            self._outlet.annotated(self._messages.image(picture, frame.header))
        self._tally.answer(sum(result.seconds.values()))
        self._complaints.settled()

    def _note(self, error: BaseException) -> None:
        if not (self._worker.running and self._outlet.open()):
            return  # whatever fails on the way down
        text = str(error) or type(error).__name__
        said = self._complaints.about(text)
        if said and not isinstance(error, FlorenceEdgeError):
            _logger.error("A frame was not answered.", exc_info=error)
        self._tally.failure(text)


def _ask(view: View, asked: Question, cancel: threading.Event) -> Result:
    return view.run(asked.task, asked.text, cancel=cancel)
