import json
from pathlib import Path

import pytest

from florence_edge_benchmarks import machine
from florence_edge_jetson.machine.system import Tree

CPU_INFO = """processor\t: 0
model name\t: Some Processor 9000
flags\t\t: fpu sse avx2 amx_int8 avx512f
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, text in {
        "proc/cpuinfo": CPU_INFO,
        "proc/meminfo": "MemTotal:       16000000 kB\nMemFree: 1 kB\n",
        "proc/device-tree/model": "NVIDIA Jetson Orin Nano\0",
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "schedutil\n",
        "sys/devices/system/cpu/cpu1/cpufreq/scaling_governor": "schedutil\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_what_decides_speed_is_recorded(root: Path) -> None:
    found = machine.describe_machine(Tree(root))
    assert found["processor"] == "Some Processor 9000"
    assert found["board"] == "NVIDIA Jetson Orin Nano"
    assert found["features"] == ("avx2", "avx512f", "amx_int8")
    assert found["memory_bytes"] == 16_000_000 * 1024
    assert found["governors"] == ("schedutil",)
    assert {"florence-edge", "numpy"} <= set(found["versions"])


def test_a_machine_with_few_files_is_not_an_error(tmp_path: Path) -> None:
    found = machine.describe_machine(Tree(tmp_path))
    assert found["processor"]
    assert found["board"] is None
    assert found["features"] == found["governors"] == ()
    json.dumps(found)


def test_the_power_mode_is_what_nvpmodel_prints(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "bin" / "nvpmodel"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n[ $1 = -q ] && echo 'NV Power Mode: 15W' && echo 0\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/bin:/usr/bin")
    assert machine.describe_machine(Tree(root))["power_mode"] == "NV Power Mode: 15W; 0"
    program.write_text("#!/bin/sh\nexit 1\n")
    assert machine.describe_machine(Tree(root))["power_mode"] is None


def test_a_machine_is_named_once_in_its_line() -> None:
    from florence_edge_benchmarks.report.tables import machine_line

    machine = {"board": "Some Processor", "processor": "Some Processor", "cores": 1}
    assert machine_line(machine) == "Some Processor, 1 core"
    orin = {"board": "Orin", "processor": "ARMv8", "cores": 6, "power_mode": "15W"}
    assert machine_line(orin) == "Orin, ARMv8, 6 cores, 15W"
