"""The processor as a process may use it: which one, and how many of its cores.

A container sees all cores of its host. What it may use of them is said elsewhere: by the affinity
of the process (taskset, docker --cpuset-cpus) and by the quota of its cgroups (docker --cpus, a
limit of Kubernetes, CPUQuota of systemd), as seconds of processor a second.
"""

import math
import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

_ROOT = Path("/")
_MOST_BYTES = 1 << 16
_CGROUPS = "/proc/self/cgroup"  # cgroups(7): "0::/path" of version 2, "4:cpu,cpuacct:/path" of 1
_CGROUP = "/sys/fs/cgroup"
_CPUINFO = "/proc/cpuinfo"

# What /proc/cpuinfo says of a core that decides how fast it computes; clocks change.
_IDENTITY = (
    *("vendor_id", "cpu family", "model", "model name", "stepping", "flags"),
    *("CPU implementer", "CPU architecture", "CPU variant", "CPU part", "Features"),
)


@dataclass(frozen=True, slots=True)
class Cores:
    """How many threads of a process can compute at a time, and which limits say so."""

    count: int
    logical: int
    """Processors in the affinity, as Linux numbers them."""
    physical: int
    """Cores that these belong to: two threads of one core share what multiplies."""
    quota: float | None = None
    """Cores' worth of time that the cgroups give, such as 1.5; None where they set no limit."""

    def __str__(self) -> str:
        """`2 (4 cores, 8 processors, cgroup quota 1.5)`."""
        quota = "no cgroup quota" if self.quota is None else f"cgroup quota {self.quota:g}"
        return f"{self.count} ({self.physical} cores, {self.logical} processors, {quota})"


def usable_cores(root: Path = _ROOT) -> Cores:
    """The cores that this process may use, at least 1, by its affinity and its cgroups' quota.

    Half a core counts as one: threads that share a quota of 1.5 get more of it than one can use.

    Args:
        root: where the system's files are found; another place in tests.
    """
    if hasattr(os, "sched_getaffinity"):
        processors = os.sched_getaffinity(0)
    else:
        processors = set(range(os.cpu_count() or 1))
    physical = len({_core_of(processor, root) for processor in processors})
    quota = cgroup_quota(root)
    count = physical if quota is None else min(physical, max(1, math.ceil(quota)))
    return Cores(count, len(processors), physical, quota)


def _core_of(processor: int, root: Path) -> str:
    """The processors of the core that this one belongs to, as Linux lists them: "0,4"."""
    topology = f"/sys/devices/system/cpu/cpu{processor}/topology"
    for name in ("core_cpus_list", "thread_siblings_list"):  # the second before Linux 5.3
        if found := _text(root, f"{topology}/{name}"):
            return found
    return str(processor)


def cgroup_quota(root: Path = _ROOT) -> float | None:
    """The smallest quota of this process' cgroups and those above them, in cores; None without.

    Version 2 has it in cpu.max, "150000 100000" or "max 100000", version 1 in cpu.cfs_quota_us and
    cpu.cfs_period_us, -1 for none (Documentation/admin-guide/cgroup-v2.rst, scheduler/sched-bwc.rst
    of Linux). In a container the path is the host's, and its own files lie at the top.
    """
    found = [quota for folder in _cgroups(root) for quota in [_quota_in(root, folder)] if quota]
    return min(found, default=None)


def _cgroups(root: Path) -> Iterator[PurePosixPath]:
    """Folders of /sys/fs/cgroup that may limit this process, those of both versions."""
    for line in _text(root, _CGROUPS).splitlines():
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if controllers and "cpu" not in controllers.split(","):
            continue
        mounts = [PurePosixPath(_CGROUP)]
        if controllers:
            mounts = [PurePosixPath(_CGROUP, name) for name in ("cpu", controllers)]
        inside = PurePosixPath(path.strip("/"))
        if ".." in inside.parts:  # the namespace ends below it
            inside = PurePosixPath()
        for mount in mounts:
            for folder in (inside, *inside.parents):
                yield mount / folder


def _quota_in(root: Path, folder: PurePosixPath) -> float | None:
    limit, _, period = _text(root, folder / "cpu.max").partition(" ")
    if not limit:
        limit = _text(root, folder / "cpu.cfs_quota_us")
        period = _text(root, folder / "cpu.cfs_period_us")
    if not (limit.isdecimal() and period.isdecimal() and int(limit) and int(period)):
        return None  # "max", "-1" or no such file
    return int(limit) / int(period)


def processor_identity(root: Path = _ROOT) -> dict[str, str]:
    """What tells processors apart by how fast they compute, as /proc/cpuinfo names it."""
    first, _, _ = _text(root, _CPUINFO).partition("\n\n")
    lines = (line.partition(":") for line in first.splitlines())
    named = {name.strip(): value.strip() for name, _, value in lines}
    return {
        "machine": platform.machine(),
        **{name: named[name] for name in _IDENTITY if name in named},
    }


def _text(root: Path, name: str | PurePosixPath) -> str:
    """The beginning of a file of the system; '' where there is none, or it may not be read."""
    try:
        with Path(root, str(name).lstrip("/")).open("rb") as file:
            return file.read(_MOST_BYTES).decode("utf-8", errors="replace").strip()
    except OSError:
        return ""
