"""Memory and swap of a machine; on a Jetson the GPU shares them."""

import re
from dataclasses import dataclass

from .tree import Tree

GIB = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Bytes of memory and swap; `disk_swap` leaves out zram, which lies in memory itself."""

    total: int
    available: int
    swap: int
    disk_swap: int


def read_memory(tree: Tree) -> Memory | None:
    """Read /proc/meminfo and /proc/swaps; None where there is no such file."""
    lines = re.findall(r"^(\w+):\s+([0-9]+) kB", tree.text("/proc/meminfo") or "", re.M)
    kib = {name: int(amount) for name, amount in lines}
    if "MemTotal" not in kib:
        return None
    swaps = re.findall(r"^(/\S+)\s+\w+\s+([0-9]+)", tree.text("/proc/swaps") or "", re.M)
    return Memory(
        total=kib["MemTotal"] << 10,
        available=kib.get("MemAvailable", kib.get("MemFree", 0)) << 10,
        swap=kib.get("SwapTotal", 0) << 10,
        disk_swap=sum(int(size) << 10 for name, size in swaps if "zram" not in name),
    )
