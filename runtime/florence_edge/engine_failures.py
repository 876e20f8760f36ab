"""What other people's engines raise, told as what happened here: an absent package, a shortage, a
graph that does not fit."""

import errno

from .errors import BackendError, FlorenceEdgeError, MissingPackageError

# As Python, the loader of shared libraries and the engines say it.
_OF_MEMORY = (
    "cannot allocate memory",
    "bad_alloc",
    "bad allocation",
    "failed to map segment",
    "out of memory",
    "failed to allocate memory",
    "unable to allocate",
    "not enough memory",
)
_OF_THREADS = ("can't start new thread", "pthread_create", "resource temporarily unavailable")

SEE_DOCTOR = "florence-doctor looks for the cause."
"""What to do where the machine is to blame; the doctor itself leaves it out."""

# What importing an engine raises where its libraries are absent, or find no memory or threads.
ENGINE_FAILURES = (ImportError, MemoryError, OSError, RuntimeError)


def not_imported(error: BaseException, package: str, absent: str) -> FlorenceEdgeError:
    """The error for an engine whose `package` was not imported; `absent` is for one not installed.

    A `MissingPackageError` for that, a `BackendError` for everything else.
    """
    if isinstance(error, ModuleNotFoundError) and (error.name or "").startswith(package):
        return MissingPackageError(absent)
    short = _shortage(error)
    if short is not None:
        return BackendError(f"The package {package} was not loaded: {reason(error)}. {short}")
    return BackendError(
        f"The package {package} is installed, but does not load: {reason(error)}. Install it again "
        f"by the name that pip list shows ({package} or one that begins so): pip install "
        "--force-reinstall NAME."
    )


def engine_failure(
    doing: str, error: BaseException, remedy: str = "", *, known: str = ""
) -> BackendError:
    """The error for what an engine failed at.

    `known` is what to do about this very error, and `remedy` what to do if nothing is known and
    this machine has not run out of memory or threads.
    """
    what_to_do = known or _shortage(error) or remedy
    return BackendError(f"{doing}: {reason(error).removesuffix('.')}. {what_to_do}".rstrip())


def is_shortage(error: BaseException) -> bool:
    """Whether this machine ran out of memory or threads."""
    return _shortage(error) is not None


def reason(error: BaseException) -> str:
    """What an error says, without the places in OpenVINO's source that it passed through."""
    lines = [line.strip() for line in str(error).splitlines()]
    message = [line for line in lines if line and not line.startswith("Exception from ")]
    return " ".join(message) or str(error) or type(error).__name__


def _shortage(error: BaseException) -> str | None:
    """What to do about it where this machine ran out of memory or threads; else None."""
    said, code = str(error).lower(), getattr(error, "errno", None)
    if isinstance(error, MemoryError) or code == errno.ENOMEM or _any_in(_OF_MEMORY, said):
        return (
            "There is not enough memory: end other programs, raise the limit of this process "
            "(ulimit -v) or its container, or use a smaller model, batch or picture."
        )
    if isinstance(error, BlockingIOError) or _any_in(_OF_THREADS, said):
        return (
            "The system starts no more threads here, or lacks the memory for them: end other "
            "programs, or raise the limits (ulimit -u and -v, the container's)."
        )
    return None


def _any_in(words: tuple[str, ...], text: str) -> bool:
    return any(word in text for word in words)
