import errno
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("rosbags", reason="install florence-edge[ros]")

from rosbags.rosbag2 import CompressionFormat, CompressionMode, Reader, StoragePlugin, Writer

from florence_edge import Florence2, GenerationOptions
from florence_edge.errors import FlorenceEdgeError, MissingPackageError
from florence_edge.files import lock
from florence_edge.tasks import request_for
from florence_edge_jetson.robots.bag.answer import (
    ANNOTATED,
    ANSWERS,
    DETECTIONS,
    BagProgress,
    BagRequest,
    answer_bag,
)
from florence_edge_jetson.robots.bag.cli import main
from florence_edge_jetson.robots.bag.reader import open_reader, open_typestore
from florence_edge_jetson.robots.ros import message_types
from florence_edge_jetson.robots.ros.images import rgb_from_image

from ..helpers.disk import check_synced_before_it_got_its_name, recorded
from ..helpers.manifests import edit_manifest
from ..helpers.paused import let_hang_ups_count
from .scripted_model import (
    BOXES,
    FIND_DEFECTS,
    HEIGHT,
    LOG_PROB,
    WIDTH,
    Rgb,
    noise,
    scripted_model,
)

TYPESTORE = open_typestore()
TOPIC = "/camera/image"
START = 1_700_000_000_000_000_000
LATER = 5_000_000  # nanoseconds between a frame's stamp and its recording
STORAGES = [StoragePlugin.SQLITE3, StoragePlugin.MCAP]
FRAMES = [noise(seed) for seed in range(4)]
GROUNDING = "CAPTION_TO_PHRASE_GROUNDING"
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


@pytest.fixture
def scripted(tiny_bundle: Path) -> Florence2:
    return scripted_model(tiny_bundle)[0]


@pytest.fixture
def answer(scripted: Florence2) -> Answer:
    """Has a recording answered by the scripted model."""

    def answer(source: Path, target: Path, **changes: Any) -> BagProgress:
        asked = {key: changes.pop(key) for key in ("text", "region") if key in changes}
        tasks = request_for(changes.pop("task", "OD"), **asked)
        settings = {"topic": TOPIC, "request": tasks, "options": SHORT, **changes}
        request = BagRequest(source=source, target=target, **settings)
        return answer_bag(request, lambda: scripted, on_progress=lambda progress: None)

    return answer


# What is written.


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("make", [raw, bgr, png])
def test_every_frame_is_answered_with_its_stamp(
    answer: Answer, tmp_path: Path, storage: StoragePlugin, make: Make
) -> None:
    source = record(tmp_path / "in", storage=storage, make=make)
    progress = answer(source, tmp_path / "out")
    assert progress == BagProgress(done=4, total=4)
    found = recorded_messages(tmp_path / "out")
    assert set(found) == {DETECTIONS, ANSWERS}
    assert len(found[DETECTIONS]) == len(found[ANSWERS]) == 4
    for number, (detections, text) in enumerate(
        zip(found[DETECTIONS], found[ANSWERS], strict=True)
    ):
        recorded = START + number * 100_000_000 + LATER
        assert detections.recorded == text.recorded == recorded
        stamp = detections.message.header.stamp
        assert (stamp.sec, stamp.nanosec) == stamp_of(number)
        assert detections.message.header.frame_id == "camera"
        spoken = json.loads(text.message.data)
        assert (spoken["stamp"]["sec"], spoken["stamp"]["nanosec"]) == stamp_of(number)


def test_detections_are_those_of_the_model(answer: Answer, tmp_path: Path) -> None:
    answer(record(tmp_path / "in"), tmp_path / "out", task="REGION_PROPOSAL")
    for each in recorded_messages(tmp_path / "out")[DETECTIONS]:
        assert len(each.message.detections) == len(BOXES)
        for detection, (left, top, right, bottom) in zip(
            each.message.detections, BOXES, strict=True
        ):
            centre = detection.bbox.center.position
            assert (centre.x, centre.y) == ((left + right) / 2, (top + bottom) / 2)
            assert (detection.bbox.size_x, detection.bbox.size_y) == (right - left, bottom - top)
            score = detection.results[0].hypothesis.score
            assert score == pytest.approx(np.exp(LOG_PROB))


def test_the_real_model_says_what_it_says_about_the_pictures(
    tiny_model: Florence2, tmp_path: Path
) -> None:
    request = BagRequest(
        source=record(tmp_path / "in", make=png),
        target=tmp_path / "out",
        topic=TOPIC,
        request=request_for(GROUNDING, "a red car"),
        options=SHORT,
    )
    answer_bag(request, lambda: tiny_model, on_progress=lambda progress: None)
    spoken = [
        json.loads(each.message.data) for each in recorded_messages(tmp_path / "out")[ANSWERS]
    ]
    for picture, answer in zip(FRAMES, spoken, strict=True):
        expected = tiny_model.run(picture, GROUNDING, "a red car", options=SHORT).to_json()
        assert answer["token_ids"] == expected["token_ids"]
        assert answer["result"] == json.loads(json.dumps(expected["result"]))


def test_each_of_several_tasks_has_topics_of_its_own(answer: Answer, tmp_path: Path) -> None:
    region = (0, 0, 10, 10)
    answer(
        record(tmp_path / "in"),
        tmp_path / "out",
        task=["OD", "REGION_TO_OCR"],
        region=region,
        annotated=True,
    )
    found = recorded_messages(tmp_path / "out")
    kinds = ("detections", "answers", "annotated")
    expected = {
        f"/florence_edge/{task}/{kind}" for task in ("od", "region_to_ocr") for kind in kinds
    }
    assert set(found) == expected
    assert {len(messages) for messages in found.values()} == {len(FRAMES)}
    spoken = [
        json.loads(each.message.data) for each in found["/florence_edge/region_to_ocr/answers"]
    ]
    assert {each["task"] for each in spoken} == {"<REGION_TO_OCR>"}


@pytest.mark.parametrize(("every", "kept"), [(1, [0, 1, 2, 3]), (3, [0, 3]), (9, [0])])
def test_every_nth_frame_is_answered(
    answer: Answer, tmp_path: Path, every: int, kept: list[int]
) -> None:
    progress = answer(record(tmp_path / "in"), tmp_path / "out", every=every)
    assert (progress.done, progress.total) == (len(kept), len(kept))
    stamps = [
        each.message.header.stamp.sec for each in recorded_messages(tmp_path / "out")[DETECTIONS]
    ]
    assert stamps == [100 + number for number in kept]


def test_annotated_pictures_are_written_if_they_are_wanted(answer: Answer, tmp_path: Path) -> None:
    source = record(tmp_path / "in")
    answer(source, tmp_path / "out", task="REGION_PROPOSAL", annotated=True)
    pictures = recorded_messages(tmp_path / "out")[ANNOTATED]
    assert len(pictures) == 4
    for number, (picture, plain) in enumerate(zip(pictures, FRAMES, strict=True)):
        assert picture.message.header.stamp.sec == 100 + number
        drawn = rgb_from_image(picture.message, ANNOTATED)
        assert drawn.shape == plain.shape
        assert (drawn != plain).any()
        assert (drawn == plain).any()


def test_frames_may_change_their_size(answer: Answer, tmp_path: Path) -> None:
    pictures = [noise(0), noise(1, height=50, width=90)]
    answer(record(tmp_path / "in", pictures), tmp_path / "out", task="REGION_PROPOSAL")
    boxes = [
        each.message.detections[1].bbox for each in recorded_messages(tmp_path / "out")[DETECTIONS]
    ]
    assert [box.size_x for box in boxes] == [WIDTH // 2 - 1, 90 // 2 - 1]
    assert [box.size_y for box in boxes] == [HEIGHT - 1, 50 - 1]


@pytest.mark.parametrize("storage", STORAGES)
def test_the_new_recording_is_stored_as_the_old_one(
    answer: Answer, tmp_path: Path, storage: StoragePlugin
) -> None:
    source = record(tmp_path / "in", storage=storage)
    answer(source, tmp_path / "out")
    suffix = {StoragePlugin.MCAP: "mcap", StoragePlugin.SQLITE3: "db3"}[storage]
    files = sorted(file.name for file in (tmp_path / "out").iterdir())
    assert files == sorted(["metadata.yaml", f"out.{suffix}"])
    assert "version: 8" in (tmp_path / "out" / "metadata.yaml").read_text()


@pytest.mark.parametrize("storage", STORAGES)
def test_a_storage_file_alone_is_read_as_well(
    answer: Answer, tmp_path: Path, storage: StoragePlugin
) -> None:
    folder = record(tmp_path / "in", storage=storage)
    (file,) = (each for each in folder.iterdir() if each.suffix != ".yaml")
    assert answer(file, tmp_path / "out").done == 4


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("packed", [CompressionMode.FILE, CompressionMode.MESSAGE])
def test_a_packed_recording_is_read_as_an_open_one(
    answer: Answer, tmp_path: Path, storage: StoragePlugin, packed: CompressionMode
) -> None:
    def answers(folder: Path) -> list[Any]:
        spoken = [json.loads(each.message.data) for each in recorded_messages(folder)[ANSWERS]]
        return [(each["stamp"], each["token_ids"], each["result"]) for each in spoken]

    answer(record(tmp_path / "open", storage=storage), tmp_path / "expected")
    expected = answers(tmp_path / "expected")
    assert len(expected) == 4
    folder = record(tmp_path / "in", storage=storage, packed=packed)
    sources = [folder]
    if packed is CompressionMode.FILE:
        (file,) = folder.glob("*.zstd")
        assert file.name in ("in.db3.zstd", "in.mcap.zstd")
        sources.append(file)
    before = set(Path(tempfile.gettempdir()).glob("florence-bag-*"))
    for number, source in enumerate(sources):
        answer(source, tmp_path / f"out{number}")
        assert answers(tmp_path / f"out{number}") == expected
        files = {file.suffix for file in (tmp_path / f"out{number}").iterdir()}
        assert files == {".yaml", ".mcap" if storage is StoragePlugin.MCAP else ".db3"}
    assert set(Path(tempfile.gettempdir()).glob("florence-bag-*")) == before


@pytest.mark.parametrize("encoding", ["bayer_rggb8", "nv12", "8UC3"])
def test_frames_of_machine_vision_cameras_are_answered(
    answer: Answer, tmp_path: Path, encoding: str
) -> None:
    pytest.importorskip("cv2", reason="install florence-edge[bayer]")

    def camera(picture: Rgb, number: int) -> Any:
        message = raw(picture, number, encoding)
        if encoding != "8UC3":
            rows = HEIGHT * 3 // 2 if encoding == "nv12" else HEIGHT
            message.step = WIDTH
            message.data = np.resize(picture.reshape(-1), rows * WIDTH)
        return message

    pictures = [noise(seed)[: HEIGHT // 2 * 2, : WIDTH // 2 * 2] for seed in range(2)]
    assert pictures[0].shape == (HEIGHT, WIDTH, 3)
    assert answer(record(tmp_path / "in", pictures, make=camera), tmp_path / "out").failed == 0


# What goes wrong: one message, and nothing is written.


def refused(answer: Answer, source: Path, target: Path, **changes: Any) -> str:
    before = sorted(path.name for path in target.parent.iterdir())
    with pytest.raises(FlorenceEdgeError) as refusal:
        answer(source, target, **changes)
    assert sorted(path.name for path in target.parent.iterdir()) == before
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


def test_a_missing_topic_is_told_with_those_there_are(answer: Answer, tmp_path: Path) -> None:
    source = record(tmp_path / "in")
    message = refused(answer, source, tmp_path / "out", topic="/camera")
    assert f"{source} has no image topic /camera: it is not in it." in message
    assert "Its image topics: /camera/image (sensor_msgs/msg/Image, 4 frames)." in message


def test_a_topic_of_another_type_is_told_with_its_type(answer: Answer, tmp_path: Path) -> None:
    message = refused(answer, record(tmp_path / "in"), tmp_path / "out", topic="/chatter")
    assert "it has the type std_msgs/msg/String. Its image topics: /camera/image" in message


def test_a_recording_without_images_says_so(answer: Answer, tmp_path: Path) -> None:
    answer(record(tmp_path / "in"), tmp_path / "answers")
    message = refused(answer, tmp_path / "answers", tmp_path / "out")
    assert "None of its topics carries images." in message


def test_an_unknown_encoding_ends_it(answer: Answer, tmp_path: Path) -> None:
    def depth(picture: Rgb, number: int) -> Any:
        return raw(picture, number, "32FC1")

    message = refused(answer, record(tmp_path / "in", make=depth), tmp_path / "out")
    assert "/camera/image carries the encoding '32FC1'" in message


@pytest.mark.parametrize("encoding", ["yuv422", "uyvy", "yuv422_yuy2", "yuyv"])
def test_yuv_of_a_usb_camera_is_answered(answer: Answer, tmp_path: Path, encoding: str) -> None:
    def yuv(picture: Rgb, number: int) -> Any:
        message = raw(np.full((4, 6, 2), 128, dtype=np.uint8), number, encoding)
        message.step, message.width = 12, 6
        return message

    answer(record(tmp_path / "in", make=yuv), tmp_path / "out")
    assert len(recorded_messages(tmp_path / "out")[DETECTIONS]) == len(FRAMES)


def test_a_topic_without_frames_is_refused(answer: Answer, tmp_path: Path) -> None:
    message = refused(answer, record(tmp_path / "in", []), tmp_path / "out")
    assert "/camera/image has no frames in" in message


def test_no_recording_at_all(answer: Answer, tmp_path: Path) -> None:
    assert refused(answer, tmp_path / "gone", tmp_path / "out") == (
        f"There is no recording at {tmp_path / 'gone'}."
    )


def test_a_recording_of_ros_1_is_told_how_to_convert(answer: Answer, tmp_path: Path) -> None:
    (tmp_path / "old.bag").write_bytes(b"#ROSBAG V2.0\n")
    message = refused(answer, tmp_path / "old.bag", tmp_path / "out")
    assert f"rosbags-convert --src {tmp_path / 'old.bag'} --dst old" in message


def test_a_file_of_another_kind_is_refused(answer: Answer, tmp_path: Path) -> None:
    (tmp_path / "film.mp4").write_bytes(b"film")
    message = refused(answer, tmp_path / "film.mp4", tmp_path / "out")
    assert "film.mp4 cannot be read" in message
    assert "Name a rosbag2 folder, or its .db3 or .mcap file (which may be packed" in message
    assert "recover" not in message


def test_a_pipe_is_no_recording_and_does_not_hang(answer: Answer, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mcap")
    message = refused(answer, tmp_path / "pipe.mcap", tmp_path / "out")
    assert "pipe.mcap is a pipe or a device" in message
    folder = record(tmp_path / "in")
    (folder / "metadata.yaml").unlink()
    os.mkfifo(folder / "metadata.yaml")
    assert "metadata.yaml is a pipe or a device" in refused(answer, folder, tmp_path / "out")


def test_a_packed_file_that_is_none_is_refused(answer: Answer, tmp_path: Path) -> None:
    (tmp_path / "in.mcap.zstd").write_bytes(b"no zstd")
    message = refused(answer, tmp_path / "in.mcap.zstd", tmp_path / "out")
    assert f"{tmp_path / 'in.mcap.zstd'} cannot be read (any further): " in message


def test_too_little_room_to_unpack_is_called_that(
    answer: Answer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = record(tmp_path / "in", packed=CompressionMode.FILE)
    (file,) = folder.glob("*.zstd")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("shutil.copyfileobj", full)
    for source in (file, folder):
        message = refused(answer, source, tmp_path / "out")
        assert f"Packed recordings are unpacked in {tempfile.gettempdir()}. Make room" in message
        assert "damaged" not in message


@pytest.mark.parametrize("storage", STORAGES)
def test_a_recorder_that_was_not_stopped_is_told_what_to_run(
    answer: Answer, tmp_path: Path, storage: StoragePlugin
) -> None:
    source = record(tmp_path / "in", storage=storage)
    (source / "metadata.yaml").unlink()
    message = refused(answer, source, tmp_path / "out")
    assert f"ros2 bag reindex {source}" in message


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("kept", [0.0, 0.1, 0.5, 0.9])
def test_a_truncated_recording_is_told_how_to_repair(
    answer: Answer, tmp_path: Path, storage: StoragePlugin, kept: float
) -> None:
    source = record(tmp_path / "in", storage=storage)
    (file,) = (each for each in source.iterdir() if each.suffix != ".yaml")
    content = file.read_bytes()
    file.write_bytes(content[: int(kept * len(content))])
    message = refused(answer, source, tmp_path / "out")
    assert f"{source} cannot be read (any further): " in message
    assert "mcap recover FILE" in message
    assert "sqlite3 FILE .recover" in message


def test_a_recording_that_lacks_frames_says_how_many(answer: Answer, tmp_path: Path) -> None:
    source = record(tmp_path / "in")
    metadata = source / "metadata.yaml"
    metadata.write_text(metadata.read_text().replace("message_count: 4", "message_count: 6"))
    message = refused(answer, source, tmp_path / "out")
    assert f"{source} ends after 4 of 6 frames: it was cut short" in message


def test_a_recording_whose_files_are_missing_is_not_called_damaged(
    answer: Answer, tmp_path: Path
) -> None:
    source = record(tmp_path / "in")
    next(source.glob("*.db3")).unlink()
    message = refused(answer, source, tmp_path / "out")
    assert "files are missing" in message
    assert f"ros2 bag reindex {source}" in message
    assert "damaged" not in message


def test_a_recording_of_a_newer_kind_says_what_to_update(answer: Answer, tmp_path: Path) -> None:
    source = record(tmp_path / "in")
    metadata = source / "metadata.yaml"
    metadata.write_text(metadata.read_text().replace("version: 8", "version: 99"))
    message = refused(answer, source, tmp_path / "out")
    assert "Update the package rosbags" in message
    assert "damaged" not in message


def test_a_garbled_metadata_file_is_no_traceback(answer: Answer, tmp_path: Path) -> None:
    source = record(tmp_path / "in")
    for content in ("", "[1, 2", "rosbag2_bagfile_information: {version: 99}", "text"):
        (source / "metadata.yaml").write_text(content)
        assert "cannot be read" in refused(answer, source, tmp_path / "out")


def damaged(messages: list[Any]) -> list[Any]:
    messages[1].data = messages[1].data[:20]
    messages[2].data = messages[2].data[:0]
    return messages


def test_damaged_frames_are_counted_and_left_out(scripted: Florence2, tmp_path: Path) -> None:
    steps: list[BagProgress] = []
    request = BagRequest(
        source=record(tmp_path / "in", make=png, change=damaged),
        target=tmp_path / "out",
        topic=TOPIC,
        request=request_for("OD"),
        options=SHORT,
    )
    last = answer_bag(request, lambda: scripted, on_progress=steps.append)
    assert [progress.failed for progress in steps] == [0, 1, 2, 2]
    assert "A frame of /camera/image with the format 'png'" in str(steps[1].error)
    assert (last.done, last.failed, last.error) == (4, 2, None)
    stamps = [
        each.message.header.stamp.sec for each in recorded_messages(tmp_path / "out")[DETECTIONS]
    ]
    assert stamps == [100, 103]


def test_nothing_but_damaged_frames_makes_no_recording(answer: Answer, tmp_path: Path) -> None:
    source = record(tmp_path / "in", FRAMES[:3], make=png, change=lambda all: damaged(all)[1:])
    message = refused(answer, source, tmp_path / "out")
    assert "None of the 2 frames of /camera/image could be read; the last one: A frame" in message


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "COUNT"}, "There is no task 'COUNT'"),
        ({"task": "CAPTION_TO_PHRASE_GROUNDING"}, "needs a text"),
        ({"text": "car"}, "takes no text"),
        ({"task": ["OD", "CAPTION", "OD"]}, "named twice in OD, CAPTION, OD"),
        ({"every": 0}, "every is 0; it must be 1 (each frame) or more"),
        ({"options": GenerationOptions(num_beams=9)}, "num_beams is 9"),
    ],
)
def test_a_mistake_is_found_before_any_frame_is_read(
    answer: Answer, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    assert message in refused(answer, record(tmp_path / "in"), tmp_path / "out", **changes)


# What is there already.


def test_an_existing_output_is_kept_unless_overwrite_is_given(
    answer: Answer, tmp_path: Path
) -> None:
    source = record(tmp_path / "in")
    answer(source, tmp_path / "out", every=2)
    assert "pass --overwrite" in refused(answer, source, tmp_path / "out")
    assert len(recorded_messages(tmp_path / "out")[DETECTIONS]) == 2
    answer(source, tmp_path / "out", overwrite=True)
    assert len(recorded_messages(tmp_path / "out")[DETECTIONS]) == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


@pytest.mark.parametrize("what", ["file", "folder", "more"])
def test_overwrite_replaces_nothing_but_a_recording(
    answer: Answer, tmp_path: Path, what: str
) -> None:
    source, target = record(tmp_path / "in"), tmp_path / "out"
    if what == "file":
        target.write_text("mine")
    elif what == "folder":
        target.mkdir()
    else:
        record(target)
        (target / "notes.txt").write_text("mine")
    message = refused(answer, source, target, overwrite=True)
    assert "holds something that is not part of a recording" in message


def test_the_recording_itself_is_never_replaced(answer: Answer, tmp_path: Path) -> None:
    source = record(tmp_path / "in")
    for path in (source, next(source.glob("*.db3"))):
        message = refused(answer, path, source, overwrite=True)
        assert "is where the frames come from; it will not be replaced" in message
    assert len(recorded_messages(source)[TOPIC]) == 4


def test_a_failed_run_keeps_what_was_there(
    answer: Answer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = record(tmp_path / "in")
    answer(source, tmp_path / "out", every=2)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Writer, "write", full)
    message = refused(answer, source, tmp_path / "out", overwrite=True)
    assert "Writing out failed: [Errno 28] No space left on device. Nothing was changed" in message
    monkeypatch.undo()
    assert len(recorded_messages(tmp_path / "out")[DETECTIONS]) == 2


def test_the_old_recording_comes_back_if_the_last_step_fails(
    answer: Answer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = record(tmp_path / "in")
    answer(source, tmp_path / "out", every=2)
    rename, steps = os.rename, iter([True, False, True])

    def failing(old: Path, new: Path) -> None:
        if not next(steps):
            raise OSError(5, "Input/output error")
        rename(old, new)

    monkeypatch.setattr("florence_edge.files._exchanged", lambda new, target: False)
    monkeypatch.setattr("florence_edge.files.os.rename", failing)
    assert "Input/output error" in refused(answer, source, tmp_path / "out", overwrite=True)
    assert len(recorded_messages(tmp_path / "out")[DETECTIONS]) == 2


def test_an_old_recording_that_cannot_come_back_is_kept_and_the_message_says_where(
    answer: Answer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = record(tmp_path / "in"), tmp_path / "out"
    answer(source, target, every=2)
    rename, steps = os.rename, iter([True, False, False])

    def failing(old: Path, new: Path) -> None:
        if not next(steps):
            raise OSError(5, "Input/output error")
        rename(old, new)

    with monkeypatch.context() as patch:
        patch.setattr("florence_edge.files._exchanged", lambda new, target: False)
        patch.setattr("florence_edge.files.os.rename", failing)
        with pytest.raises(FlorenceEdgeError) as raised:
            answer(source, target, overwrite=True)
    message = str(raised.value)
    assert "Nothing was changed" not in message
    kept = tmp_path / ".out.florence-old"
    assert f"It is whole, as {kept}: rename it to out." in message
    kept.rename(target)
    assert len(recorded_messages(target)[DETECTIONS]) == 2


def test_a_recording_is_on_the_disk_before_it_gets_its_name(answer: Answer, tmp_path: Path) -> None:
    source = record(tmp_path / "in")
    for overwrite in (False, True):
        with recorded() as events:
            answer(source, tmp_path / "out", overwrite=overwrite)
        check_synced_before_it_got_its_name(events, tmp_path / "out")


def test_two_recordings_to_one_place_are_one_too_many(answer: Answer, tmp_path: Path) -> None:
    source = record(tmp_path / "in")
    with lock(tmp_path / "out"):
        message = refused(answer, source, tmp_path / "out")
    assert "out is being written by another process. Wait" in message
    assert "Nothing was changed" not in message


def test_an_output_that_cannot_be_is_named(answer: Answer, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(FlorenceEdgeError, match=r"Writing out failed.* Choose another") as refusal:
        answer(record(tmp_path / "in"), tmp_path / "file" / "out")
    assert "Make room" not in str(refusal.value)


# The command.


def run(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    short = ("--max-new-tokens", "8", "--beams", "1", "--threads", "1")
    status = main([*map(str, arguments), *short])
    out, err = capsys.readouterr()
    return status, out, err


def test_the_command_answers_a_recording(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = record(tmp_path / "in"), tmp_path / "new" / "out"
    asked = ("--topic", TOPIC, "--task", "<CAPTION>", "--bundle", tiny_bundle, "--every", "2")
    status, out, err = run(capsys, source, target, *asked)
    assert (status, err) == (0, "")
    assert out == f"{target}: 2 frames of {TOPIC} answered.\n"
    assert len(recorded_messages(target)[ANSWERS]) == 2


def test_the_command_knows_a_bundles_own_tasks(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    edit_manifest(bundle, lambda manifest: manifest.update(tasks=[FIND_DEFECTS]))
    asked = ("--topic", TOPIC, "--bundle", bundle, "--every", "4", "--task")
    source, target = record(tmp_path / "in"), tmp_path / "out"
    assert run(capsys, source, target, *asked, "OD,find_defects")[0] == 0
    [answer] = recorded_messages(target)["/florence_edge/find_defects/answers"]
    assert json.loads(answer.message.data)["task"] == "<FIND_DEFECTS>"
    # A mistake is found before the recording is opened.
    status, _, err = run(capsys, tmp_path / "none", tmp_path / "other", *asked, "find_cracks")
    assert status == 1
    assert "There is no task 'find_cracks'" in err
    assert "FIND_DEFECTS" in err


def test_an_answer_of_the_command_takes_no_longer_than_max_time(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ("--topic", TOPIC, "--task", "OD", "--bundle", tiny_bundle, "--max-time", "1e-9")
    assert run(capsys, record(tmp_path / "in"), tmp_path / "out", *asked)[0] == 0
    spoken = [
        json.loads(each.message.data) for each in recorded_messages(tmp_path / "out")[ANSWERS]
    ]
    assert {each["status"] for each in spoken} == {"truncated"}


def test_the_command_names_damaged_frames_and_is_no_success(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = record(tmp_path / "in", make=png, change=damaged)
    asked = ("--topic", TOPIC, "--task", "OD", "--bundle", tiny_bundle)
    status, out, err = run(capsys, source, tmp_path / "out", *asked)
    assert status == 1
    assert out == f"{tmp_path / 'out'}: 2 frames of {TOPIC} answered.\n"
    first, second, last = err.splitlines()
    assert first.startswith("florence-bag: A frame of /camera/image with the format 'png' cannot")
    assert second.startswith("florence-bag: A frame of /camera/image")
    assert last == "florence-bag: 2 of 4 frames failed."


def test_the_command_says_what_is_wrong_in_one_line(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = record(tmp_path / "in")
    task = ("--topic", TOPIC, "--task", "OD", "--bundle")
    for arguments, message in [
        ((source, tmp_path / "out", *task, tmp_path / "none"), "There is no bundle at"),
        ((source, tmp_path / "out", *task, tiny_bundle, "--device", "tpu"), "no device 'tpu'"),
        ((source, source, *task, tiny_bundle), "is where the frames come from"),
    ]:
        status, out, err = run(capsys, *arguments)
        assert (status, out) == (1, "")
        assert err.startswith("florence-bag: ")
        assert err.count("\n") == 1
        assert message in err


def test_wrong_usage_is_status_two(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (
        ["in", "out"],
        ["in", "out", "--topic", "/a", "--task", "OD", "--every", "x"],
    ):
        with pytest.raises(SystemExit) as leaving:
            main(arguments)
        assert leaving.value.code == 2
    assert "usage: florence-bag" in capsys.readouterr().err


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_run_leaves_nothing_behind(
    tiny_bundle: Path, tmp_path: Path, kind: signal.Signals
) -> None:
    source = record(tmp_path / "in", FRAMES * 500)
    # Where the tests are a background job they ignore Ctrl-C, as would whatever they start.
    command = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from florence_edge_jetson.robots.bag.cli import main; sys.exit(main())"
    )
    asked = ("--topic", TOPIC, "--task", "OD", "--bundle", tiny_bundle, "--threads", "1")
    target = tmp_path / "out"
    with subprocess.Popen(
        [sys.executable, "-c", command, source, target, *asked],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=let_hang_ups_count,
    ) as process:
        deadline = time.monotonic() + 30
        while (
            not list(tmp_path.glob(".out.florence-new/out/out.db3")) and time.monotonic() < deadline
        ):
            time.sleep(0.02)
        process.send_signal(kind)
        try:
            out, err = process.communicate(timeout=30)
        finally:
            process.kill()
    assert (process.returncode, out, err) == (
        128 + kind,
        "",
        "florence-bag: stopped; nothing was written.\n",
    )
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_without_the_library_the_extra_is_named(
    answer: Answer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "rosbags.typesys", None)
    with pytest.raises(MissingPackageError, match=r"pip install .*\[ros\]'"):
        answer(tmp_path / "in", tmp_path / "out")


def test_frames_are_read_one_at_a_time(tmp_path: Path) -> None:
    source = record(tmp_path / "in", FRAMES * 5)
    with open_reader(source, TYPESTORE) as recording:
        frames = recording.frames(TOPIC)
        np.testing.assert_array_equal(next(frames).rgb(), FRAMES[0])
        np.testing.assert_array_equal(next(frames).rgb(), FRAMES[1])
