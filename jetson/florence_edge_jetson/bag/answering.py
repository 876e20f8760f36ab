"""A recorded camera topic, asked frame by frame; the answers make a new recording."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from florence_edge.errors import ImageError, RequestError
from florence_edge.model import Florence2
from florence_edge.options import GenerationOptions
from florence_edge.questions import question

from ..ros import types as names
from ..ros.messages import Messages
from .recording import Frame, open_recording
from .store import messages_of, open_store
from .writing import NewRecording, check_target, new_recording

# The topics of the node in jetson/ros2, so that whoever listens to it can listen to a recording.
DETECTIONS = "/florence_edge/detections"
ANSWERS = "/florence_edge/answers"
ANNOTATED = "/florence_edge/annotated"

Load = Callable[[], Florence2]
Notice = Callable[["Count"], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What to ask which frames, and where the answers go."""

    source: Path
    target: Path
    topic: str
    task: str
    text: str | None = None
    every: int = 1
    annotated: bool = False
    overwrite: bool = False
    options: GenerationOptions | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """How far it has got: frames that were asked about, of those that are to be."""

    asked: int = 0
    of: int
    failed: int = 0
    error: ImageError | None = None
    """Why the last frame could not be read; None if it could."""

    def plus(self, error: ImageError | None) -> "Count":
        """With one frame more."""
        failed = self.failed + (error is not None)
        return replace(self, asked=self.asked + 1, failed=failed, error=error)


def answer_recording(order: Order, load: Load, *, notice: Notice) -> Count:
    """Ask about every n-th frame of a topic and write the answers with the frames' stamps.

    A damaged frame is left out, told to `notice` and counted. `load` is called once everything
    but the frames has been checked, `notice` after every frame.

    Raises:
        RequestError: a mistake in the order, or a recording that cannot be read to its end.
        FlorenceEdgeError: the answers cannot be written. Either way there is no new recording.
    """
    store = open_store()
    _check(order)
    with open_recording(order.source, store) as recording:
        frames = recording.count(order.topic)
        count = Count(of=-(-frames // order.every))  # rounded up
        model = load()
        model.resolve(order.options)
        storage, overwrite = recording.storage, order.overwrite
        with new_recording(order.target, storage, store, overwrite=overwrite) as answers:
            scribe = _Scribe(model, messages_of(store), answers, order)
            scribe.declare()
            for frame in recording.frames(order.topic, every=order.every):
                count = count.plus(scribe.take(frame))
                notice(count)
            _check_answered(order, count)
    return count


def _check(order: Order) -> None:
    question(order.task, order.text, None, image_size=None)
    if order.every < 1:
        raise RequestError(f"every is {order.every}; it must be 1 (each frame) or more.")
    source, target = order.source.resolve(), order.target.resolve()
    if target == source or target in source.parents:
        raise RequestError(
            f"{order.target} is where the frames come from; it will not be replaced. Choose "
            "another output."
        )
    check_target(order.target, overwrite=order.overwrite)


@dataclass(frozen=True, slots=True)
class _Scribe:
    """Answers frames and writes the answers down."""

    model: Florence2
    messages: Messages
    answers: NewRecording
    order: Order

    def declare(self) -> None:
        self.answers.declare(DETECTIONS, names.DETECTION_2D_ARRAY)
        self.answers.declare(ANSWERS, names.STRING)
        if self.order.annotated:
            self.answers.declare(ANNOTATED, names.IMAGE)

    def take(self, frame: Frame) -> ImageError | None:
        """Nothing, or why the frame could not be read."""
        try:
            view = self.model.look(frame.rgb(), options=self.order.options)
        except ImageError as error:
            return error
        result = view.run(self.order.task, self.order.text)
        header, when = frame.message.header, frame.recorded
        self.answers.write(DETECTIONS, self.messages.detections(result, header), when)
        self.answers.write(ANSWERS, self.messages.text(result, header), when)
        if self.order.annotated:
            picture = result.draw(view.image)
            self.answers.write(ANNOTATED, self.messages.image(picture, header), when)
        return None


def _check_answered(order: Order, count: Count) -> None:
    if not count.of:
        raise RequestError(f"{order.topic} has no frames in {order.source}.")
    if count.asked < count.of:
        raise RequestError(
            f"{order.source} ends after {count.asked} of {count.of} frames: it was cut short. Mend "
            "it, or have its metadata.yaml count anew: ros2 bag reindex"
        )
    if count.failed == count.asked:
        raise RequestError(
            f"None of the {count.asked} frames of {order.topic} could be read; the last one: "
            f"{count.error}"
        )
