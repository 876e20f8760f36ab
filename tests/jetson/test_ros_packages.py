"""The packages of jetson/ros2: their declarations, and what they install."""

import ast
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

import florence_edge
from florence_edge_jetson.robots.ros import message_types
from florence_edge_jetson.robots.ros.parameters import DEFAULTS

ROS2 = Path(__file__).parents[2] / "jetson" / "ros2"
PACKAGE = ROS2 / "florence_edge_ros"


def test_the_packages_have_the_version_of_the_runtime() -> None:
    for package in ("florence_edge_ros", "florence_edge_interfaces"):
        root = ElementTree.parse(ROS2 / package / "package.xml").getroot()
        assert root.findtext("name") == package
        assert root.findtext("version") == florence_edge.__version__
    assert f'version="{florence_edge.__version__}"' in (PACKAGE / "setup.py").read_text()


def test_the_configuration_names_every_parameter_with_a_value_that_can_be() -> None:
    yaml = pytest.importorskip("ruamel.yaml", reason="comes with florence-edge[ros]")
    content = yaml.YAML(typ="safe").load(PACKAGE / "config" / "florence_edge.yaml")
    values = content["/**"]["ros__parameters"]
    assert list(values) == list(DEFAULTS)
    for name, value in values.items():
        assert type(value) is type(DEFAULTS[name])


def imported_packages(source: Path) -> set[str]:
    """What a file imports besides the standard library and florence-edge, which pip installs."""
    found = set()
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").split(".")[0])
    return found - sys.stdlib_module_names - {"florence_edge", "florence_edge_jetson"}


def test_every_package_that_is_imported_is_declared() -> None:
    root = ElementTree.parse(PACKAGE / "package.xml").getroot()
    declared = {each.text for each in root.iter("exec_depend")}
    used = {name.split("/")[0] for name in (*message_types.WRITTEN, message_types.COMPRESSED_IMAGE)}
    used |= imported_packages(PACKAGE / "florence_edge_ros" / "node.py")
    assert {"rclpy", "rcl_interfaces", "florence_edge_interfaces"} <= used
    assert used <= declared


def test_the_files_that_setup_installs_are_there() -> None:
    text = (PACKAGE / "setup.py").read_text()
    for name in ("package.xml", "launch/florence_edge.launch.py", "config/florence_edge.yaml"):
        assert f'"{name}"' in text
        assert (PACKAGE / name).is_file()
    assert (PACKAGE / "resource" / "florence_edge_ros").is_file()
    source = (PACKAGE / "launch" / "florence_edge.launch.py").read_text()
    compile(source, "florence_edge.launch.py", "exec")
