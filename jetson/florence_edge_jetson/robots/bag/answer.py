"""A recorded camera topic, answered frame by frame; the answers make a new recording."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from florence_edge.errors import ImageError, RequestError, SourceError
from florence_edge.model import Florence2
from florence_edge.options import GenerationOptions
from florence_edge.tasks import request_for

from ..ros import message_types
from ..ros.messages import Messages
from .reader import RecordedFrame, messages_of, open_reader, open_typestore
from .writer import BagWriter, check_target, open_writer

# The topics of the node in jetson/ros2, so that whoever listens to it can listen to a recording.
DETECTIONS = "/florence_edge/detections"
ANSWERS = "/florence_edge/answers"
ANNOTATED = "/florence_edge/annotated"

LoadModel = Callable[[], Florence2]
OnProgress = Callable[["BagProgress"], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class BagRequest:
    """What to ask about which frames of a recording, and where the answers go."""

    source: Path
    target: Path
    topic: str
    task: str
    text: str | None = None
    every: int = 1
    """Ask about every n-th frame, the first one first."""
    annotated: bool = False
    """Write the pictures with the answers drawn on them, too."""
    overwrite: bool = False
    options: GenerationOptions | None = None


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
    request_for(request.task, request.text)
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
        self.writer.add_topic(DETECTIONS, message_types.DETECTION_2D_ARRAY)
        self.writer.add_topic(ANSWERS, message_types.STRING)
        if self.request.annotated:
            self.writer.add_topic(ANNOTATED, message_types.IMAGE)

    def answer(self, frame: RecordedFrame) -> ImageError | None:
        """Nothing, or why the frame could not be read."""
        try:
            rgb = frame.rgb(self.model.image_options)
            view = self.model.encode(rgb, options=self.request.options)
        except ImageError as error:
            return error
        result = view.run(self.request.task, self.request.text)
        header, recorded = frame.message.header, frame.recorded
        self.writer.write(DETECTIONS, self.messages.detections(result, header), recorded)
        self.writer.write(ANSWERS, self.messages.text(result, header), recorded)
        if self.request.annotated:
            picture = result.draw(view.image)
            self.writer.write(ANNOTATED, self.messages.image(picture, header), recorded)
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
