"""Florence-2 on the edge: all 15 tasks, without PyTorch or transformers."""

from .answers.parse import parse
from .answers.regions import Region
from .answers.result import Result
from .errors import (
    BackendError,
    BundleError,
    FlorenceEdgeError,
    ImageError,
    RequestError,
    SourceError,
)
from .model import Florence2
from .options import GenerationOptions
from .tasks import TASKS, Task
from .video.watch import Watching
from .view import View

__version__ = "0.1.0"

__all__ = [
    "TASKS",
    "BackendError",
    "BundleError",
    "Florence2",
    "FlorenceEdgeError",
    "GenerationOptions",
    "ImageError",
    "Region",
    "RequestError",
    "Result",
    "SourceError",
    "Task",
    "View",
    "Watching",
    "__version__",
    "parse",
]
