"""Files that grow while a run goes on, and keep what they have however it ends."""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

from ..errors import FlorenceEdgeError, RequestError
from ..files import hold, synced_while_it_grows


@contextmanager
def open_new(path: Path, option: str) -> Iterator[Callable[[str], None]]:
    """A new file, which takes text; what was written is with the system at once.

    Args:
        path: where; its folder is made.
        option: what names it on the command line.

    Raises:
        RequestError: the file is there and not empty, or another process writes it.
        FlorenceEdgeError: it cannot be written.
    """
    with ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(opened_to_append(path))
            hold(file.fileno(), path)
            begun = has_content(path)
        except OSError as error:
            raise FlorenceEdgeError(f"Cannot write {path}: {error}. Choose another.") from error
        if begun:
            raise RequestError(f"{path} is there already. Choose another {option}.")
        stack.enter_context(synced_while_it_grows(file, path))

        def write(text: str) -> None:
            try:
                file.write(text)
                file.flush()
            except OSError as error:
                with suppress(OSError):  # or closing would try to write the same once more
                    file.close()
                raise FlorenceEdgeError(f"Cannot write {path}: {error}. Make room.") from error

        yield write


def has_content(path: Path) -> bool:
    """Whether it is a file that is not empty; a pipe or a device is none."""
    return path.is_file() and path.stat().st_size > 0


def opened_to_append(path: Path) -> IO[str]:
    """The file, or a pipe that somebody reads; one that nobody reads would wait for ever."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        descriptor = os.open(path, flags, 0o666)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        raise OSError(errno.ENXIO, "it is a pipe that nobody reads", str(path)) from error
    os.set_blocking(descriptor, True)
    return os.fdopen(descriptor, "a", encoding="utf-8")
