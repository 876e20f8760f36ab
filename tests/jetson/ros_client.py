"""The client's side of check.sh: everything that the node offers, asked over DDS by a real rclpy.

python ros_client.py PICTURES BUNDLE OUTPUT
"""

# mypy: ignore-errors

import json
import logging
import shutil
import sys
import threading
import time
from pathlib import Path

import numpy as np
import rclpy
from action_msgs.msg import GoalStatus
from diagnostic_msgs.msg import DiagnosticArray
from florence_edge_interfaces.action import AskSeveral
from florence_edge_interfaces.srv import Ask
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from PIL import Image as Pillow
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from rclpy.action import ActionClient
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image
from std_msgs.msg import String
from vision_msgs.msg import Detection2DArray

_logger = logging.getLogger("ros_client")
_NODE = "/florence_edge"
_PATIENCE = 60.0


class Checks:
    """What each check found, by its name; one that fails ends the program."""

    def __init__(self):
        self.values = {}

    def check(self, name, value, good=True):
        _logger.info("%s %s: %s", "ok  " if good else "FAIL", name, value)
        self.values[name] = value
        if not good:
            raise SystemExit(f"{name} is not as expected.")


class Client:
    """A node that asks, and keeps the last message of each topic."""

    def __init__(self) -> None:
        self.node = rclpy.create_node("check_client")
        self.heard = {}
        self.camera = self.node.create_publisher(Image, "/camera/image", qos_profile_sensor_data)
        self.listen(Detection2DArray, f"{_NODE}/detections")
        self.listen(String, f"{_NODE}/answers")
        self.listen(DiagnosticArray, "/diagnostics")
        self.executor = SingleThreadedExecutor()
        self.executor.add_node(self.node)
        self.thread = threading.Thread(target=self.executor.spin)
        self.thread.start()

    def close(self):
        self.executor.shutdown()
        self.thread.join()
        self.node.destroy_node()

    def listen(self, kind, topic):
        self.heard[topic] = []
        self.node.create_subscription(kind, topic, self.heard[topic].append, 10)

    def call(self, kind, name, request):
        client = self.node.create_client(kind, f"{_NODE}/{name}")
        if not client.wait_for_service(_PATIENCE):
            raise SystemExit(f"There is no service {name}.")
        return wait(client.call_async(request))

    def change(self, transition):
        request = ChangeState.Request(transition=Transition(id=transition))
        return self.call(ChangeState, "change_state", request).success

    def state(self):
        return self.call(GetState, "get_state", GetState.Request()).current_state.label

    def set(self, name, text):
        value = ParameterValue(type=ParameterType.PARAMETER_STRING, string_value=text)
        request = SetParameters.Request(parameters=[Parameter(name=name, value=value)])
        return self.call(SetParameters, "set_parameters", request).results[0]

    def show(self, pixels, encoding="rgb8", stamp=1):
        message = Image(height=pixels.shape[0], width=pixels.shape[1], encoding=encoding)
        message.step = pixels.strides[0]
        message.header.frame_id = "camera"
        message.header.stamp.sec = stamp
        message.data = pixels.tobytes()
        self.camera.publish(message)

    def shown(self, topic, pixels, encoding="rgb8", stamp=1):
        """The message about that frame, which is shown until it comes: best effort may lose it."""
        heard, deadline = self.heard[f"{_NODE}/{topic}"], time.monotonic() + _PATIENCE
        while not (found := [each for each in heard if stamp_of(each) == stamp]):
            if time.monotonic() > deadline:
                raise SystemExit(f"Nothing came on {topic} about frame {stamp}.")
            self.show(pixels, encoding, stamp)
            time.sleep(0.2)
        return found[-1]

    def health(self, words):
        """The first diagnostic status from now on whose message holds these words."""
        heard, deadline = self.heard["/diagnostics"], time.monotonic() + _PATIENCE
        begin = len(heard)
        while time.monotonic() < deadline:
            for status in (s for m in heard[begin:] for s in m.status):
                if words in status.message:
                    return {"level": ord(status.level), "message": status.message}
            time.sleep(0.1)
        raise SystemExit(f"No diagnostics held {words!r}; the last: {heard[-1:]}")


def stamp_of(message):
    header = getattr(message, "header", None)
    return header.stamp.sec if header else json.loads(message.data)["stamp"]["sec"]


def wait(future):
    done = threading.Event()
    future.add_done_callback(lambda _: done.set())
    if not done.wait(_PATIENCE):
        raise SystemExit("An answer did not come in time.")
    return future.result()


def several(client, tasks, cancel_after=None):
    """Status, result and feedback of a goal, cancelled once so many answers are there."""
    action = ActionClient(client.node, AskSeveral, f"{_NODE}/ask_several")
    action.wait_for_server(_PATIENCE)
    feedback, enough = [], threading.Event()

    def on_feedback(message):
        feedback.append(message.feedback.answered)
        if len(feedback) == cancel_after:
            enough.set()

    goal = wait(action.send_goal_async(AskSeveral.Goal(tasks=tasks), feedback_callback=on_feedback))
    if cancel_after is not None:
        enough.wait(_PATIENCE)
        wait(goal.cancel_goal_async())
    ended = wait(goal.get_result_async())
    return ended.status, ended.result, feedback


def main():
    """Ask everything once."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    pictures, bundle, output = map(Path, sys.argv[1:])
    paths = sorted(pictures.glob("*.jpg"))[:3]
    scenes = [np.asarray(Pillow.open(path).convert("RGB")) for path in paths]
    rclpy.init()
    client, checks = Client(), Checks()
    try:
        begin(client, checks.check)
        frames(client, checks.check, scenes)
        mistakes(client, checks.check, scenes[0])
        requests(client, checks.check)
        crowd(client, checks.check)
        silence(client, checks.check, scenes[0], bundle)
        end(client, checks.check, scenes[0], bundle)
    finally:
        client.close()
        rclpy.shutdown()
    output.write_text(json.dumps(checks.values, indent=1) + "\n")


def begin(client, check):
    check("state at first", client.state(), client.state() == "unconfigured")
    check("diagnostics at first", client.health("not configured"))
    early = client.call(Ask, "ask", Ask.Request(task="OD"))
    check("asked too early", early.message, not early.success and "configure" in early.message)
    check("configure", client.change(Transition.TRANSITION_CONFIGURE), client.state() == "inactive")
    check("activate", client.change(Transition.TRANSITION_ACTIVATE), client.state() == "active")


def frames(client, check, scenes):
    found = client.shown("detections", scenes[0], stamp=11)
    labels, scores = labels_of(found), [d.results[0].hypothesis.score for d in found.detections]
    good = labels and min(scores) > 0.2 and found.header.frame_id == "camera"
    check("detections", [labels, [round(score, 3) for score in scores]], good)
    text = json.loads(client.shown("answers", scenes[0], stamp=11).data)
    check("answers", text["raw_text"], text["frame_id"] == "camera")
    swapped = np.ascontiguousarray(scenes[0][:, :, ::-1])
    again = labels_of(client.shown("detections", swapped, "bgr8", stamp=12))
    check("bgr8 is read as rgb8", again, again == labels)
    small = np.ascontiguousarray(scenes[1][::2, ::2])
    check("another size", labels_of(client.shown("detections", small, stamp=13)))
    client.listen(Image, f"{_NODE}/annotated")
    drawn = client.shown("annotated", small, stamp=14)
    good = (drawn.height, drawn.width) == small.shape[:2]
    check("annotated", [drawn.width, drawn.height, drawn.encoding], good)


def mistakes(client, check, scene):
    for _ in range(4):
        client.show(scene, "nv12", 15)
        time.sleep(0.3)
    check("unknown encoding", client.health("nv12"), client.state() == "active")
    check("and on", labels_of(client.shown("detections", scene, stamp=16)))
    refused = client.set("task", "COUNT")
    check("a task that is none", refused.reason, not refused.successful)
    check("another task", client.set("task", "CAPTION").successful)
    text = json.loads(client.shown("answers", scene, stamp=17).data)
    check("a caption", text["raw_text"], text["task"] == "<CAPTION>")


def requests(client, check):
    answer = client.call(Ask, "ask", Ask.Request(task="OD"))
    check("ask about the latest frame", labels_of(answer.detections), answer.success)
    wrong = client.call(Ask, "ask", Ask.Request(task="COUNT"))
    check("ask what cannot be asked", wrong.message, not wrong.success)
    status, result, feedback = several(client, ["OD", "CAPTION", "OCR"])
    good = status == GoalStatus.STATUS_SUCCEEDED and len(result.answers) == 3
    check("ask_several", [status, feedback], good and feedback == [1, 2, 3])
    status, result, _ = several(client, ["DENSE_REGION_CAPTION", "OD"] * 20, 2)
    good = status == GoalStatus.STATUS_CANCELED and 2 <= len(result.answers) < 40
    check("ask_several, cancelled", [status, result.message], good)
    status, result, _ = several(client, [])
    check("a goal without tasks", result.message, status == GoalStatus.STATUS_ABORTED)


def crowd(client, check):
    goals = [long_goal(client) for _ in range(2)]
    for _ in range(10):  # the second may not have begun yet
        late = client.call(Ask, "ask", Ask.Request(task="OD"))
        if not late.success:
            break
    check("a third request", late.message, "Ask again" in late.message)
    for goal in goals:
        wait(goal.cancel_goal_async())
    ended = [wait(goal.get_result_async()).status for goal in goals]
    check("the two, cancelled", ended, ended == [GoalStatus.STATUS_CANCELED] * 2)
    goal = long_goal(client)
    check("deactivate during a goal", client.change(Transition.TRANSITION_DEACTIVATE))
    ended = wait(goal.get_result_async())
    good = ended.status == GoalStatus.STATUS_ABORTED and "not active" in ended.result.message
    check("the goal", [ended.status, ended.result.message], good)
    check("active again", client.change(Transition.TRANSITION_ACTIVATE))


def long_goal(client):
    action = ActionClient(client.node, AskSeveral, f"{_NODE}/ask_several")
    action.wait_for_server(_PATIENCE)
    picture = Image(height=64, width=64, encoding="mono8", step=64, data=bytes(64 * 64))
    return wait(action.send_goal_async(AskSeveral.Goal(image=picture, tasks=["OD"] * 500)))


def silence(client, check, scene, bundle):
    check("a silent camera", client.health("no frame from /camera/image"))
    manifest = bundle / "manifest.json"
    shutil.copy(manifest, bundle / "kept")
    manifest.write_text(manifest.read_text() + "\n")
    client.shown("answers", scene, stamp=18)
    check("a replaced bundle", client.health("was replaced"), client.state() == "active")
    (bundle / "kept").replace(manifest)


def end(client, check, scene, bundle):
    check("deactivate", client.change(Transition.TRANSITION_DEACTIVATE))
    check("then", client.health("not active"), client.state() == "inactive")
    late = client.call(Ask, "ask", Ask.Request(task="OD"))
    check("asked while inactive", late.message, not late.success)
    check("activate again", client.change(Transition.TRANSITION_ACTIVATE))
    client.shown("answers", scene, stamp=19)
    check("deactivate again", client.change(Transition.TRANSITION_DEACTIVATE))
    check("cleanup", client.change(Transition.TRANSITION_CLEANUP), client.state() == "unconfigured")
    client.set("bundle", "/nowhere")
    failed = client.change(Transition.TRANSITION_CONFIGURE)
    check("configure without a bundle", failed, not failed and client.state() == "unconfigured")
    client.set("bundle", str(bundle))
    check("configure again", client.change(Transition.TRANSITION_CONFIGURE))
    check("shutdown", client.change(Transition.TRANSITION_INACTIVE_SHUTDOWN))
    check("in the end", client.state(), client.state() == "finalized")


def labels_of(found):
    return [each.results[0].hypothesis.class_id for each in found.detections]


if __name__ == "__main__":
    main()
