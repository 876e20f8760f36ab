"""Which recordings and frames are read, and what is said about those that are not."""

import errno
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rosbags.rosbag2 import CompressionMode, StoragePlugin

from florence_edge import GenerationOptions
from florence_edge.errors import MissingPackageError
from florence_edge_jetson.robots.bag.answer import ANSWERS, DETECTIONS
from florence_edge_jetson.robots.bag.reader import open_reader

from .recorded_bags import (
    FRAMES,
    STORAGES,
    TOPIC,
    TYPESTORE,
    Answer,
    raw,
    record,
    recorded_messages,
    refused,
)
from .scripted_model import HEIGHT, WIDTH, Rgb, noise


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
