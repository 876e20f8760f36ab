import importlib.util
import json
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
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
    ROS2,
    SUCCESS,
    TYPESTORE,
    ActionServer,
    Executor,
    ExternalShutdownException,
    Goal,
    modules,
    overridden,
)
from .scripted_model import BOXES, FIND_DEFECTS, Rgb, ScriptedBackend, grey, scripted_model

PACKAGE = ROS2 / "florence_edge_ros"
DETECTIONS, ANSWERS, ANNOTATED = "~/detections", "~/answers", "~/annotated"


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """node.py, imported with a fake of ROS."""
    for name, fake in modules().items():
        monkeypatch.setitem(sys.modules, name, fake)
    spec = importlib.util.spec_from_file_location(
        "florence_edge_ros_node", PACKAGE / "florence_edge_ros" / "node.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@dataclass
class World:
    """The node, its model, and what a robot does with them."""

    node: Any
    backend: ScriptedBackend
    bundle: Path
    module: ModuleType

    def up(self) -> None:
        assert self.node.trigger("configure") == SUCCESS
        assert self.node.trigger("activate") == SUCCESS

    def show(self, picture: Rgb, number: int = 0, encoding: str = "rgb8") -> None:
        """The camera publishes a frame."""
        (subscription,) = self.node.subscriptions
        subscription.callback(frame(picture, number, encoding))

    def wait(self, topic: str, count: int) -> list[Any]:
        return list(self.node.publishers[topic].wait(count))

    def status(self) -> tuple[int, str, dict[str, str]]:
        """Level, message and values of the diagnostics that the timer sends now."""
        for timer in self.node.timers:
            timer()
        (status,) = self.node.publishers["/diagnostics"].sent[-1].status
        return status.level, status.message, {each.key: each.value for each in status.values}

    def settled(self, key: str, value: int) -> dict[str, str]:
        """The diagnostics' values once one of them is `value`."""
        deadline = time.monotonic() + 10
        while int((values := self.status()[2])[key]) < value:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        return values

    def ask(self, task: str, text: str = "", picture: Rgb | None = None) -> Any:
        ask = sys.modules["florence_edge_interfaces.srv"].Ask
        image = {} if picture is None else {"image": frame(picture, 50)}
        request = ask.Request(task=task, text=text, **image)
        return self.node.services["~/ask"](request, ask.Response())

    def ask_several(self, *tasks: str, texts: tuple[str, ...] = (), picture: Rgb) -> Goal:
        kind = sys.modules["florence_edge_interfaces.action"].AskSeveral
        request = kind.Goal(image=frame(picture, 60), tasks=list(tasks), texts=list(texts))
        return ActionServer.latest.send(request)


def frame(picture: Rgb, number: int, encoding: str = "rgb8") -> Any:
    stamp = TYPESTORE.types["builtin_interfaces/msg/Time"](sec=100 + number, nanosec=number)
    return TYPESTORE.types[message_types.IMAGE](
        header=TYPESTORE.types[message_types.HEADER](stamp=stamp, frame_id="camera"),
        height=picture.shape[0],
        width=picture.shape[1],
        encoding=encoding,
        is_bigendian=0,
        step=3 * picture.shape[1],
        data=picture.reshape(-1),
    )


def threads() -> list[str]:
    return [each.name for each in threading.enumerate() if each.name.startswith("florence-edge")]


@pytest.fixture
def world(
    module: ModuleType, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[World]:
    """A node on a bundle of its own, whose model is the scripted one."""
    bundle = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    _, backend = scripted_model(bundle)
    load = Florence2.load

    def scripted(
        folder: str, device: str, *, engine_dir: str | None, max_pixels: int, deep_range: Any
    ) -> Florence2:
        assert engine_dir is None
        load(
            folder, device, max_pixels=max_pixels, deep_range=deep_range
        ).close()  # whatever is wrong with the bundle is found as always
        return scripted_model(bundle, backend=backend)[0]

    monkeypatch.setattr(Florence2, "load", scripted)
    with overridden(bundle=str(bundle), task="REGION_PROPOSAL", beams=1, max_new_tokens=20):
        node = module.FlorenceEdgeNode()
    yield World(node, backend, bundle, module)
    backend.gate.set()
    node.close()
    assert threads() == []


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


# Requests.


def test_a_long_answer_is_cut_short_when_the_node_stops(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = threading.Event()

    def endless(*arguments: Any, cancel: Any, **others: Any) -> Any:
        begun.set()
        assert cancel.wait(10), "nobody set cancel"
        return answer(*arguments, cancel=cancel, **others)

    answer = Florence2.answer
    monkeypatch.setattr(Florence2, "answer", endless)
    world.up()
    goal = world.ask_several("CAPTION", "OD", picture=grey(1))
    assert begun.wait(10)
    assert world.node.trigger("deactivate") == SUCCESS
    assert goal.done.wait(10)
    assert (goal.status, len(goal.result.answers)) == ("aborted", 0)
    assert goal.result.message.startswith("The node is not active. Activate it: ros2 lifecycle")


def test_a_third_request_is_refused_while_two_wait(world: World) -> None:
    world.up()
    world.backend.gate.clear()
    goals = [world.ask_several("OD", picture=grey(1))]
    assert world.backend.encoding.wait(10)
    goals.append(world.ask_several("OD", picture=grey(2)))
    deadline = time.monotonic() + 10
    while "2 requests are being answered" not in (reply := world.ask("OD", "", grey(3)).message):
        assert time.monotonic() < deadline, reply
    world.backend.gate.set()
    assert all(goal.done.wait(10) for goal in goals)
    assert [goal.status for goal in goals] == ["succeeded"] * 2
    assert world.ask("OD", "", grey(3)).success


def test_commands_name_the_node_with_its_namespace(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(world.node), "namespace", "/front")
    assert "lifecycle set /front/florence_edge configure" in world.ask("OD", "", grey(1)).message


def test_a_question_about_a_picture_is_answered(world: World) -> None:
    world.up()
    response = world.ask("OPEN_VOCABULARY_DETECTION", "a cat", grey(7))
    assert (response.success, response.message) == (True, "")
    answer = json.loads(response.answer)
    assert (answer["text_input"], answer["stamp"]["sec"]) == ("a cat", 150)
    assert response.detections.header.stamp.sec == 150
    assert len(response.detections.detections) == len(answer["scores"]) == 1
    assert world.backend.encoded == [7]
    assert world.node.publishers[DETECTIONS].sent == []


def test_without_a_picture_the_latest_frame_is_asked_about(world: World) -> None:
    world.up()
    response = world.ask("OD")
    assert not response.success
    assert "No frame has come from /image yet" in response.message
    world.show(grey(3), 3)
    world.wait(DETECTIONS, 1)
    response = world.ask("REGION_PROPOSAL")
    assert response.success
    assert json.loads(response.answer)["stamp"]["sec"] == 103
    assert world.backend.encoded == [3, 3]


@pytest.mark.parametrize(
    ("task", "text", "message"),
    [
        ("COUNT", "", "There is no task 'COUNT'"),
        ("OD", "car", "takes no text"),
        ("REGION_TO_OCR", "car", "needs a region, but got the text 'car'"),
    ],
)
def test_a_question_that_cannot_be_asked_is_refused(
    world: World, task: str, text: str, message: str
) -> None:
    world.up()
    response = world.ask(task, text, grey(1))
    assert not response.success
    assert message in response.message


def test_a_node_that_is_not_active_says_so(world: World) -> None:
    assert "ros2 lifecycle set /florence_edge configure" in world.ask("OD").message
    world.node.trigger("configure")
    response = world.ask("OD", picture=grey(1))
    assert not response.success
    assert "The node is not active. Activate it: ros2 lifecycle set" in response.message


def test_a_request_that_waits_when_the_node_is_deactivated_is_refused(world: World) -> None:
    world.up()
    world.backend.gate.clear()
    world.show(grey(1))
    assert world.backend.encoding.wait(10)
    goal = world.ask_several("OD", picture=grey(2))
    threading.Timer(0.2, world.backend.gate.set).start()
    time.sleep(0.1)
    world.node.trigger("deactivate")
    assert goal.done.wait(10)
    assert goal.status == "aborted"
    assert "The node is not active" in goal.result.message
    assert world.backend.encoded == [1]


def test_several_questions_are_answered_from_one_encoding(world: World) -> None:
    world.up()
    goal = world.ask_several("CAPTION", "REGION_PROPOSAL", "OCR", picture=grey(8))
    assert goal.done.wait(10)
    assert (goal.status, goal.result.message) == ("succeeded", "")
    tasks = [json.loads(each)["task"] for each in goal.result.answers]
    assert tasks == ["<CAPTION>", "<REGION_PROPOSAL>", "<OCR>"]
    counts = [len(each.detections) for each in goal.result.detections]
    assert counts == [0, len(BOXES), 0]
    assert [(each.answered, each.asked) for each in goal.feedback] == [(1, 3), (2, 3), (3, 3)]
    assert [each.answer for each in goal.feedback] == goal.result.answers
    assert world.backend.encoded == [8]


def test_each_question_has_a_text_of_its_own(world: World) -> None:
    world.up()
    goal = world.ask_several(
        "OPEN_VOCABULARY_DETECTION", "OD", texts=("a cat", ""), picture=grey(8)
    )
    assert goal.done.wait(10)
    texts = [json.loads(each)["text_input"] for each in goal.result.answers]
    assert texts == ["a cat", None]


@pytest.mark.parametrize(
    ("tasks", "texts", "message"),
    [
        ((), (), "names no task"),
        (("OD", "OCR"), ("a",), "has 2 tasks and 1 texts"),
        (("OD", "COUNT"), (), "There is no task 'COUNT'"),
    ],
)
def test_a_goal_that_cannot_be_reached_is_aborted_with_the_reason(
    world: World, tasks: tuple[str, ...], texts: tuple[str, ...], message: str
) -> None:
    world.up()
    goal = world.ask_several(*tasks, texts=texts, picture=grey(1))
    assert goal.done.wait(10)
    assert goal.status == "aborted"
    assert message in goal.result.message
    assert world.backend.encoded == []


def test_a_goal_that_is_cancelled_ends_with_what_is_complete(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, go_on = [], threading.Event()
    answer = Florence2.answer

    def slow(model: Florence2, views: Any, prompts: Any, *arguments: Any, **others: Any) -> Any:
        asked.append(prompts[0].task.name)
        if len(asked) == 2:
            assert go_on.wait(10)
        return answer(model, views, prompts, *arguments, **others)

    monkeypatch.setattr(Florence2, "answer", slow)
    world.up()
    goal = world.ask_several("CAPTION", "OD", "OCR", picture=grey(1))
    assert goal.fed_back.wait(10)
    threading.Timer(0.02, go_on.set).start()
    ActionServer.latest.cancel(goal)
    assert goal.done.wait(10)
    assert goal.status == "canceled"
    assert asked == ["CAPTION", "OD"]
    spoken = [json.loads(each) for each in goal.result.answers]
    assert [each["status"] for each in spoken] == ["ok", "truncated"]
    assert goal.result.message == "Cancelled after 2 of 3 answers."
