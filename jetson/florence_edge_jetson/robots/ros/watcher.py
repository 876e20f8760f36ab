"""A model that answers about a camera topic: all of the node but rclpy.

frames ─── offer ───> Worker ──> Publishers: detections, answers, annotated pictures
requests ─ answers ─────^
"""

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from florence_edge.encoded_image import EncodedImage
from florence_edge.errors import FlorenceEdgeError, RequestError
from florence_edge.model import Florence2
from florence_edge.results.result import Result
from florence_edge.tasks import Prompt, Task, request_for, with_own

from .diagnostics import FrameCounts, bundle_change, diagnostic_status, manifest_of
from .images import READERS
from .message_types import IMAGE
from .messages import DiagnosticStatus, Messages
from .parameters import CONFIGURED, NodeParameters
from .rate_limited_log import RateLimitedLog
from .worker import Worker, not_active

_logger = logging.getLogger(__name__)

_MAX_REQUESTS = 2  # at a time: each keeps a thread of the node's executor waiting


@dataclass(frozen=True, slots=True, kw_only=True)
class Publishers:
    """Where messages go: publishers in the node, lists in a test."""

    node: str
    """The node's full name, for the commands that messages to people name."""
    is_open: Callable[[], bool]
    """Whether anything can be published still; what fails after that is not reported."""
    detections: Callable[[Any], None]
    answers: Callable[[Any], None]
    annotated: Callable[[Any], None]
    annotated_has_subscribers: Callable[[], bool]
    """Annotated pictures without a subscriber are not drawn."""
    warn: Callable[[str], None]
    """The node's log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicAnswer:
    """One answer as messages."""

    detections: Any
    text: Any


def prompts_from(tasks: Sequence[str], texts: Sequence[str], own: Sequence[Task]) -> list[Prompt]:
    """Several prompts about one picture; texts may be left out altogether, or be empty.

    `own` are the bundle's tasks beside the 15.

    Raises:
        RequestError: no task, not one text for each, or a prompt that is not valid.
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
    requests = [request_for(with_own(task, own), text or None) for task, text in pairs]
    return [prompt for request in requests for prompt in request.prompts(None)]


class TopicWatcher:
    """Answers frames as they come and requests as they are made.

    `offer`, `answers`, `adopt` and `status` may be called from any thread.
    """

    def __init__(
        self,
        model: Florence2,
        parameters: NodeParameters,
        messages: Messages,
        publishers: Publishers,
        topic: str,
    ) -> None:
        model.generation_config(parameters.options)
        self._model = model
        self._parameters = parameters
        self._messages = messages
        self._publishers = publishers
        self._topic = topic
        self._manifest = manifest_of(model.bundle.folder)
        self._bundle_change = ""
        self._latest: Any = None
        self._counts = FrameCounts()
        self._log = RateLimitedLog(publishers.warn)
        self._requests = threading.BoundedSemaphore(_MAX_REQUESTS)
        self._worker = Worker(self._take, self._note, not_active=not_active(publishers.node))
        self._worker.rate = parameters.rate

    @property
    def image_type(self) -> str:
        """Which messages `offer` expects."""
        return self._parameters.image_type

    @property
    def own_tasks(self) -> Sequence[Task]:
        """The tasks that the bundle has beside the 15."""
        return self._model.bundle.tasks

    def start(self) -> None:
        """Begin to answer."""
        self._worker.start()

    def stop(self) -> None:
        """Cut the current answer short and stop; requests are refused, waiting ones too."""
        self._worker.stop()
        self._latest = None

    def close(self) -> None:
        """Stop, and free the model."""
        self.stop()
        self._model.close()

    def adopt(self, parameters: NodeParameters) -> None:
        """Take over new parameters from the next frame on; the model and the transport stay.

        Raises:
            RequestError: this model cannot generate so, or its bundle has no such task.
        """
        parameters.prompt(self.own_tasks)
        self._model.generation_config(parameters.options)
        kept = {name: getattr(self._parameters, name) for name in CONFIGURED}
        self._parameters = replace(parameters, **kept)
        self._worker.rate = parameters.rate

    def offer(self, message: Any) -> None:
        """A new frame; if it cannot be taken at once, it replaces the one that waits."""
        if self._worker.running:
            self._latest = message
            self._counts.frame(dropped=not self._worker.offer(message))

    def answers(
        self, message: Any | None, prompts: Sequence[Prompt], cancel: threading.Event
    ) -> Iterator[TopicAnswer]:
        """Answers to several prompts about one picture, which is encoded once.

        Args:
            message: a sensor_msgs/Image; None for the latest frame.
            prompts: see `prompts_from`.
            cancel: once it is set, the current answer is cut short and no further prompt answered;
                `stop` sets it, too.

        Raises:
            FlorenceEdgeError: no frame yet, a frame that cannot be read, two requests are at work
                already, or the node is not active any more.
        """
        if not self._requests.acquire(blocking=False):
            raise RequestError(
                f"{_MAX_REQUESTS} requests are being answered or wait already. Ask again when one "
                "is done."
            )
        try:
            kind = IMAGE if message is not None else self.image_type
            frame = message if message is not None else self._latest
            view = self._worker.run(partial(self._encode, frame, kind), cancel)
            for prompt in prompts:
                if cancel.is_set():
                    return
                result = self._worker.run(partial(self._answer, view, prompt, cancel), cancel)
                yield TopicAnswer(
                    detections=self._messages.detections(result, frame.header),
                    text=self._messages.text(result, frame.header),
                )
        finally:
            self._requests.release()

    def status(self) -> DiagnosticStatus:
        """How it is doing."""
        change = bundle_change(self._model.bundle.folder, self._manifest, self._publishers.node)
        if change and change != self._bundle_change:
            self._publishers.warn(change)
        self._bundle_change = change
        return diagnostic_status(
            self._counts, self._parameters, self._topic, change=change, active=self._worker.running
        )

    def _encode(self, frame: Any, kind: str) -> EncodedImage:
        if frame is None:
            raise RequestError(
                f"No frame has come from {self._topic} yet. Send a picture with the request, or "
                "check that the camera publishes: ros2 topic hz " + self._topic
            )
        pixels = READERS[kind](frame, self._topic, self._model.image_options)
        return self._model.encode(pixels, options=self._parameters.options)

    def _answer(self, view: EncodedImage, prompt: Prompt, cancel: threading.Event) -> Result:
        result = view.run(prompt.task, prompt.text_input, cancel=cancel)
        return result.clean() if self._parameters.clean else result

    def _take(self, frame: Any, cancel: threading.Event) -> None:
        prompt = self._parameters.prompt(self.own_tasks)
        view = self._encode(frame, self.image_type)
        result = self._answer(view, prompt, cancel)
        if cancel.is_set() or not self._publishers.is_open():
            return
        self._publishers.detections(self._messages.detections(result, frame.header))
        self._publishers.answers(self._messages.text(result, frame.header))
        if self._publishers.annotated_has_subscribers():
            picture = result.draw(view.image)
            self._publishers.annotated(self._messages.image(picture, frame.header))
        self._counts.answer(sum(result.seconds.values()))
        self._log.reset()

    def _note(self, error: BaseException) -> None:
        if not (self._worker.running and self._publishers.is_open()):
            return  # whatever fails on the way down
        text = str(error) or type(error).__name__
        logged = self._log.message(text)
        if logged and not isinstance(error, FlorenceEdgeError):
            _logger.error("A frame was not answered.", exc_info=error)
        self._counts.failure(text)
