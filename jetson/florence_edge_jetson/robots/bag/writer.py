"""Writing a rosbag2: under a temporary name until it is whole."""

import errno
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from florence_edge.errors import FlorenceEdgeError, RequestError
from florence_edge.files import folder_beside, replace_folder

from .reader import METADATA

if TYPE_CHECKING:
    from rosbags.rosbag2 import StoragePlugin, Writer
    from rosbags.typesys.store import Typestore

# The oldest that rosbags writes. From 9 on, QoS profiles are lists, which Humble cannot read
# (ros2/rosbag2#2013).
_BAG_VERSION: Final = 8


class BagWriter:
    """An open rosbag2 to write to; `open_writer` makes it."""

    def __init__(self, writer: "Writer", typestore: "Typestore") -> None:
        self._writer = writer
        self._typestore = typestore
        self._connections: dict[str, Any] = {}

    def add_topic(self, topic: str, kind: str) -> None:
        """Add a topic, which is there from now on even if nothing is written to it."""
        self._connections[topic] = self._writer.add_connection(
            topic, kind, typestore=self._typestore
        )

    def write(self, topic: str, message: Any, recorded: int) -> None:
        """Write a message to a topic that was added, at a time in nanoseconds."""
        connection = self._connections[topic]
        with _write_errors(self._writer.path):
            data = self._typestore.serialize_cdr(message, connection.msgtype)
            self._writer.write(connection, recorded, data)


@contextmanager
def open_writer(
    target: Path, storage: "StoragePlugin", typestore: "Typestore", *, overwrite: bool
) -> Iterator[BagWriter]:
    """A rosbag2 that appears at `target` when the block succeeds, and not at all otherwise.

    Raises:
        RequestError: `target` exists and `overwrite` is not given or does not cover it.
            Or another process is writing it.
        FlorenceEdgeError: the disk is full, or may not be written to.
    """
    from rosbags.rosbag2 import Writer

    check_target(target, overwrite=overwrite)
    with ExitStack() as stack:
        with _write_errors(target):
            folder = stack.enter_context(folder_beside(target))
        new = folder / target.name  # the name goes into the files, too
        writer = Writer(new, version=_BAG_VERSION, storage_plugin=storage)
        with _write_errors(target):
            writer.open()
        try:
            yield BagWriter(writer, typestore)
            with _write_errors(target):
                writer.close()
        except BaseException:
            with suppress(Exception):  # a full disk may refuse this as well
                writer.abort()
            raise
        check_target(target, overwrite=overwrite)  # hours may have passed
        with _write_errors(target):
            replace_folder(new, target)


def check_target(target: Path, *, overwrite: bool) -> None:
    """Refuse to write where something is that `overwrite` does not cover.

    Raises:
        RequestError: `target` exists without `overwrite`, or is not a recording and nothing but.
    """
    if not target.exists():
        return
    if not overwrite:
        raise RequestError(
            f"{target} exists. Choose another output, or pass --overwrite to replace it."
        )
    foreign = _not_of_a_recording(target)
    if foreign:
        raise RequestError(
            f"{target} holds something that is not part of a recording ({foreign[0]}), so it will "
            "not be replaced. Choose another output."
        )


def _not_of_a_recording(target: Path) -> list[str]:
    if not target.is_dir() or not (target / METADATA).is_file():
        return [target.name]
    names = (file.name for file in target.iterdir() if file.suffix not in (".db3", ".mcap"))
    return sorted(name for name in names if name != METADATA)


def _advice(error: Exception) -> str:
    full = "full" in str(error) or getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
    return "Make room on the disk, or choose another output." if full else "Choose another output."


@contextmanager
def _write_errors(target: Path) -> Iterator[None]:
    """Whatever the disk, SQLite or rosbags reports, as one message."""
    try:
        yield
    except FlorenceEdgeError:  # says what was changed, and what was not
        raise
    except Exception as error:
        raise FlorenceEdgeError(
            f"Writing {target.name} failed: {error or type(error).__name__}. Nothing was changed "
            f"there. {_advice(error)}"
        ) from error
