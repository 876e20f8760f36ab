"""The ROS node on a fake of ROS, its model, and what a robot does with them."""

import importlib.util
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytest.importorskip("rosbags", reason="install florence-edge[ros]")

from florence_edge import Florence2
from florence_edge_jetson.robots.ros import message_types

from .fake_rclpy import (
    ROS2,
    SUCCESS,
    TYPESTORE,
    ActionServer,
    Goal,
    modules,
    overridden,
)
from .scripted_model import Rgb, ScriptedBackend, scripted_model

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
