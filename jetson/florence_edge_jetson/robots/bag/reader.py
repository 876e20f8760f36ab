"""Reading a rosbag2: which image topics it has, and their frames in turn.

    with open_reader(path, open_typestore()) as reader:
        for frame in reader.frames("/camera/image", every=2):
            frame.rgb()

The package rosbags does the reading, without ROS. It is imported when a bag is opened.
"""

import errno
import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import import_module
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import TYPE_CHECKING, Any

import numpy as np

from florence_edge.errors import (
    FlorenceEdgeError,
    MissingPackageError,
    RequestError,
    SourceError,
    SourceNotFoundError,
)
from florence_edge.extras import pip_install
from florence_edge.files import open_plain
from florence_edge.image_file import ImageOptions

from ..ros import message_types
from ..ros.images import READERS, RgbImage
from ..ros.messages import Messages

if TYPE_CHECKING:
    from rosbags.rosbag2 import Reader, StoragePlugin
    from rosbags.typesys.store import Typestore

METADATA = "metadata.yaml"
_PACKED = ".zstd"


def open_typestore() -> "Typestore":
    """The message types of Humble with those of vision_msgs.

    Images, headers and the other types used here are the same in Jazzy.

    Raises:
        MissingPackageError: rosbags is not installed.
    """
    try:
        from rosbags.typesys import Stores, get_types_from_msg, get_typestore
    except ImportError as error:
        raise MissingPackageError(
            "Recordings are read by the package rosbags, which is not installed. "
            f"Install it with: {pip_install('ros')}"
        ) from error
    typestore = get_typestore(Stores.ROS2_HUMBLE)
    for name, definition in message_types.VISION_MSGS.items():
        typestore.register(get_types_from_msg(definition, name))
    return typestore


def messages_of(typestore: "Typestore") -> Messages:
    """Makes messages that `typestore` can serialize."""
    types = {name: typestore.types[name] for name in message_types.WRITTEN}
    return Messages(types=types, uint8_array=_uint8_array)


def _uint8_array(data: bytes) -> Any:
    return np.frombuffer(data, dtype=np.uint8)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RecordedFrame:
    """One image message, and when it was recorded."""

    topic: str
    type: str
    recorded: int
    """Nanoseconds; when the recorder got it, which need not be its stamp."""
    message: Any

    def rgb(self, options: ImageOptions | None = None) -> RgbImage:
        """Its pixels, [height, width, 3].

        Raises:
            RequestError: its encoding is not known.
            ImageError: it is damaged, or larger than `options.max_pixels`.
            MissingPackageError: it is a Bayer pattern, and OpenCV is not installed.
        """
        return READERS[self.type](self.message, self.topic, options)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BagReader:
    """An open rosbag2; `open_reader` makes it."""

    path: Path
    reader: "Reader"
    typestore: "Typestore"

    @property
    def storage(self) -> "StoragePlugin":
        """How it is stored: SQLite3 or MCAP."""
        from rosbags.rosbag2 import StoragePlugin

        files = self.path.iterdir() if self.path.is_dir() else [self.path]
        is_mcap = any(".mcap" in file.suffixes for file in files)
        return StoragePlugin.MCAP if is_mcap else StoragePlugin.SQLITE3

    def count(self, topic: str) -> int:
        """How many frames `topic` has.

        Raises:
            RequestError: there is no such image topic; the message lists those there are.
        """
        kinds = {each.topic: each.msgtype for each in self.reader.connections}
        if kinds.get(topic) not in READERS:
            found = f"has the type {kinds[topic]}" if topic in kinds else "is not in it"
            raise RequestError(
                f"{self.path} has no image topic {topic}: it {found}. {self._image_topics()}"
            )
        return sum(each.msgcount for each in self.reader.connections if each.topic == topic)

    def frames(self, topic: str, *, every: int = 1) -> Iterator[RecordedFrame]:
        """Every n-th frame of a topic, the first one first.

        Raises:
            RequestError: there is no such topic.
            SourceError: the recording ends in the middle.
        """
        self.count(topic)
        connections = [each for each in self.reader.connections if each.topic == topic]
        with _read_errors(self.path):
            messages = islice(self.reader.messages(connections), None, None, every)
            for connection, recorded, data in messages:
                message = self.typestore.deserialize_cdr(data, connection.msgtype)
                yield RecordedFrame(
                    topic=topic, type=connection.msgtype, recorded=recorded, message=message
                )

    def _image_topics(self) -> str:
        found = sorted(
            f"{each.topic} ({each.msgtype}, {each.msgcount} frames)"
            for each in self.reader.connections
            if each.msgtype in READERS
        )
        if not found:
            return "None of its topics carries images."
        return f"Its image topics: {', '.join(found)}."


@contextmanager
def open_reader(path: Path, typestore: "Typestore") -> Iterator[BagReader]:
    """A rosbag2 folder, or one of its .db3 or .mcap files; packed files (.zstd) are unpacked.

    What is unpacked goes to the folder for temporary files (TMPDIR), and is removed in the end.

    Raises:
        SourceNotFoundError: there is none.
        SourceError: it cannot be read; what to do about it.
    """
    _check_there(path)
    from rosbags.rosbag2 import Reader

    with ExitStack() as stack:
        with _read_errors(path):
            reader = stack.enter_context(Reader(_unpacked(path, stack)))
        yield BagReader(path=path, reader=reader, typestore=typestore)


def _unpacked(path: Path, stack: ExitStack) -> Path:
    """The file itself, or what `ros2 bag record --compression-mode file` packed."""
    if path.is_dir() or path.suffix != _PACKED:
        return path
    folder = stack.enter_context(TemporaryDirectory(prefix="florence-bag-"))
    unpacked = Path(folder, path.stem)
    zstd = import_module("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")
    with open_plain(path) as file, zstd.open(file) as packed, unpacked.open("wb") as target:
        shutil.copyfileobj(packed, target)
    return unpacked


def _check_there(path: Path) -> None:
    if not path.exists():
        raise SourceNotFoundError(f"There is no recording at {path}.")
    for file in path.iterdir() if path.is_dir() else [path]:
        if not file.is_file() and not file.is_dir() and file.exists():
            raise SourceError(f"{file} is a pipe or a device, and no recording. Name a file.")
    if path.is_file() and path.suffix == ".bag":
        raise SourceError(
            f"{path} is a recording of ROS 1. Convert it first: "
            f"rosbags-convert --src {path} --dst {path.stem}"
        )
    if path.is_dir() and not (path / METADATA).exists():
        raise SourceError(
            f"{path} has no {METADATA}: its recorder was not stopped properly, or it is not a "
            f"rosbag2. Write one with: ros2 bag reindex {path} - or name a .db3 or .mcap file in "
            "it."
        )


@contextmanager
def _read_errors(path: Path) -> Iterator[None]:
    """Whatever rosbags, SQLite or a decompressor reports, as one message.

    Errors of our own, and those of whoever works with the frames, pass: a generator is closed
    with GeneratorExit, which is not an Exception.
    """
    try:
        yield
    except FlorenceEdgeError:
        raise
    except Exception as error:
        raise SourceError(
            f"{path} cannot be read (any further): {_first_line(error)} {_advice(path, error)}"
        ) from error


def _advice(path: Path, error: Exception) -> str:
    if isinstance(error, PermissionError):
        return "Run as a user who may read it."
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"Packed recordings are unpacked in {gettempdir()}. Make room there, or name another "
            "folder in TMPDIR."
        )
    if "not supported" in str(error):
        return "Update the package rosbags, or convert the recording: ros2 bag convert"
    if "are missing" in str(error):
        return f"Copy the whole folder, or leave them out for good: ros2 bag reindex {path}"
    if path.is_file() and path.name.removesuffix(_PACKED).rpartition(".")[2] not in ("db3", "mcap"):
        return "Name a rosbag2 folder, or its .db3 or .mcap file (which may be packed: .zstd)."
    return (
        "It is damaged or was cut short. An .mcap file may be repaired with: mcap recover FILE "
        "--output REPAIRED; a .db3 file with: sqlite3 FILE .recover | sqlite3 REPAIRED"
    )


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines() or [type(error).__name__]
    return lines[0].removesuffix(".") + "."
