"""How every command begins and ends: with an exit status, and where something failed one line.

Names of files and what other people's code says may hold newlines and escapes, which a terminal
obeys; errors, logs and warnings of a command are made printable here.
"""

import argparse
import errno
import io
import logging
import os
import re
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, suppress
from types import FrameType
from typing import TextIO

from .errors import FlorenceEdgeError

logger = logging.getLogger(__name__)

_NO_MEMORY = (
    "This machine ran out of memory. Close other programs, or ask for less at once: smaller "
    "pictures, a smaller batch, a model of lower precision."
)
_NO_THREADS = (
    "The system refused another thread or process, since this user or service may have no more "
    "of them. Raise the limit (`ulimit -u`, or TasksMax= of a service)."
)
_COLOURS = re.compile(r"\x1b\[[\d;]*m")  # of argparse itself, from Python 3.14 on
# Controls, what turns the direction of writing, separators of lines, and bytes that are no text.
_HIDDEN = {
    code: chr(code).encode("unicode_escape").decode()
    for code in (
        *range(0x20),
        *range(0x7F, 0xA0),
        *range(0x200E, 0x2010),
        *range(0x2028, 0x202F),
        *range(0x2066, 0x206A),
    )
    if code != ord("\t")
}
_NAMES_AN_ERROR = re.compile(r"error|exception|fatal|terminate called|what\(\):", re.IGNORECASE)
_FROM_OUTSIDE = ("SIGTERM", "SIGKILL", "SIGINT", "SIGHUP")
_FOR_DEVELOPERS = (DeprecationWarning, PendingDeprecationWarning, FutureWarning)


def run_command(
    name: str,
    run: Callable[[], int | None],
    *,
    explain: Callable[[OSError], str] = str,
    stopped: str = "stopped.",
) -> int:
    """Run a command; what ends it early is one line on the standard error, never a traceback.

    SIGTERM and SIGHUP (a terminal or an ssh that is gone) end it as Ctrl-C does: what is unfinished
    is removed. Warnings of Python become lines of the log.

    Args:
        name: the command, in front of every line.
        run: the work; gives the exit status, None for 0.
        explain: says what to do about a full disk, or a path that cannot even be looked up.
        stopped: what to say on Ctrl-C.

    Returns:
        The exit status: that of `run`, 1 where something failed, 128 + n where signal n ended it,
        such as 130 on Ctrl-C.
    """
    with _ended_by_signals() as ended, _plain_log():
        try:
            return run() or 0
        except KeyboardInterrupt:
            _say(name, stopped)
            finish_output()
            return 128 + ended.by
        except BrokenPipeError:  # whoever read our output has left (| head)
            finish_output()
            return 1
        except FlorenceEdgeError as error:
            _say(name, shortage(error) or str(error))
            return 1
        except OSError as error:
            _say(name, shortage(error) or explain(error))
            finish_output()
            return 1
        except (MemoryError, RuntimeError) as error:
            what = shortage(error)
            if what is None:
                raise
            _say(name, what)
            return 1


def shortage(error: BaseException) -> str | None:
    """What to say where an error comes from too little memory or too few threads, else None.

    An error of ours that names either says more than this could.
    """
    cause: BaseException | None = error
    while cause is not None:
        if _is_memory(cause):
            return None if _names(error, "memory") else _NO_MEMORY
        if _is_threads(cause):
            return None if _names(error, "thread", "process") else _NO_THREADS
        cause = cause.__cause__
    return None


def _is_memory(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    of_c = isinstance(error, RuntimeError) and any(
        words in str(error) for words in ("std::bad_alloc", "can't allocate memory")
    )
    return isinstance(error, MemoryError) or of_c


def _is_threads(error: BaseException) -> bool:
    if isinstance(error, OSError):  # of fork; one of a pipe that is full has words of its own
        return error.errno == errno.EAGAIN and error.strerror == os.strerror(errno.EAGAIN)
    return isinstance(error, RuntimeError) and "can't start new thread" in str(error)


def _names(error: BaseException, *words: str) -> bool:
    return isinstance(error, FlorenceEdgeError) and any(word in str(error) for word in words)


def _say(name: str, message: str) -> None:
    if sys.stderr is not None:  # closed from the start (2>&-)
        with suppress(OSError):  # the terminal may be gone
            print(f"{name}: {printable(message)}", file=sys.stderr, flush=True)


def how_it_ended(status: int, errors: Iterable[str]) -> str:
    """What to say of another process that ended early: "ended with status 1: ValueError: ...".

    Args:
        status: as `subprocess` has it, negative where a signal ended the process.
        errors: the lines of its standard error. The last that names an error is quoted, and of a
            process that ended by itself, the last. One that was ended from outside had none to say.
    """
    ended, by = f"ended with status {status}", ""
    if status < 0:
        with suppress(ValueError):  # a number that has no name here
            by = signal.Signals(-status).name
            ended = f"was ended by signal {-status} ({by})"
    if by in _FROM_OUTSIDE:
        return f"{ended}, perhaps for want of memory" if by == "SIGKILL" else ended
    lines = [line.strip() for line in errors]
    named = [line for line in lines if _NAMES_AN_ERROR.search(line)]
    last = named or [line for line in lines if line and status > 0]
    return f"{ended}: {last[-1]}" if last else ended


def finish_output() -> None:
    """Write what is left of the output, or send it nowhere: Python would fail at its exit."""
    if sys.stdout is None:  # closed from the start (>&-)
        return
    try:
        sys.stdout.flush()
    except OSError:
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def printable(text: object) -> str:
    """A text on one line for a terminal: newlines, escapes and other controls as `\\n`, `\\x1b`.

    Names of files may hold them, and a terminal obeys.
    """
    shown = str(text).translate(_HIDDEN)
    return shown.encode("utf-8", "backslashreplace").decode()  # bytes that are no UTF-8


def plain(text: str) -> str:
    """A text of several lines, each of them made printable."""
    return "\n".join(map(printable, text.split("\n")))


@contextmanager
def plain_usage() -> Iterator[None]:
    """For argparse, whose complaints quote arguments: names of files, where a shell found them."""
    usage = io.StringIO()
    try:
        with redirect_stderr(usage):
            yield
    finally:
        if usage.getvalue() and sys.stderr is not None:
            sys.stderr.write(plain(_COLOURS.sub("", usage.getvalue())))


def parsed(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> argparse.Namespace:
    """What a parser makes of the arguments of a command, its complaints made printable."""
    with plain_usage():
        return parser.parse_args(arguments)


class _Ended:
    """Which signal ended a command."""

    def __init__(self) -> None:
        self.by = int(signal.SIGINT)

    def set(self, number: int, _: FrameType | None) -> None:
        """Raise KeyboardInterrupt, once: a hang-up often comes as SIGHUP and SIGTERM."""
        self.by = number
        for each in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt


@contextmanager
def _ended_by_signals() -> Iterator[_Ended]:
    ended = _Ended()
    before = {}
    if threading.current_thread() is threading.main_thread():  # others may not ask for signals
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) != signal.SIG_IGN:  # as nohup has it
                before[number] = signal.signal(number, ended.set)
    try:
        yield ended
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _plain_log() -> Iterator[None]:
    """Messages of every log on one line each, and Python's warnings among them."""
    handlers = [*logging.getLogger().handlers]
    handlers += [] if logging.lastResort is None else [logging.lastResort]
    show = warnings.showwarning
    for handler in handlers:
        handler.addFilter(_make_printable)
    warnings.showwarning = _log_warning
    try:
        yield
    finally:
        warnings.showwarning = show
        for handler in handlers:
            handler.removeFilter(_make_printable)


def _make_printable(record: logging.LogRecord) -> bool:
    try:
        message = record.getMessage()
    except (TypeError, ValueError):  # arguments that do not fit, which logging itself reports
        return True
    if printable(message) != message:
        record.msg, record.args = printable(message), None
    return True


def _log_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    level = logging.DEBUG if issubclass(category, _FOR_DEVELOPERS) else logging.WARNING
    logger.log(level, "%s", " ".join(str(message).split()))
