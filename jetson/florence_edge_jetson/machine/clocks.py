"""Power mode and clocks of a Jetson: read, never set (jetson/power-mode.sh sets on request)."""

import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass

from .system import Tree

_STATUS = "/var/lib/nvpmodel/status"
_MODES = "/etc/nvpmodel.conf"
_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class PowerMode:
    """A mode of nvpmodel. Numbers differ by board: 0 is MAXN on one and 15W on another."""

    number: int
    name: str

    def __str__(self) -> str:
        return f"{self.name} (mode {self.number})"


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuClock:
    """The GPU's clock in MHz: now, the highest the mode allows, the highest of the chip."""

    now: int
    limit: int
    max: int
    governor: str | None


def nvpmodel_query() -> str | None:
    """What `nvpmodel -q` prints on this machine; None where it is missing, fails or hangs."""
    try:
        done = subprocess.run(
            ["nvpmodel", "-q"], capture_output=True, text=True, timeout=_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout


def read_power_mode(
    tree: Tree, query: Callable[[], str | None] = nvpmodel_query
) -> PowerMode | None:
    """The mode in force: from nvpmodel itself on a live machine, else from its files."""
    printed = (query() if tree.live else None) or ""
    found = re.search(r"NV Power Mode:\s*(\S+)\s+([0-9]{1,18})\b", printed)
    if found:
        return PowerMode(int(found[2]), found[1])
    stored = re.search(r"pmode:([0-9]{1,18})\b", tree.text(_STATUS) or "")
    if stored is None:
        return None
    names = {mode.number: mode.name for mode in read_power_modes(tree)}
    return PowerMode(int(stored[1]), names.get(int(stored[1]), "unknown"))


def read_power_modes(tree: Tree) -> tuple[PowerMode, ...]:
    """The modes that this board offers."""
    entries = re.findall(r"<\s*POWER_MODEL\s+([^>]*)>", tree.text(_MODES) or "")
    fields = [dict(re.findall(r"(ID|NAME)=(\S+)", entry)) for entry in entries]
    return tuple(
        PowerMode(int(field["ID"]), field["NAME"])
        for field in fields
        if re.fullmatch("[0-9]{1,18}", field.get("ID", "")) and "NAME" in field
    )


def fastest(modes: tuple[PowerMode, ...]) -> PowerMode | None:
    """The mode without a power limit; where a board has MAXN_SUPER, that is the one."""
    unlimited = [mode for mode in modes if mode.name.upper().startswith("MAXN")]
    return max(unlimited, key=lambda mode: len(mode.name), default=None)


def read_gpu_clock(tree: Tree) -> GpuClock | None:
    """The GPU's frequency scaling: 17000000.gpu or .ga10b on Orin, gpu-gpc-0 on Thor."""
    for folder in tree.find("/sys/class/devfreq/*"):
        name = folder.rpartition("/")[2]
        if not re.search(r"gpu|ga10b|gv11b", name):
            continue
        hertz = [tree.number(f"{folder}/{file}") for file in ("cur_freq", "max_freq")]
        if hertz[0] is None or hertz[1] is None:
            continue
        steps = map(
            int, re.findall(r"\b[0-9]{1,18}\b", tree.text(f"{folder}/available_frequencies") or "")
        )
        return GpuClock(
            now=_mhz(hertz[0]),
            limit=_mhz(hertz[1]),
            max=_mhz(max(steps, default=hertz[1])),
            governor=tree.text(f"{folder}/governor"),
        )
    return None


def cpu_governors(tree: Tree) -> tuple[str, ...]:
    """The frequency governors of the cores, each once, in alphabetical order."""
    files = tree.find("/sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_governor")
    return tuple(sorted({tree.text(file) or "" for file in files} - {""}))


def _mhz(hertz: int) -> int:
    return round(hertz / 1e6)
