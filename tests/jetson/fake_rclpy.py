"""As much of rclpy as the node uses, with the rules that matter: enough to test it without ROS.

Messages are the classes of rosbags, and whatever is published goes through its serialization, so
that a field of a wrong type does not pass.
"""

import array
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import numpy as np
from rosbags.typesys import get_types_from_msg

from florence_edge_jetson.robots.bag.reader import open_typestore
from florence_edge_jetson.robots.ros import message_types

ROS2 = Path(__file__).parents[2] / "jetson" / "ros2"
TYPESTORE = open_typestore()

SUCCESS, FAILURE, ERROR = "success", "failure", "error"

RCLPY_NAMES = frozenset(
    [
        "_allow_undeclared_parameters",
        "_apply_descriptor",
        "_apply_descriptor_and_set",
        "_apply_descriptors",
        "_apply_floating_point_range",
        "_apply_integer_range",
        "_call_post_set_parameters_callback",
        "_call_pre_set_parameters_callback",
        "_callbacks",
        "_check_undeclared_parameters",
        "_clients",
        "_clock",
        "_context",
        "_count_clients_or_servers",
        "_count_publishers_or_subscribers",
        "_declare_parameter_common",
        "_default_callback_group",
        "_descriptors",
        "_get_info_by_topic",
        "_guards",
        "_logger",
        "_logger_service",
        "_managed_entities",
        "_on_set_parameter_callbacks",
        "_on_set_parameters_callbacks",
        "_parameter_callbacks",
        "_parameter_event_publisher",
        "_parameter_overrides",
        "_parameter_service",
        "_parameters",
        "_post_set_parameter_callbacks",
        "_post_set_parameters_callbacks",
        "_pre_set_parameter_callbacks",
        "_pre_set_parameters_callbacks",
        "_publishers",
        "_rate_group",
        "_service_change_state",
        "_service_get_available_states",
        "_service_get_available_transitions",
        "_service_get_state",
        "_service_get_transition_graph",
        "_services",
        "_set_parameters_atomically",
        "_set_parameters_atomically_common",
        "_state_machine",
        "_subscriptions",
        "_time_source",
        "_timers",
        "_type_description_service",
        "_validate_qos_or_depth_parameter",
        "_validate_topic_or_service_name",
        "_wake_executor",
    ]
)
"""Names of rclpy 7.1.6's own Node and LifecycleNode: a node that takes one of them breaks."""


class Publisher:
    """Keeps what was published, as it is after the wire; a lifecycle one only while enabled."""

    def __init__(self, kind: str, *, enabled: bool) -> None:
        self.kind = kind
        self.enabled = enabled
        self.listeners = 0
        self.sent: list[Any] = []
        self.news = threading.Condition()

    def publish(self, message: Any) -> None:
        if not self.enabled:
            return
        if self.kind == message_types.IMAGE:  # rclpy wants this type, rosbags that
            assert isinstance(message.data, array.array)
            assert message.data.typecode == "B"
            message.data = np.frombuffer(message.data, dtype=np.uint8)
        wire = TYPESTORE.serialize_cdr(message, self.kind)
        with self.news:
            self.sent.append(TYPESTORE.deserialize_cdr(wire, self.kind))
            self.news.notify_all()

    def get_subscription_count(self) -> int:
        return self.listeners

    def wait(self, count: int) -> list[Any]:
        """What was sent, once it is so much."""
        with self.news:
            assert self.news.wait_for(lambda: len(self.sent) >= count, timeout=3)
            return list(self.sent)


class LifecycleNode:
    """The state machine of a lifecycle node, its parameters and its entities by name."""

    overrides: ClassVar[dict[str, Any]] = {}
    namespace: ClassVar[str] = ""

    def __init__(self, name: str) -> None:
        self.name = name
        self.state = "unconfigured"
        self.log: list[tuple[str, str]] = []
        self.values: dict[str, Any] = {}
        self.publishers: dict[str, Publisher] = {}
        self.managed: list[Publisher] = []
        self.subscriptions: list[Any] = []
        self.services: dict[str, Callable[[Any, Any], Any]] = {}
        self.timers: list[Callable[[], None]] = []
        self.checks: list[Callable[[Any], Any]] = []
        self.destroyed = False
        self.context = SimpleNamespace(valid=True)
        self.context.ok = lambda: self.context.valid

    def get_fully_qualified_name(self) -> str:
        return f"{self.namespace}/{self.name}"

    def get_name(self) -> str:
        return self.name

    def get_logger(self) -> Any:
        def logger(level: str) -> Callable[[str], None]:
            return lambda text: self.log.append((level, text))

        return SimpleNamespace(**{each: logger(each) for each in ("info", "warning", "error")})

    def get_clock(self) -> Any:
        time = TYPESTORE.types["builtin_interfaces/msg/Time"](sec=1, nanosec=2)
        return SimpleNamespace(now=lambda: SimpleNamespace(to_msg=lambda: time))

    def resolve_topic_name(self, name: str) -> str:
        return f"/{name}"

    # Parameters.

    def declare_parameter(self, name: str, default: Any, descriptor: Any) -> None:
        assert descriptor.description
        self.values[name] = self.overrides.get(name, default)

    def get_parameter(self, name: str) -> Any:
        return SimpleNamespace(value=self.values[name])

    def add_on_set_parameters_callback(self, callback: Callable[[Any], Any]) -> None:
        self.checks.append(callback)

    def set_parameters(self, **values: Any) -> Any:
        given = [SimpleNamespace(name=name, value=value) for name, value in values.items()]
        for check in self.checks:
            if not (result := check(given)).successful:
                return result
        self.values.update(values)
        return SimpleNamespace(successful=True, reason="")

    # Entities.

    def create_publisher(self, kind: Any, topic: str, qos: Any) -> Publisher:
        self.publishers[topic] = Publisher(kind.__msgtype__, enabled=True)
        return self.publishers[topic]

    def create_lifecycle_publisher(self, kind: Any, topic: str, qos: Any) -> Publisher:
        self.publishers[topic] = publisher = Publisher(kind.__msgtype__, enabled=False)
        self.managed.append(publisher)
        return publisher

    def create_subscription(
        self, kind: Any, topic: str, callback: Callable[[Any], None], qos: Any
    ) -> Any:
        subscription = SimpleNamespace(
            kind=kind.__msgtype__, topic=topic, callback=callback, qos=qos
        )
        self.subscriptions.append(subscription)
        return subscription

    def destroy_subscription(self, subscription: Any) -> None:
        self.subscriptions.remove(subscription)

    def create_timer(
        self, seconds: float, callback: Callable[[], None], *, callback_group: Any
    ) -> None:
        assert seconds == 1.0
        assert callback_group is not None  # or configure would hold it up
        self.timers.append(callback)

    def create_service(
        self, kind: Any, name: str, callback: Callable[[Any, Any], Any], *, callback_group: Any
    ) -> None:
        self.services[name] = callback

    def destroy_node(self) -> None:
        self.destroyed = True

    # Transitions; the defaults are those of rclpy's managed entities.

    def on_configure(self, state: Any) -> str:
        return SUCCESS

    def on_activate(self, state: Any) -> str:
        return self._enable(True)

    def on_deactivate(self, state: Any) -> str:
        return self._enable(False)

    def on_cleanup(self, state: Any) -> str:
        return SUCCESS

    def on_shutdown(self, state: Any) -> str:
        return SUCCESS

    def on_error(self, state: Any) -> str:
        return SUCCESS

    def trigger(self, transition: str) -> str:
        """Run a transition as `ros2 lifecycle set` does."""
        start, goal = _TRANSITIONS[transition]
        assert transition == "shutdown" or self.state == start
        try:
            outcome: str = getattr(self, f"on_{transition}")(SimpleNamespace(label=self.state))
        except Exception:  # noqa: BLE001 - as rclpy does
            outcome = ERROR
        if outcome == SUCCESS:
            self.state = goal
        elif outcome == ERROR:
            self.state = "unconfigured" if self.on_error(None) == SUCCESS else "finalized"
        return outcome

    def _enable(self, enabled: bool) -> str:
        for publisher in self.managed:
            publisher.enabled = enabled
        return SUCCESS


_TRANSITIONS = {
    "configure": ("unconfigured", "inactive"),
    "activate": ("inactive", "active"),
    "deactivate": ("active", "inactive"),
    "cleanup": ("inactive", "unconfigured"),
    "shutdown": ("", "finalized"),
}


class Goal:
    """A goal handle: it may only end as cancelled after it has become `canceling`."""

    def __init__(self, request: Any, number: int) -> None:
        self.request = request
        self.goal_id = SimpleNamespace(uuid=np.full(16, number, dtype=np.uint8))
        self.status = "executing"
        self.feedback: list[Any] = []
        self.result: Any = None
        self.fed_back = threading.Event()
        self.done = threading.Event()

    @property
    def is_cancel_requested(self) -> bool:
        return self.status == "canceling"

    def publish_feedback(self, feedback: Any) -> None:
        self.feedback.append(feedback)
        self.fed_back.set()

    def succeed(self) -> None:
        self._end("succeeded")

    def abort(self) -> None:
        self._end("aborted")

    def canceled(self) -> None:
        assert self.status == "canceling"
        self._end("canceled")

    def _end(self, status: str) -> None:
        assert self.status in ("executing", "canceling")
        self.status = status


class ActionServer:
    """Runs goals in threads of their own, as a reentrant callback group lets it."""

    latest: ClassVar["ActionServer"]

    def __init__(
        self,
        node: Any,
        kind: Any,
        name: str,
        execute: Callable[[Any], Any],
        *,
        cancel_callback: Callable[[Any], Any],
        callback_group: Any,
    ) -> None:
        self.name = name
        self._execute = execute
        self._cancel = cancel_callback
        self._goals = 0
        ActionServer.latest = self

    def send(self, request: Any) -> Goal:
        self._goals += 1
        goal = Goal(request, self._goals)

        def run() -> None:
            goal.result = self._execute(goal)
            goal.done.set()

        threading.Thread(target=run).start()
        return goal

    def cancel(self, goal: Goal) -> None:
        """As rclpy does: the handle learns of it only after the callback has agreed."""
        assert self._cancel(goal) == "accept"
        threading.Event().wait(0.05)
        if goal.status == "executing":
            goal.status = "canceling"


class Executor:
    """Spins until it is interrupted, which it is at once."""

    stopped_by: ClassVar[type[BaseException]] = KeyboardInterrupt
    nodes: ClassVar[list[Any]] = []

    def __init__(self, *, num_threads: int) -> None:
        assert num_threads > 1

    def add_node(self, node: Any) -> None:
        self.nodes.append(node)

    def spin(self) -> None:
        raise self.stopped_by


class ExternalShutdownException(Exception):
    pass


def interface(path: str) -> list[type]:
    """Classes with the fields of a .srv or .action file, and no others."""
    parts = (ROS2 / "florence_edge_interfaces" / path).read_text().split("\n---\n")
    return [_class_of(part) for part in parts]


def _class_of(definition: str) -> type:
    ((_, fields),) = get_types_from_msg(definition, "a/msg/B").values()
    defaults = {name: _default(kind) for name, kind in fields}

    class Section:
        __slots__ = tuple(defaults)

        def __init__(self, **values: Any) -> None:
            for name, value in {**defaults, **values}.items():
                setattr(self, name, value)

    return Section


def _default(kind: Any) -> Any:
    """An empty value; of messages only the empty image is looked at."""
    text = repr(kind)
    if "SEQUENCE" in text:
        return ()
    if "string" in text:
        return ""
    return SimpleNamespace(height=0, width=0, data=b"") if "sensor_msgs" in text else None


def modules() -> Mapping[str, ModuleType]:
    """What the node imports, by name."""
    request, response = interface("srv/Ask.srv")
    goal, result, feedback = interface("action/AskSeveral.action")
    contents: dict[str, dict[str, Any]] = {
        "rclpy": {"init": lambda args: None, "try_shutdown": lambda: None},
        "rclpy.action": {
            "ActionServer": ActionServer,
            "CancelResponse": SimpleNamespace(ACCEPT="accept"),
        },
        "rclpy.callback_groups": {
            "MutuallyExclusiveCallbackGroup": SimpleNamespace,
            "ReentrantCallbackGroup": SimpleNamespace,
        },
        "rclpy.executors": {
            "ExternalShutdownException": ExternalShutdownException,
            "MultiThreadedExecutor": Executor,
        },
        "rclpy.lifecycle": {
            "LifecycleNode": LifecycleNode,
            "TransitionCallbackReturn": SimpleNamespace(SUCCESS=SUCCESS, FAILURE=FAILURE),
        },
        "rclpy.qos": {
            "HistoryPolicy": SimpleNamespace(KEEP_LAST="keep last"),
            "QoSProfile": SimpleNamespace,
            "ReliabilityPolicy": SimpleNamespace(BEST_EFFORT="best effort"),
        },
        "rcl_interfaces": {},
        "rcl_interfaces.msg": {
            "ParameterDescriptor": SimpleNamespace,
            "SetParametersResult": SimpleNamespace,
        },
        "florence_edge_interfaces": {},
        "florence_edge_interfaces.srv": {
            "Ask": SimpleNamespace(Request=request, Response=response)
        },
        "florence_edge_interfaces.action": {
            "AskSeveral": SimpleNamespace(Goal=goal, Result=result, Feedback=feedback)
        },
    }
    for name in (*message_types.WRITTEN, message_types.COMPRESSED_IMAGE):
        package, kind = name.split("/msg/")
        contents.setdefault(package, {})
        contents.setdefault(f"{package}.msg", {})[kind] = TYPESTORE.types[name]
    made = {name: ModuleType(name) for name in contents}
    for name, content in contents.items():
        vars(made[name]).update(content)
    return made


@contextmanager
def overridden(**values: Any) -> Iterator[None]:
    """Parameters as a launch file sets them."""
    LifecycleNode.overrides = values
    try:
        yield
    finally:
        LifecycleNode.overrides = {}
