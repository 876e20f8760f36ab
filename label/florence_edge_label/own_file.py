"""Files that several processes may write at a time: each under a name of its own, then renamed.

`florence_edge.files.whole_file` admits one writer. Here writers of one run would write the same
(machines that share a folder; a worker that was thought lost), and the last rename stands.
"""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from florence_edge.files import put_in_place

_UNFINISHED = ".unfinished"


@contextmanager
def own_file(target: Path) -> Iterator[Path]:
    """The place of an unfinished file; it is `target`, on the disk, when the block ends.

    Where the block fails what was at `target` is left, and nothing of the unfinished file.

    Raises:
        OSError: it cannot be written.
    """
    with draft_of(target) as unfinished:
        yield unfinished
        put_in_place(unfinished, target)


@contextmanager
def draft_of(target: Path) -> Iterator[Path]:
    """The place of a file beside `target` that is gone when the block ends, unless it was renamed.

    Raises:
        OSError: it cannot be removed.
    """
    own = f".{target.name}.{socket.gethostname()}-{os.getpid()}{_UNFINISHED}"
    unfinished = target.with_name(own)
    try:
        yield unfinished
    finally:
        unfinished.unlink(missing_ok=True)


def remove_unfinished(folder: Path) -> None:
    """Remove what killed processes of this machine left in a folder."""
    for left in folder.glob(f".*.{socket.gethostname()}-*{_UNFINISHED}"):
        writer = left.name.removesuffix(_UNFINISHED).rpartition("-")[2]
        if not (writer.isdecimal() and _is_running(int(writer))):
            left.unlink(missing_ok=True)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    return True
