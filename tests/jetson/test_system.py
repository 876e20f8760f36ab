import sys
from pathlib import Path

import numpy as np
import pytest

from florence_edge_jetson.machine.system import (
    Memory,
    Tree,
    cpu_flags,
    cpu_model,
    cpu_name,
    forget_peak,
    peak_bytes,
    read_memory,
    resident_bytes,
)

from .recorded_boards import write_tree


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


CPU_INFO = """processor\t: 0
model name\t: Some Processor 9000
flags\t\t: fpu avx2 amx_int8

processor\t: 1
model name\t: Some Processor 9000
flags\t\t: fpu
"""


def test_the_processor_is_known_by_name_and_by_what_it_can_do(tmp_path: Path) -> None:
    tree = write_tree(tmp_path, {"/proc/cpuinfo": CPU_INFO})
    assert cpu_model(tree) == cpu_name(tree) == "Some Processor 9000"
    assert cpu_flags(tree) == {"fpu", "avx2", "amx_int8"}
    arm = write_tree(tmp_path / "arm", {"/proc/cpuinfo": "Features\t: asimddp i8mm\nmodel\t: 1\n"})
    assert cpu_model(arm) is None
    assert cpu_name(arm)
    assert cpu_flags(arm) == {"asimddp", "i8mm"}


def test_memory_and_swap_are_in_bytes(tmp_path: Path) -> None:
    lines = "MemTotal: 8 kB\nMemAvailable: 5 kB\nSwapTotal: 3 kB\nSwapFree: 2 kB\nHugePages: 1\n"
    assert read_memory(write_tree(tmp_path, {"/proc/meminfo": lines})) == Memory(
        total=8192, available=5120, swap=3072, disk_swap=0, swap_free=2048
    )


def test_sizes_of_the_process_are_read_in_units_of_1024(tmp_path: Path) -> None:
    status = "Name:\tpython\nVmHWM:\t   2048 kB\nVmRSS:\t   1024 kB\n"
    tree = write_tree(tmp_path, {"/proc/self/status": status})
    assert (peak_bytes(tree), resident_bytes(tree)) == (2048 * 1024, 1024 * 1024)


def test_a_system_that_does_not_say_gives_none(tmp_path: Path) -> None:
    assert peak_bytes(Tree(tmp_path / "nothing")) is None
    assert resident_bytes(write_tree(tmp_path, {"/proc/self/status": "Name:\tpython\n"})) is None
    assert not forget_peak(Tree(tmp_path / "missing"))


@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells it in /proc")
def test_the_peak_has_what_was_freed_and_can_begin_anew() -> None:
    before = peak_bytes()
    block = np.ones(40_000_000, dtype=np.uint8)
    size = block.nbytes
    del block
    after, now = peak_bytes(), resident_bytes()
    assert before is not None
    assert after is not None
    assert now is not None
    assert after >= now + size // 2
    if not forget_peak():
        pytest.skip("this system does not let a peak begin anew")
    forgotten = peak_bytes()
    assert forgotten is not None
    assert forgotten < after
