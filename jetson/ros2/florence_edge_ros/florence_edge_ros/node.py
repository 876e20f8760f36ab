"""The lifecycle node: rclpy's side of `florence_edge_jetson.robots.ros.watcher`, and nothing more.

configure loads the bundle, activate subscribes and starts to answer; deactivate and cleanup undo
that. Requests (`~/ask`, `~/ask_several`) are answered while the node is active.
"""

# mypy: disable-error-code="import-not-found", allow-subclassing-any

import array
import threading
import time
from typing import Any

import rclpy
from florence_edge_interfaces.action import AskSeveral
from florence_edge_interfaces.srv import Ask
from rcl_interfaces.msg import ParameterDescriptor, SetParametersResult
from rclpy.action import ActionServer, CancelResponse
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup, ReentrantCallbackGroup
from rclpy.executors import ExternalShutdownException, MultiThreadedExecutor
from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy

from florence_edge import Florence2, FlorenceEdgeError, RequestError
from florence_edge_jetson.robots.ros import message_types
from florence_edge_jetson.robots.ros.messages import DiagnosticStatus, Messages
from florence_edge_jetson.robots.ros.parameters import (
    DEFAULTS,
    DESCRIPTIONS,
    NodeParameters,
    parameters_from,
)
from florence_edge_jetson.robots.ros.watcher import Publishers, TopicWatcher, prompts_from

_LATEST_FRAME = QoSProfile(  # sensor data, but a queue would only hold old frames
    history=HistoryPolicy.KEEP_LAST, depth=1, reliability=ReliabilityPolicy.BEST_EFFORT
)
_THREADS = 4  # frames and transitions, diagnostics, two requests (a third is refused at once)
_SECONDS_TO_CANCEL = 1.0


class FlorenceEdgeNode(LifecycleNode):
    """Parameters are the fields of `NodeParameters`; the frames come from the topic `image`."""

    def __init__(self) -> None:
        super().__init__("florence_edge")
        self._watcher: TopicWatcher | None = None
        self._frames: Any = None
        self._cancelled: dict[bytes, threading.Event] = {}
        for name, default in DEFAULTS.items():
            descriptor = ParameterDescriptor(description=DESCRIPTIONS[name])
            self.declare_parameter(name, default, descriptor)
        self.add_on_set_parameters_callback(self.on_parameters)

        types = {name: message_types.class_of(name) for name in message_types.WRITTEN}
        self._messages = Messages(types=types, uint8_array=lambda data: array.array("B", data))
        self._outputs = self._open_publishers(types)
        self._diagnostics = self.create_publisher(
            types[message_types.DIAGNOSTIC_ARRAY], "/diagnostics", 10
        )
        # In a group of their own: they go on while configure loads the bundle.
        alone = MutuallyExclusiveCallbackGroup()
        self.create_timer(1.0, self.publish_diagnostics, callback_group=alone)

        requests = ReentrantCallbackGroup()  # they wait for their turn with the model
        self.create_service(Ask, "~/ask", self.on_ask, callback_group=requests)
        self._action = ActionServer(
            self,
            AskSeveral,
            "~/ask_several",
            self.on_ask_several,
            cancel_callback=self.on_cancel,
            callback_group=requests,
        )

    # Transitions.

    def on_configure(self, state: Any) -> Any:
        try:
            parameters = self._node_parameters({})
            images = parameters.image_options
            model = Florence2.load(
                parameters.folder,
                parameters.device,
                engine_dir=parameters.engines,
                max_pixels=images.max_pixels,
                deep_range=images.deep_range,
            )
            topic = self.resolve_topic_name("image")
            self._watcher = TopicWatcher(model, parameters, self._messages, self._outputs, topic)
        except FlorenceEdgeError as error:
            self.get_logger().error(f"Cannot be configured: {error}")
            return TransitionCallbackReturn.FAILURE
        except Exception as error:  # which rclpy would pass over in silence
            self.get_logger().error(f"Cannot be configured, unexpectedly: {error!r}")
            raise
        return super().on_configure(state)

    def on_activate(self, state: Any) -> Any:
        watcher = self._ready()
        kind = message_types.class_of(watcher.image_type)
        done = super().on_activate(state)  # lets the publishers publish
        watcher.start()
        self._frames = self.create_subscription(kind, "image", watcher.offer, _LATEST_FRAME)
        return done

    def on_deactivate(self, state: Any) -> Any:
        self._rest()
        return super().on_deactivate(state)

    def on_cleanup(self, state: Any) -> Any:
        self.close()
        return super().on_cleanup(state)

    def on_shutdown(self, state: Any) -> Any:
        self.close()
        return super().on_shutdown(state)

    def on_error(self, state: Any) -> Any:
        self.close()
        return super().on_error(state)

    def close(self) -> None:
        """Stop answering and free the model."""
        self._rest()
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.close()

    # Parameters and requests.

    def on_parameters(self, parameters: Any) -> Any:
        """Take new values over from the next frame on, or refuse all of them with the reason."""
        try:
            values = self._node_parameters({each.name: each.value for each in parameters})
            if self._watcher is not None:
                self._watcher.adopt(values)
        except FlorenceEdgeError as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    def on_ask(self, request: Any, response: Any) -> Any:
        """Answer one question."""
        try:
            watcher = self._ready()
            prompts = prompts_from([request.task], [request.text], watcher.own_tasks)
            (answer,) = watcher.answers(_picture(request.image), prompts, threading.Event())
        except FlorenceEdgeError as error:
            response.success, response.message = False, str(error)
            return response
        response.success, response.answer = True, answer.text.data
        response.detections = answer.detections
        return response

    def on_ask_several(self, goal: Any) -> Any:
        """Answer several questions, each as feedback, until they are answered or cancelled."""
        result = AskSeveral.Result()
        cancelled = self._cancelled.setdefault(_key(goal), threading.Event())
        try:
            watcher, picture = self._ready(), _picture(goal.request.image)
            prompts = prompts_from(goal.request.tasks, goal.request.texts, watcher.own_tasks)
            for answer in watcher.answers(picture, prompts, cancelled):
                result.answers = [*result.answers, answer.text.data]
                result.detections = [*result.detections, answer.detections]
                feedback = AskSeveral.Feedback(
                    answered=len(result.answers), asked=len(prompts), answer=answer.text.data
                )
                goal.publish_feedback(feedback)
        except FlorenceEdgeError as error:
            result.message = str(error)
            goal.abort()
            return result
        finally:
            self._cancelled.pop(_key(goal), None)
        if cancelled.is_set() and _is_cancelling(goal):
            result.message = f"Cancelled after {len(result.answers)} of {len(prompts)} answers."
            goal.canceled()
        else:
            goal.succeed()
        return result

    def on_cancel(self, goal: Any) -> Any:
        """Agree to cancel; the current answer ends with what is complete."""
        self._cancelled.setdefault(_key(goal), threading.Event()).set()
        return CancelResponse.ACCEPT

    def publish_diagnostics(self) -> None:
        """Say how it is going, in every state of the node."""
        if not self.context.ok():
            return
        stale = DiagnosticStatus(level="STALE", message="not configured", values={})
        status = stale if (watcher := self._watcher) is None else watcher.status()
        now = self.get_clock().now().to_msg()
        header = self._messages.types[message_types.HEADER](stamp=now, frame_id="")
        self._diagnostics.publish(self._messages.diagnostics(self.get_name(), status, header))

    def _node_parameters(self, changes: dict[str, Any]) -> NodeParameters:
        return parameters_from(
            {name: changes.get(name, self.get_parameter(name).value) for name in DEFAULTS}
        )

    def _open_publishers(self, types: dict[str, Any]) -> Publishers:
        def publisher(name: str, topic: str) -> Any:
            return self.create_lifecycle_publisher(types[name], topic, 10)

        annotated = publisher(message_types.IMAGE, "~/annotated")
        return Publishers(
            node=self.get_fully_qualified_name(),
            is_open=self.context.ok,
            detections=publisher(message_types.DETECTION_2D_ARRAY, "~/detections").publish,
            answers=publisher(message_types.STRING, "~/answers").publish,
            annotated=annotated.publish,
            annotated_has_subscribers=lambda: annotated.get_subscription_count() > 0,
            warn=self.get_logger().warning,
        )

    def _ready(self) -> TopicWatcher:
        if self._watcher is None:
            command = f"ros2 lifecycle set {self.get_fully_qualified_name()} configure"
            raise RequestError(f"The node is not configured. Run: {command}, then activate.")
        return self._watcher

    def _rest(self) -> None:
        frames, self._frames = self._frames, None
        if frames is not None:
            self.destroy_subscription(frames)
        if self._watcher is not None:
            self._watcher.stop()


def main(args: list[str] | None = None) -> None:
    """Run the node until it is stopped."""
    rclpy.init(args=args)
    node = FlorenceEdgeNode()
    executor = MultiThreadedExecutor(num_threads=_THREADS)
    executor.add_node(node)
    try:
        executor.spin()
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        node.close()
        node.destroy_node()
        rclpy.try_shutdown()


def _picture(image: Any) -> Any | None:
    """The picture of a request; None if it was left empty."""
    return image if image.height else None


def _key(goal: Any) -> bytes:
    return bytes(goal.goal_id.uuid)


def _is_cancelling(goal: Any) -> bool:
    """Whether the goal may end as cancelled: it becomes so shortly after `on_cancel` agreed."""
    deadline = time.monotonic() + _SECONDS_TO_CANCEL
    while not goal.is_cancel_requested and time.monotonic() < deadline:
        time.sleep(0.01)
    return bool(goal.is_cancel_requested)
