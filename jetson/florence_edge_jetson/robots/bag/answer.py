"""A recorded camera topic, answered frame by frame; the answers make a new recording."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from florence_edge.errors import ImageError, RequestError, SourceError
from florence_edge.model import Florence2
from florence_edge.options import GenerationOptions
from florence_edge.tasks import Request, Task

from ..ros import message_types
from ..ros.messages import Messages
from .reader import RecordedFrame, messages_of, open_reader, open_typestore
from .writer import BagWriter, check_target, open_writer

# The topics of the node in jetson/ros2, so that whoever listens to it can listen to a recording.
# Where there are several tasks each has topics of its own, as in /florence_edge/od/detections: a
# topic has one message a frame.
NAMESPACE = "/florence_edge"
DETECTIONS = f"{NAMESPACE}/detections"
ANSWERS = f"{NAMESPACE}/answers"
ANNOTATED = f"{NAMESPACE}/annotated"

LoadModel = Callable[[], Florence2]
OnProgress = Callable[["BagProgress"], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class BagRequest:
    """What to ask about which frames of a recording, and where the answers go."""

    source: Path
    target: Path
    topic: str
    request: Request
    """The tasks, the text and the region; `tasks.request_for` makes it."""
    every: int = 1
    """Ask about every n-th frame, the first one first."""
    annotated: bool = False
    """Write the pictures with the answers drawn on them, too."""
    overwrite: bool = False
    clean: bool = False
    """Leave out what a model's slips leave (`Result.clean`)."""
    options: GenerationOptions | None = None


@dataclass(frozen=True, slots=True)
class AnswerTopics:
    """Where the answers to one task go."""

    detections: str = DETECTIONS
    answers: str = ANSWERS
    annotated: str = ANNOTATED


def topics_of(request: Request) -> list[AnswerTopics]:
    """The topics of each task of the request, in its order."""
    if len(request.tasks) < 2:
        return [AnswerTopics()]
    return [_topics_of_one(task) for task in request.tasks]


def _topics_of_one(task: Task) -> AnswerTopics:
    namespace = f"{NAMESPACE}/{task.name.lower()}"
    return AnswerTopics(f"{namespace}/detections", f"{namespace}/answers", f"{namespace}/annotated")


@dataclass(frozen=True, slots=True, kw_only=True)
class BagProgress:
    """How many frames are done, of those that are to be answered."""

    done: int = 0
    total: int
    failed: int = 0
    error: ImageError | None = None
    """Why the last frame could not be read; None if it could."""

    def plus(self, error: ImageError | None) -> "BagProgress":
        """With one frame more."""
        failed = self.failed + (error is not None)
        return replace(self, done=self.done + 1, failed=failed, error=error)


def answer_bag(
    request: BagRequest, load_model: LoadModel, *, on_progress: OnProgress
) -> BagProgress:
    """Ask about every n-th frame of a topic and write the answers with the frames' stamps.

    A damaged frame is left out and counted. `load_model` is called once everything but the frames
    has been checked, `on_progress` after every frame.

    Raises:
        MissingPackageError: rosbags is not installed.
        SourceNotFoundError: there is no recording.
        SourceError: it cannot be read to its end, or none of its frames can.
        RequestError: a mistake in the request.
        FlorenceEdgeError: the answers cannot be written. In all cases there is no new recording.
    """
    typestore = open_typestore()
    _check(request)
    with open_reader(request.source, typestore) as reader:
        frames = reader.count(request.topic)
        progress = BagProgress(total=-(-frames // request.every))  # rounded up
        model = load_model()
        model.generation_config(request.options)
        storage, overwrite = reader.storage, request.overwrite
        with open_writer(request.target, storage, typestore, overwrite=overwrite) as writer:
            answerer = _FrameAnswerer(model, messages_of(typestore), writer, request)
            answerer.add_topics()
            for frame in reader.frames(request.topic, every=request.every):
                progress = progress.plus(answerer.answer(frame))
                on_progress(progress)
            _check_complete(request, progress)
    return progress


def _check(request: BagRequest) -> None:
    names = [task.name for task in request.request.tasks]
    if len(set(names)) < len(names):
        raise RequestError(f"A task is named twice in {', '.join(names)}. Name each once.")
    if request.every < 1:
        raise RequestError(f"every is {request.every}; it must be 1 (each frame) or more.")
    source, target = request.source.resolve(), request.target.resolve()
    if target == source or target in source.parents:
        raise RequestError(
            f"{request.target} is where the frames come from; it will not be replaced. Choose "
            "another output."
        )
    check_target(request.target, overwrite=request.overwrite)


@dataclass(frozen=True, slots=True)
class _FrameAnswerer:
    """Asks about frames and writes the answers."""

    model: Florence2
    messages: Messages
    writer: BagWriter
    request: BagRequest

    def add_topics(self) -> None:
        for topics in topics_of(self.request.request):
            self.writer.add_topic(topics.detections, message_types.DETECTION_2D_ARRAY)
            self.writer.add_topic(topics.answers, message_types.STRING)
            if self.request.annotated:
                self.writer.add_topic(topics.annotated, message_types.IMAGE)

    def answer(self, frame: RecordedFrame) -> ImageError | None:
        """Nothing, or why the frame could not be read."""
        try:
            rgb = frame.rgb(self.model.image_options)
            view = self.model.encode(rgb, options=self.request.options)
        except ImageError as error:
            return error
        asked = self.request.request
        [results] = self.model.answer_each([view], [asked.prompts(view.size)])
        header, recorded = frame.message.header, frame.recorded
        if self.request.clean:
            results = [result.clean() for result in results]
        for topics, result in zip(topics_of(asked), results, strict=True):
            self.writer.write(topics.detections, self.messages.detections(result, header), recorded)
            self.writer.write(topics.answers, self.messages.text(result, header), recorded)
            if self.request.annotated:
                picture = self.messages.image(result.draw(view.image), header)
                self.writer.write(topics.annotated, picture, recorded)
        return None


def _check_complete(request: BagRequest, progress: BagProgress) -> None:
    if not progress.total:
        raise SourceError(f"{request.topic} has no frames in {request.source}.")
    if progress.done < progress.total:
        raise SourceError(
            f"{request.source} ends after {progress.done} of {progress.total} frames: it was cut "
            "short. Repair it, or have its metadata.yaml count anew: ros2 bag reindex"
        )
    if progress.failed == progress.done:
        raise SourceError(
            f"None of the {progress.done} frames of {request.topic} could be read; the last one: "
            f"{progress.error}"
        )
