"""The errors of the toolkit.

    FlorenceEdgeError
    ├── BundleError       a bundle or checkpoint is missing, damaged or of another kind
    ├── BackendError      an engine is not there or did not become active
    ├── SourceError       a camera, stream or video cannot be read, or is lost
    └── RequestError      a question cannot be asked as put (also a ValueError)
        └── ImageError    an image cannot be read

A message says what happened, what was expected, and what to do.
"""


class FlorenceEdgeError(Exception):
    """Base of every error that this project raises on purpose."""


class BundleError(FlorenceEdgeError):
    """A bundle or a checkpoint cannot be used: missing, damaged, or made for something else."""


class BackendError(FlorenceEdgeError):
    """An engine is not installed, did not become active, or failed while running."""


class SourceError(FlorenceEdgeError):
    """A camera, stream or video that cannot be opened or read, or that fell silent."""


class RequestError(FlorenceEdgeError, ValueError):
    """A request that cannot be answered: unknown task, missing text, impossible option."""


class ImageError(RequestError):
    """A picture that cannot be read or has no pixels."""
