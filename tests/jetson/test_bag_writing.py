"""What a new recording holds, and what becomes of one that is there already."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from rosbags.rosbag2 import StoragePlugin, Writer

from florence_edge import Florence2
from florence_edge.errors import FlorenceEdgeError
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
from florence_edge_jetson.robots.ros.images import rgb_from_image

from ..helpers.disk import check_synced_before_it_got_its_name, recorded
from .recorded_bags import (
    FRAMES,
    LATER,
    SHORT,
    START,
    STORAGES,
    TOPIC,
    Answer,
    Make,
    bgr,
    damaged,
    png,
    raw,
    record,
    recorded_messages,
    refused,
    stamp_of,
)
from .scripted_model import BOXES, HEIGHT, LOG_PROB, WIDTH, noise

GROUNDING = "CAPTION_TO_PHRASE_GROUNDING"


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
