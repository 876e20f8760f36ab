"""Recordings of a camera, what florence-bag makes of them, and what it refuses."""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rosbags.rosbag2 import CompressionFormat, CompressionMode, Reader, StoragePlugin, Writer

from florence_edge import Florence2, GenerationOptions
from florence_edge.errors import FlorenceEdgeError
from florence_edge.tasks import request_for
from florence_edge_jetson.robots.bag.answer import BagProgress, BagRequest, answer_bag
from florence_edge_jetson.robots.bag.reader import open_typestore
from florence_edge_jetson.robots.ros import message_types

from .scripted_model import Rgb, noise

TYPESTORE = open_typestore()
TOPIC = "/camera/image"
START = 1_700_000_000_000_000_000
LATER = 5_000_000  # nanoseconds between a frame's stamp and its recording
STORAGES = [StoragePlugin.SQLITE3, StoragePlugin.MCAP]
FRAMES = [noise(seed) for seed in range(4)]
SHORT = GenerationOptions(num_beams=1, max_new_tokens=12)


def stamp_of(number: int) -> tuple[int, int]:
    return 100 + number, 7 * number


def header_of(number: int) -> Any:
    seconds, nanoseconds = stamp_of(number)
    stamp = TYPESTORE.types["builtin_interfaces/msg/Time"](sec=seconds, nanosec=nanoseconds)
    return TYPESTORE.types[message_types.HEADER](stamp=stamp, frame_id="camera")


def raw(picture: Rgb, number: int, encoding: str = "rgb8") -> Any:
    return TYPESTORE.types[message_types.IMAGE](
        header=header_of(number),
        height=picture.shape[0],
        width=picture.shape[1],
        encoding=encoding,
        is_bigendian=0,
        step=picture.shape[1] * 3,
        data=np.ascontiguousarray(picture).reshape(-1),
    )


def bgr(picture: Rgb, number: int) -> Any:
    return raw(picture[:, :, ::-1], number, "bgr8")


def png(picture: Rgb, number: int) -> Any:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    data = np.frombuffer(file.getvalue(), dtype=np.uint8)
    return TYPESTORE.types[message_types.COMPRESSED_IMAGE](
        header=header_of(number), format="png", data=data
    )


Make = Callable[[Rgb, int], Any]


def record(
    path: Path,
    pictures: Sequence[Rgb] = FRAMES,
    *,
    storage: StoragePlugin = StoragePlugin.SQLITE3,
    make: Make = raw,
    change: Callable[[list[Any]], list[Any]] = list,
    packed: CompressionMode = CompressionMode.NONE,
) -> Path:
    """A recording of a camera and of something else; `change` may change its messages."""
    messages = change([make(picture, number) for number, picture in enumerate(pictures)])
    kind = message_types.COMPRESSED_IMAGE if make is png else message_types.IMAGE
    new = Writer(path, version=8, storage_plugin=storage)
    new.set_compression(packed, CompressionFormat.ZSTD)
    with new as writer:
        camera = writer.add_connection(TOPIC, kind, typestore=TYPESTORE)
        other = writer.add_connection("/chatter", message_types.STRING, typestore=TYPESTORE)
        for number, message in enumerate(messages):
            recorded = START + number * 100_000_000 + LATER
            writer.write(camera, recorded, TYPESTORE.serialize_cdr(message, kind))
            words = TYPESTORE.types[message_types.STRING](data=f"line {number}")
            writer.write(other, recorded + 1, TYPESTORE.serialize_cdr(words, message_types.STRING))
    return path


@dataclass(frozen=True)
class RecordedMessage:
    """A message of the new recording."""

    recorded: int
    message: Any


def recorded_messages(path: Path) -> dict[str, list[RecordedMessage]]:
    """All messages of a recording by their topics."""
    with Reader(path) as reader:
        found: dict[str, list[RecordedMessage]] = {each.topic: [] for each in reader.connections}
        for connection, recorded, data in reader.messages():
            message = TYPESTORE.deserialize_cdr(data, connection.msgtype)
            found[connection.topic].append(RecordedMessage(recorded, message))
    return found


Answer = Callable[..., BagProgress]


def answering(model: Florence2) -> Answer:
    """Has a recording answered by a model: about all that it holds, unless asked otherwise."""

    def answer(source: Path, target: Path, **changes: Any) -> BagProgress:
        asked = {key: changes.pop(key) for key in ("text", "region") if key in changes}
        tasks = request_for(changes.pop("task", "OD"), **asked)
        settings = {"topic": TOPIC, "request": tasks, "options": SHORT, **changes}
        request = BagRequest(source=source, target=target, **settings)
        return answer_bag(request, lambda: model, on_progress=lambda progress: None)

    return answer


def refused(answer: Answer, source: Path, target: Path, **changes: Any) -> str:
    before = sorted(path.name for path in target.parent.iterdir())
    with pytest.raises(FlorenceEdgeError) as refusal:
        answer(source, target, **changes)
    assert sorted(path.name for path in target.parent.iterdir()) == before
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


def damaged(messages: list[Any]) -> list[Any]:
    messages[1].data = messages[1].data[:20]
    messages[2].data = messages[2].data[:0]
    return messages
