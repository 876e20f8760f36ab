"""The ROS node's service and action: questions about a picture, one or several."""

import json
import threading
import time
from typing import Any

import pytest

pytest.importorskip("rosbags", reason="install florence-edge[ros]")

from florence_edge import EncodedImage, Task

from .fake_rclpy import SUCCESS, ActionServer
from .ros_world import DETECTIONS, World, module, world
from .scripted_model import BOXES, grey

__all__ = ["module", "world"]  # fixtures


def test_a_long_answer_is_cut_short_when_the_node_stops(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = threading.Event()

    def endless(*arguments: Any, cancel: Any, **others: Any) -> Any:
        begun.set()
        assert cancel.wait(10), "nobody set cancel"
        return answer(*arguments, cancel=cancel, **others)

    answer = EncodedImage.run
    monkeypatch.setattr(EncodedImage, "run", endless)
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
    answer = EncodedImage.run

    def slow(view: EncodedImage, task: Task, *arguments: Any, **others: Any) -> Any:
        asked.append(task.name)
        if len(asked) == 2:
            assert go_on.wait(10)
        return answer(view, task, *arguments, **others)

    monkeypatch.setattr(EncodedImage, "run", slow)
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
