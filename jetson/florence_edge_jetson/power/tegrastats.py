"""Lines of NVIDIA's tegrastats, of every generation.

A line is a row of words that differ from board to board and from one JetPack to the next: two or
three numbers a rail with or without "mW", GR3D_FREQ with or without a percentage or not at all,
a time in front or none. So each kind of word is looked for by itself, and none is needed.
"""

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

_TIME = re.compile(r"^\s*(\d{2}-\d{2}-\d{4} \d{2}:\d{2}:\d{2})\b")
_RAM = re.compile(r"\bRAM (\d{1,9})/(\d{1,9})MB")
_GPU = re.compile(r"\bGR3D_FREQ (?:(\d{1,3})%)?(?:@\[?([\d,]{1,99})\]?)?")
_TEMPERATURE = re.compile(r"(\S+)@(-?\d{1,4}(?:\.\d{1,9})?)C(?=[/\s]|$)")
# VDD_IN 4900mW/5000mW, VDD_GPU 37528mW/37528mW/37528mW, and POM_5V_IN 2132/2132 of JetPack 4.
_RAIL = re.compile(r"(?<!\S)([A-Z]\w*) (-?\d{1,9})(?:mW(?:/-?\d+mW)*|/-?\d+)(?!\S)")

_OFF = -200.0  # sensors without power say -256
_UNUSED = "NC"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """What a line states; None or empty where it does not.

    `ram` is used and total MB, `gpu_mhz` one clock a cluster, `temperatures` degrees Celsius,
    `watts` the power of each rail at that moment (not the averages that follow it).
    """

    time: datetime | None
    ram: tuple[int, int] | None
    gpu_percent: int | None
    gpu_mhz: tuple[int, ...]
    temperatures: Mapping[str, float]
    watts: Mapping[str, float]


def parse(line: str) -> Stats:
    """Read a line; words that are not understood are passed over."""
    ram, gpu = _RAM.search(line), _GPU.search(line)
    temperatures = {name: float(celsius) for name, celsius in _TEMPERATURE.findall(line)}
    watts: dict[str, float] = {}
    for label, milliwatts in _RAIL.findall(line):
        if label != _UNUSED:
            watts.setdefault(label, int(milliwatts) / 1000)
    return Stats(
        time=_time(line),
        ram=None if ram is None else (int(ram[1]), int(ram[2])),
        gpu_percent=int(gpu[1]) if gpu is not None and gpu[1] else None,
        gpu_mhz=tuple(int(mhz) for mhz in re.findall(r"\d+", (gpu[2] or "") if gpu else "")),
        temperatures={name: value for name, value in temperatures.items() if value > _OFF},
        watts=watts,
    )


def _time(line: str) -> datetime | None:
    found = _TIME.search(line)
    with suppress(ValueError):  # digits that are no date
        return datetime.strptime(found[1], "%m-%d-%Y %H:%M:%S") if found else None
    return None
