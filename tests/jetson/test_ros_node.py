"""The ROS node: frames, transitions, parameters, and what goes wrong."""

import json
import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rosbags", reason="install florence-edge[ros]")

from florence_edge import BackendError, Florence2, Result
from florence_edge.bundle import MANIFEST
from florence_edge_jetson.robots.ros import message_types

from ..helpers.manifests import edit_manifest
from .fake_rclpy import (
    FAILURE,
    RCLPY_NAMES,
    SUCCESS,
    Executor,
    ExternalShutdownException,
)
from .ros_world import ANNOTATED, ANSWERS, DETECTIONS, World, frame, module, threads, world
from .scripted_model import BOXES, FIND_DEFECTS, grey

__all__ = ["module", "world"]  # fixtures


# Answers.


def test_frames_are_answered_with_their_stamps_while_the_node_is_active(world: World) -> None:
    world.up()
    for number in range(3):
        world.show(grey(number), number)
        world.wait(DETECTIONS, number + 1)
    spoken = [json.loads(each.data) for each in world.wait(ANSWERS, 3)]
    for number, (message, answer) in enumerate(zip(world.wait(DETECTIONS, 3), spoken, strict=True)):
        assert (message.header.stamp.sec, message.header.stamp.nanosec) == (100 + number, number)
        assert message.header.frame_id == "camera"
        assert answer["stamp"] == {"sec": 100 + number, "nanosec": number}
        assert answer["task"] == "<REGION_PROPOSAL>"
        sizes = [(each.bbox.size_x, each.bbox.size_y) for each in message.detections]
        assert sizes == [(right - left, bottom - top) for left, top, right, bottom in BOXES]
    assert world.backend.encoded == [0, 1, 2]


def test_the_subscription_keeps_the_latest_frame_only(world: World) -> None:
    world.up()
    (subscription,) = world.node.subscriptions
    assert subscription.topic == "image"
    assert subscription.kind == message_types.IMAGE
    assert vars(subscription.qos) == {
        "history": "keep last",
        "depth": 1,
        "reliability": "best effort",
    }


def test_compressed_frames_are_subscribed_to_if_so_configured(world: World) -> None:
    world.node.set_parameters(transport="compressed")
    world.up()
    (subscription,) = world.node.subscriptions
    assert subscription.kind == message_types.COMPRESSED_IMAGE


def test_of_the_frames_that_come_during_an_answer_only_the_last_is_answered(world: World) -> None:
    world.up()
    world.backend.gate.clear()
    world.show(grey(1))
    assert world.backend.encoding.wait(10)
    for level in range(2, 7):
        world.show(grey(level), level)
    world.backend.gate.set()
    assert world.wait(DETECTIONS, 2)[1].header.stamp.sec == 106
    assert world.backend.encoded == [1, 6]
    values = world.settled("frames answered", 2)
    assert (values["frames received"], values["frames dropped"]) == ("6", "4")


def test_annotated_pictures_are_drawn_only_if_somebody_listens(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn, draw = [], Result.draw

    def counted(result: Result, image: Any) -> Any:
        drawn.append(result)
        return draw(result, image)

    monkeypatch.setattr(Result, "draw", counted)
    world.up()
    world.show(grey(1))
    world.wait(DETECTIONS, 1)
    world.settled("frames answered", 1)
    assert drawn == []
    world.node.publishers[ANNOTATED].listeners = 1
    world.show(grey(2), 2)
    (picture,) = world.wait(ANNOTATED, 1)
    assert picture.header.stamp.sec == 102
    assert picture.encoding == "rgb8"
    assert len(np.unique(picture.data)) > 1
    assert len(drawn) == 1


# Transitions.


def test_a_missing_bundle_fails_to_configure_and_another_try_may_succeed(world: World) -> None:
    world.node.values["bundle"] = "/nowhere"
    assert world.node.trigger("configure") == FAILURE
    assert world.node.state == "unconfigured"
    ((level, text),) = world.node.log
    assert level == "error"
    assert text.startswith("Cannot be configured: There is no bundle at /nowhere")
    world.node.values["bundle"] = str(world.bundle)
    world.up()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"task": "COUNT"}, "There is no task 'COUNT'"),
        ({"task": "OPEN_VOCABULARY_DETECTION"}, "needs a text"),
        ({"transport": "theora"}, "transport is 'theora'; it must be one of raw, compressed"),
        ({"rate": -1.0}, "rate is -1.0"),
        ({"rate": float("nan")}, "rate is nan"),
        ({"max_time": -0.1}, "max_time is -0.1; it must be 0.0 (no limit) or more"),
        ({"rate": "fast"}, "rate is 'fast'; it must be of the type float"),
        ({"beams": 9}, "num_beams is 9"),
        ({"max_new_tokens": 5000}, "max_new_tokens is 5000"),
        ({"device": "tpu"}, "There is no device 'tpu'"),
    ],
)
def test_parameters_that_cannot_be_fail_to_configure(
    world: World, values: dict[str, Any], message: str
) -> None:
    world.node.values.update(values)
    assert world.node.trigger("configure") == FAILURE
    assert message in world.node.log[-1][1]


def test_deactivating_cuts_the_answer_short_and_stops_the_thread(world: World) -> None:
    world.up()
    world.backend.gate.clear()
    world.show(grey(1))
    assert world.backend.encoding.wait(10)
    world.show(grey(2))
    assert threads() == ["florence-edge_0"]
    (subscription,) = world.node.subscriptions
    threading.Timer(0.1, world.backend.gate.set).start()
    assert world.node.trigger("deactivate") == SUCCESS
    assert threads() == []
    assert world.node.subscriptions == []
    assert world.backend.encoded == [1]
    assert world.node.publishers[DETECTIONS].sent == []
    assert world.node.log == []
    subscription.callback(frame(grey(3), 3))  # one that was on its way
    assert world.backend.encoded == [1]
    assert world.status()[:2] == (0, "not active")


def test_it_can_be_activated_again(world: World) -> None:
    world.up()
    for _ in range(2):
        assert world.node.trigger("deactivate") == SUCCESS
        assert world.node.trigger("activate") == SUCCESS
    world.show(grey(9))
    world.wait(DETECTIONS, 1)


def test_cleanup_lets_go_of_the_model_and_configure_loads_anew(world: World) -> None:
    world.up()
    world.node.trigger("deactivate")
    assert world.node.trigger("cleanup") == SUCCESS
    assert world.status()[:2] == (3, "not configured")
    world.up()
    world.show(grey(4))
    world.wait(DETECTIONS, 1)


def test_shutting_down_stops_the_thread(world: World) -> None:
    world.up()
    assert world.node.trigger("shutdown") == SUCCESS
    assert threads() == []


def test_an_error_that_nobody_expected_is_logged_for_rclpy_does_not(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("the driver crashed")

    monkeypatch.setattr(Florence2, "load", broken)
    assert world.node.trigger("configure") == "error"
    assert world.node.state == "unconfigured"
    assert "the driver crashed" in world.node.log[-1][1]


def test_an_error_in_a_transition_closes_all(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no subscription to be had")

    assert world.node.trigger("configure") == SUCCESS
    monkeypatch.setattr(world.node, "create_subscription", broken)
    assert world.node.trigger("activate") == "error"
    assert world.node.state == "unconfigured"
    assert threads() == []


@pytest.mark.parametrize("reason", [KeyboardInterrupt, ExternalShutdownException])
def test_the_command_ends_quietly_when_it_is_stopped(
    module: ModuleType, monkeypatch: pytest.MonkeyPatch, reason: type[BaseException]
) -> None:
    monkeypatch.setattr(Executor, "stopped_by", reason)
    module.main()
    assert Executor.nodes[-1].destroyed


def test_the_node_takes_no_name_that_rclpy_keeps_for_itself(world: World) -> None:
    own = {*vars(world.node), *vars(type(world.node))}
    assert {"_watcher", "_ready"} <= own
    assert own & RCLPY_NAMES == set()


# What goes wrong while it runs.


def test_a_frame_with_an_unknown_encoding_does_not_stop_the_node(world: World) -> None:
    world.up()
    for number in range(3):
        world.show(grey(1), number, "32FC1")
        world.settled("frames failed", number + 1)
    (line,) = world.node.log  # once, not with every frame
    assert line[0] == "warning"
    assert "/image carries the encoding '32FC1', which is not known here" in line[1]
    level, message, _ = world.status()
    assert (level, message) == (2, line[1])
    world.show(grey(2))
    world.wait(DETECTIONS, 1)
    world.settled("frames answered", 1)
    assert world.status()[:2] == (0, "answering")


@pytest.mark.parametrize(
    "mishap", [BackendError("The engine ran out of memory."), ValueError("a bug of ours")]
)
def test_whatever_a_frame_raises_the_next_one_is_answered(
    world: World, mishap: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    world.up()
    world.backend.mishap = mishap
    world.show(grey(1))
    world.settled("frames failed", 1)
    assert world.status()[:2] == (2, str(mishap))
    assert ("warning", str(mishap)) in world.node.log
    assert ("Traceback" in caplog.text) == isinstance(mishap, ValueError)
    world.show(grey(2))
    world.wait(DETECTIONS, 1)


@pytest.mark.parametrize(("fate", "words"), [("replaced", "was replaced"), ("gone", "is gone")])
def test_a_bundle_that_changes_under_the_node_is_reported_once_with_what_to_do(
    world: World, fate: str, words: str
) -> None:
    world.up()
    manifest = world.bundle / MANIFEST
    if fate == "gone":
        shutil.rmtree(world.bundle)
    else:
        manifest.write_text(manifest.read_text() + "\n")
    for _ in range(3):
        level, message, _ = world.status()
        assert level == 1
        assert f"The bundle at {world.bundle} {words} since it was loaded" in message
        assert "ros2 lifecycle set /florence_edge deactivate, then cleanup, configure" in message
    assert world.node.log == [("warning", message)]
    world.show(grey(1))
    world.wait(DETECTIONS, 1)


def test_a_silent_camera_is_a_warning(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.up()
    later = time.monotonic() + 60
    monkeypatch.setattr("florence_edge_jetson.robots.ros.diagnostics.time.monotonic", lambda: later)
    level, message, _ = world.status()
    assert (level, message[:19]) == (1, "no frame from /imag")


# Parameters of a running node.


def test_task_and_text_change_with_the_next_frame_one_after_the_other(world: World) -> None:
    world.up()
    refusal = world.node.set_parameters(task="OPEN_VOCABULARY_DETECTION")
    assert not refusal.successful
    assert "needs a text" in refusal.reason
    assert world.node.set_parameters(text="a cat").successful  # the task of now takes none
    assert world.node.set_parameters(task="OPEN_VOCABULARY_DETECTION").successful
    world.show(grey(1))
    answer = json.loads(world.wait(ANSWERS, 1)[0].data)
    assert (answer["task"], answer["text_input"]) == ("<OPEN_VOCABULARY_DETECTION>", "a cat")


def test_a_bundles_own_task_is_known_to_frames_and_requests(world: World) -> None:
    edit_manifest(world.bundle, lambda manifest: manifest.update(tasks=[FIND_DEFECTS]))
    world.node.values.update(task="find_defects")
    world.up()
    world.show(grey(1))
    assert json.loads(world.wait(ANSWERS, 1)[0].data)["task"] == "<FIND_DEFECTS>"
    response = world.ask("FIND_DEFECTS", picture=grey(2))
    assert (response.success, response.message) == (True, "")
    goal = world.ask_several("OD", "find_defects", picture=grey(3))
    assert goal.done.wait(10)
    tasks = [json.loads(each)["task"] for each in goal.result.answers]
    assert tasks == ["<OD>", "<FIND_DEFECTS>"]
    assert world.node.set_parameters(task="OD").successful
    assert world.node.set_parameters(task="FIND_DEFECTS").successful
    refusal = world.node.set_parameters(task="FIND_CRACKS")
    assert "There is no task 'FIND_CRACKS'" in refusal.reason
    assert "FIND_DEFECTS" in refusal.reason


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"task": "COUNT"}, "There is no task 'COUNT'"),
        ({"beams": 9}, "num_beams is 9"),
        ({"rate": -2.0}, "rate is -2.0"),
        ({"task": 5}, "task is 5; it must be of the type str"),
    ],
)
def test_a_value_that_cannot_be_is_refused_and_the_old_one_stays(
    world: World, values: dict[str, Any], reason: str
) -> None:
    world.up()
    refusal = world.node.set_parameters(**values)
    assert not refusal.successful
    assert reason in refusal.reason
    world.show(grey(1))
    assert json.loads(world.wait(ANSWERS, 1)[0].data)["task"] == "<REGION_PROPOSAL>"


def test_a_new_bundle_is_loaded_by_the_next_configure_only(world: World, tmp_path: Path) -> None:
    world.up()
    other = shutil.copytree(world.bundle, tmp_path / "other")
    assert world.node.set_parameters(bundle=str(other), transport="compressed").successful
    world.show(grey(1))
    world.wait(DETECTIONS, 1)
    assert world.status()[2]["bundle"] == str(world.bundle)
    assert world.node.subscriptions[0].kind == message_types.IMAGE


def test_parameters_of_others_are_let_pass(world: World) -> None:
    assert world.node.set_parameters(use_sim_time=True).successful


def test_an_answer_takes_no_longer_than_max_time(world: World) -> None:
    world.node.values["max_time"] = 1e-9
    world.up()
    world.show(grey(1))
    (text,) = world.wait(ANSWERS, 1)
    assert json.loads(text.data)["status"] == "truncated"


def test_answers_are_cleaned_on_request(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Result, "clean", lambda self: replace(self, raw_text="cleaned"))
    world.up()
    world.show(grey(1))
    assert json.loads(world.wait(ANSWERS, 1)[-1].data)["raw_text"] != "cleaned"
    assert world.node.set_parameters(clean=True).successful
    world.show(grey(2))
    assert json.loads(world.wait(ANSWERS, 2)[-1].data)["raw_text"] == "cleaned"


def test_a_frame_that_fails_on_the_way_down_is_no_news(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.up()
    world.backend.gate.clear()
    world.backend.mishap = RuntimeError("the context is invalid")
    world.show(grey(1))
    assert world.backend.encoding.wait(10)
    world.node.context.valid = False
    world.backend.gate.set()
    assert world.node.trigger("deactivate") == SUCCESS
    assert (world.node.log, caplog.text) == ([], "")
    world.node.publish_diagnostics()  # the timer, at the wrong moment
    assert "/diagnostics" in world.node.publishers
    assert world.node.publishers["/diagnostics"].sent == []


def test_troubles_that_differ_from_frame_to_frame_do_not_flood_the_log(world: World) -> None:
    world.up()
    for number in range(5):
        world.show(grey(1), number, f"colour{number}")
        world.settled("frames failed", number + 1)
    assert len(world.node.log) == 1
    assert "'colour0'" in world.node.log[0][1]
    assert "'colour4'" in world.status()[1]
