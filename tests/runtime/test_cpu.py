"""How many cores a process may use: affinity, cores of two threads, and both kinds of cgroups."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from florence_edge.cpu import Cores, cgroup_quota, processor_identity, usable_cores


def machine(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        path = root / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content + "\n")
    return root


def with_processors(monkeypatch: pytest.MonkeyPatch, *numbers: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(numbers), raising=False)


TOPOLOGY = "/sys/devices/system/cpu/cpu{}/topology/core_cpus_list"


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({}, None),
        # Version 2: of the process' own group, of one above it, and of the top of a container.
        ({"/proc/self/cgroup": "0::/a/b", "/sys/fs/cgroup/a/b/cpu.max": "150000 100000"}, 1.5),
        ({"/proc/self/cgroup": "0::/a/b", "/sys/fs/cgroup/a/cpu.max": "50000 100000"}, 0.5),
        ({"/proc/self/cgroup": "0::/", "/sys/fs/cgroup/cpu.max": "200000 100000"}, 2),
        ({"/proc/self/cgroup": "0::/../x", "/sys/fs/cgroup/cpu.max": "300000 100000"}, 3),
        ({"/proc/self/cgroup": "0::/a", "/sys/fs/cgroup/a/cpu.max": "max 100000"}, None),
        ({"/proc/self/cgroup": "0::/a", "/sys/fs/cgroup/a/cpu.max": "nonsense"}, None),
        # Version 1, under either of its names; another controller says nothing.
        (
            {
                "/proc/self/cgroup": "5:memory:/m\n4:cpu,cpuacct:/docker/x",
                "/sys/fs/cgroup/cpu,cpuacct/docker/x/cpu.cfs_quota_us": "250000",
                "/sys/fs/cgroup/cpu,cpuacct/docker/x/cpu.cfs_period_us": "100000",
                "/sys/fs/cgroup/m/cpu.max": "1 100",
            },
            2.5,
        ),
        (
            {
                "/proc/self/cgroup": "1:cpu:/docker/not-seen-from-inside",
                "/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "100000",
                "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "50000",
            },
            2,
        ),
        (
            {
                "/proc/self/cgroup": "1:cpu:/",
                "/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
                "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
            },
            None,
        ),
        # Several limits: the smallest holds.
        (
            {
                "/proc/self/cgroup": "0::/a/b",
                "/sys/fs/cgroup/a/b/cpu.max": "400000 100000",
                "/sys/fs/cgroup/a/cpu.max": "100000 100000",
            },
            1,
        ),
    ],
)
def test_the_quota_of_cgroups(tmp_path: Path, files: dict[str, str], quota: float | None) -> None:
    assert cgroup_quota(machine(tmp_path, files)) == quota


@pytest.mark.parametrize(("quota", "count"), [(0.3, 1), (1.0, 1), (1.5, 2), (2.0, 2), (64.0, 4)])
def test_a_part_of_a_core_counts_as_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: float, count: int
) -> None:
    with_processors(monkeypatch, 0, 1, 2, 3)
    files = {"/proc/self/cgroup": "0::/", "/sys/fs/cgroup/cpu.max": f"{quota * 1000:.0f} 1000"}
    assert usable_cores(machine(tmp_path, files)) == Cores(count, 4, 4, quota)


def test_two_threads_of_a_core_count_as_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = {0: "0,4", 1: "1,5", 4: "0,4", 5: "1,5"}
    root = machine(tmp_path, {TOPOLOGY.format(n): pair for n, pair in pairs.items()})
    with_processors(monkeypatch, 0, 1, 4, 5)
    assert usable_cores(root) == Cores(2, 4, 2)
    with_processors(monkeypatch, 0, 4)
    assert str(usable_cores(root)) == "1 (1 cores, 2 processors, no cgroup quota)"


@pytest.mark.skipif(shutil.which("taskset") is None, reason="no taskset")
def test_the_affinity_of_this_process_holds() -> None:
    program = "from florence_edge.cpu import usable_cores; print(usable_cores().logical)"
    done = subprocess.run(
        ["taskset", "-c", str(min(os.sched_getaffinity(0))), sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "1"


def test_a_processor_is_known_by_what_it_can_and_not_by_its_clock(tmp_path: Path) -> None:
    core = "processor : {}\nmodel name : EPYC\ncpu MHz : {}\nflags : fpu avx2\n"
    root = machine(tmp_path, {"/proc/cpuinfo": core.format(0, 2000) + "\n" + core.format(1, 9)})
    found = processor_identity(root)
    assert {name: found[name] for name in found if name != "machine"} == {
        "model name": "EPYC",
        "flags": "fpu avx2",
    }
    assert set(processor_identity(tmp_path / "nothing")) == {"machine"}
