"""The facts of a machine that Linux keeps in files: processor, memory, and what this process takes.

Everything is read through a `Tree`, so that the files of a recorded board read like those of the
machine at hand. Only the standard library is imported: florence-bench runs this file by itself in
environments that have nothing else of this project.
"""

import platform
import re
from dataclasses import dataclass
from pathlib import Path

GIB = 1 << 30

_CPUINFO = "/proc/cpuinfo"
_MOST_BYTES = 1 << 22  # of one file: cpuinfo of 1,000 cores
_STATUS = "/proc/self/status"
_CLEAR_REFS = "/proc/self/clear_refs"


@dataclass(frozen=True, slots=True)
class Tree:
    """The files of a machine: `/` is this one, any other folder a recording.

    Names are absolute ("/proc/meminfo"). What is missing or may not be read is None: sensors that
    are switched off answer with an error on a healthy board.
    """

    root: Path = Path("/")

    @property
    def live(self) -> bool:
        """Whether this is the machine we run on, which can be asked more than its files."""
        return self.root == Path("/")

    def path(self, name: str) -> Path:
        """Where the file `name` of the machine lies here."""
        return self.root / name.lstrip("/")

    def text(self, name: str) -> str | None:
        """The content of a file without the white space and zero bytes around it."""
        path = self.path(name)
        try:
            if not path.is_file():  # a pipe would be waited for
                return None
            with path.open("rb") as file:
                content = file.read(_MOST_BYTES)
        except (OSError, ValueError):  # a name with a zero byte is no name
            return None
        return content.decode("utf-8", errors="replace").strip("\0 \t\r\n")

    def number(self, name: str) -> int | None:
        """The content of a file that holds one whole number."""
        text = self.text(name)
        return int(text) if text is not None and re.fullmatch(r"[+-]?[0-9]{1,18}", text) else None

    def find(self, pattern: str) -> list[str]:
        """Names that match a shell pattern, `hwmon2` before `hwmon10`."""
        found = self.root.glob(pattern.lstrip("/"))
        names = ("/" + path.relative_to(self.root).as_posix() for path in found)
        return sorted(names, key=_by_number)


def _by_number(name: str) -> list[tuple[int, str]]:
    """Sorts digits by their value; other characters one by one."""
    parts: list[str] = re.findall(r"[0-9]+|[^0-9]", name)
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]


LIVE = Tree()
"""The machine we run on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Bytes of memory and swap; `disk_swap` leaves out zram, which lies in memory itself."""

    total: int
    available: int
    """What programs can take without swapping."""
    swap: int
    disk_swap: int
    swap_free: int = 0


def read_memory(tree: Tree = LIVE) -> Memory | None:
    """Read /proc/meminfo and /proc/swaps; None where there is no such file."""
    kib = _kib_fields(tree, "/proc/meminfo")
    if "MemTotal" not in kib:
        return None
    swaps = re.findall(r"^(/\S+)\s+\w+\s+([0-9]{1,18})\b", tree.text("/proc/swaps") or "", re.M)
    return Memory(
        total=kib["MemTotal"] << 10,
        available=kib.get("MemAvailable", kib.get("MemFree", 0)) << 10,
        swap=kib.get("SwapTotal", 0) << 10,
        disk_swap=sum(int(size) << 10 for name, size in swaps if "zram" not in name),
        swap_free=kib.get("SwapFree", 0) << 10,
    )


def cpu_model(tree: Tree = LIVE) -> str | None:
    """The processor's name as Linux knows it, which it does on x86 but seldom on ARM."""
    return next(iter(_cpu_fields(tree, "model name")), None)


def cpu_name(tree: Tree = LIVE) -> str:
    """The processor's name, or where Linux does not know it, its architecture."""
    return cpu_model(tree) or platform.processor() or platform.machine()


def cpu_flags(tree: Tree = LIVE) -> frozenset[str]:
    """What the first core can do, in Linux's words: "avx2", "amx_int8", "asimddp", ..."""
    lines = [*_cpu_fields(tree, "flags")[:1], *_cpu_fields(tree, "Features")[:1]]
    return frozenset(" ".join(lines).split())


def resident_bytes(tree: Tree = LIVE) -> int | None:
    """Memory of this process that is resident, mapped files included; None if Linux is silent."""
    return _status_bytes(tree, "VmRSS")


def peak_bytes(tree: Tree = LIVE) -> int | None:
    """The largest memory of this process that was resident since its start, or `forget_peak`.

    It is VmHWM of /proc/self/status; None if Linux is silent. Do not take `ru_maxrss` of
    `resource.getrusage` in its place: a child process inherits that from its parent, so it may be
    the peak of another program.
    """
    return _status_bytes(tree, "VmHWM")


def forget_peak(tree: Tree = LIVE) -> bool:
    """Let the peak begin anew at what is resident now; False where the system does not do that."""
    try:
        tree.path(_CLEAR_REFS).write_text("5")  # proc(5): resets the peak resident set size
    except OSError:
        return False
    return True


def _status_bytes(tree: Tree, name: str) -> int | None:
    kib = _kib_fields(tree, _STATUS).get(name)
    return None if kib is None else kib << 10


def _kib_fields(tree: Tree, file: str) -> dict[str, int]:
    """The lines "Name:  123 kB" of a file; kB are 1,024 bytes."""
    lines = re.findall(r"^(\w+):\s+([0-9]{1,18}) kB", tree.text(file) or "", re.M)
    return {name: int(amount) for name, amount in lines}


def _cpu_fields(tree: Tree, name: str) -> list[str]:
    """The values of all lines "name : value" of /proc/cpuinfo, one a core."""
    found: list[str] = re.findall(
        rf"^{name}[ \t]*:[ \t]*(\S.*?)[ \t]*$", tree.text(_CPUINFO) or "", re.M
    )
    return found
