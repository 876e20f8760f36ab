"""Florence-2 on the edge: all 15 tasks, without PyTorch or transformers.

What is imported from here is public. `watch` and its types are loaded when they are first used, so
that a program without a camera loads no video code.

The other packages of this project use more, which is internal and may change with any version: of
`Florence2` its `__init__`, `backend`, `answer`, `answer_each`, `encode_prompts` and
`generation_config`, of `EncodedImage` its `picture` and `features`, and all names in modules below
this one that are not imported here.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from .batch import Answered, run_many
from .bundle import Bundle, StoredFile
from .contract import ModelSize
from .cuda.frame import DeviceImage
from .devices import Device, EngineSettings
from .encoded_image import EncodedImage
from .errors import (
    BackendError,
    BundleError,
    BundleNotFoundError,
    FlorenceEdgeError,
    ImageError,
    ImageFormatError,
    ImageNotFoundError,
    ImageTooLargeError,
    MissingPackageError,
    RequestError,
    SourceError,
    SourceNotFoundError,
)
from .image import ImageLike
from .image_file import Color, DeepRange, ImageOptions
from .model import Florence2
from .options import EarlyStopping, GenerationConfig, GenerationOptions
from .processing import PreparedImages, prepare_images
from .questions import Answer, Question
from .regions import Box, BoxLike, Convention, Region, RegionShape, RelativeBox, Ring
from .results.formats import ClassIds
from .results.parse import parse
from .results.result import DECODE, IMAGE, PARSE, PREFILL, STAGES, VISION, Result, Status
from .search import CutOff
from .tasks import (
    TASKS,
    AnswerKind,
    Needs,
    Prompt,
    RegionEach,
    Request,
    Task,
    TaskLike,
    TaskList,
    TaskName,
    TasksLike,
    TextEach,
    request_for,
)
from .tokenizer import OnText

if TYPE_CHECKING:
    from .video.frames import SourceFrame, frames
    from .video.sources import CameraMode, SourceLike
    from .video.watch import VideoFrame, Watched, Watching, WatchStats, watch

__version__ = "0.1.0"

_LOADED_WHEN_USED = {
    **dict.fromkeys(("SourceFrame", "frames"), ".video.frames"),
    **dict.fromkeys(("CameraMode", "SourceLike"), ".video.sources"),
    **dict.fromkeys(("VideoFrame", "WatchStats", "Watched", "Watching", "watch"), ".video.watch"),
}

__all__ = [
    "DECODE",
    "IMAGE",
    "PARSE",
    "PREFILL",
    "STAGES",
    "TASKS",
    "VISION",
    "Answer",
    "AnswerKind",
    "Answered",
    "BackendError",
    "Box",
    "BoxLike",
    "Bundle",
    "BundleError",
    "BundleNotFoundError",
    "CameraMode",
    "ClassIds",
    "Color",
    "Convention",
    "CutOff",
    "DeepRange",
    "Device",
    "DeviceImage",
    "EarlyStopping",
    "EncodedImage",
    "EngineSettings",
    "Florence2",
    "FlorenceEdgeError",
    "GenerationConfig",
    "GenerationOptions",
    "ImageError",
    "ImageFormatError",
    "ImageLike",
    "ImageNotFoundError",
    "ImageOptions",
    "ImageTooLargeError",
    "MissingPackageError",
    "ModelSize",
    "Needs",
    "OnText",
    "PreparedImages",
    "Prompt",
    "Question",
    "Region",
    "RegionEach",
    "RegionShape",
    "RelativeBox",
    "Request",
    "RequestError",
    "Result",
    "Ring",
    "SourceError",
    "SourceFrame",
    "SourceLike",
    "SourceNotFoundError",
    "Status",
    "StoredFile",
    "Task",
    "TaskLike",
    "TaskList",
    "TaskName",
    "TasksLike",
    "TextEach",
    "VideoFrame",
    "WatchStats",
    "Watched",
    "Watching",
    "__version__",
    "frames",
    "parse",
    "prepare_images",
    "request_for",
    "run_many",
    "watch",
]


def __getattr__(name: str) -> object:
    if name not in _LOADED_WHEN_USED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_LOADED_WHEN_USED[name], __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
