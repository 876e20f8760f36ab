"""The errors of the toolkit.

    FlorenceEdgeError
    ├── BundleError              a bundle or checkpoint is missing, damaged or of another kind
    │   └── BundleNotFoundError      (also a FileNotFoundError)
    ├── BackendError             an engine did not become active, or failed while running
    ├── SourceError              a camera, stream or video cannot be read, or is lost
    │   └── SourceNotFoundError      (also a FileNotFoundError)
    ├── MissingPackageError      an optional package is not installed (also an ImportError)
    └── RequestError             a wrong argument, whoever was given it (also a ValueError)
        └── ImageError               an image cannot be read
            ├── ImageNotFoundError       (also a FileNotFoundError)
            ├── ImageFormatError         not a picture of a format that is opened
            └── ImageTooLargeError       more pixels than are allowed

A message says what happened, what was expected, and what to do.
"""

MODEL_CLOSED = "This model was closed. Load it again."
"""The `BackendError` of every use of a model after its `close`."""


class FlorenceEdgeError(Exception):
    """Base of every error that this project raises on purpose."""


class BundleError(FlorenceEdgeError):
    """A bundle or a checkpoint cannot be used: missing, damaged, or made for something else."""


class BundleNotFoundError(BundleError, FileNotFoundError):
    """There is no bundle or checkpoint at this path."""


class BackendError(FlorenceEdgeError):
    """An engine did not become active, does not fit the bundle, or failed while running."""


class SourceError(FlorenceEdgeError):
    """A camera, stream or video that cannot be opened or read, or that fell silent."""


class SourceNotFoundError(SourceError, FileNotFoundError):
    """There is no video or recording at this path."""


class MissingPackageError(FlorenceEdgeError, ImportError):
    """An optional package is not installed; the message says which extra brings it."""


class RequestError(FlorenceEdgeError, ValueError):
    """A request that cannot be answered: unknown task, missing text, impossible option."""


class ImageError(RequestError):
    """A picture that cannot be read or has no pixels."""


class ImageNotFoundError(ImageError, FileNotFoundError):
    """There is no picture at this path."""


class ImageFormatError(ImageError):
    """It is not a picture, or one of a format that is not opened."""


class ImageTooLargeError(ImageError):
    """A picture has more pixels than are allowed."""
