from pathlib import Path

from florence_edge_jetson.machine.tree import Tree

from .recorded import write_tree


def test_text_comes_without_white_space_and_zero_bytes(tmp_path: Path) -> None:
    tree = write_tree(tmp_path, {"/proc/device-tree/model": "NVIDIA Jetson\0\n"})
    assert tree.text("/proc/device-tree/model") == "NVIDIA Jetson"


def test_what_is_missing_or_no_number_is_none(tmp_path: Path) -> None:
    tree = write_tree(tmp_path, {"/sys/temp": "off\n", "/sys/curr": "-20\n"})
    assert tree.text("/sys/missing") is None
    assert tree.text("/sys") is None
    assert tree.number("/sys/temp") is None
    assert tree.number("/sys/missing") is None
    assert tree.number("/sys/curr") == -20


def test_found_names_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    tree = write_tree(tmp_path, {f"/sys/hwmon{number}/name": "x" for number in (10, 2, 1)})
    assert tree.find("/sys/hwmon*") == ["/sys/hwmon1", "/sys/hwmon2", "/sys/hwmon10"]


def test_only_the_root_of_this_machine_is_live(tmp_path: Path) -> None:
    assert Tree().live
    assert not Tree(tmp_path).live
