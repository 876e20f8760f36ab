"""NVIDIA's tegrastats: its lines, of every generation, and a process that runs beside us.

A line is a row of words that differ from board to board and from one JetPack to the next: two or
three numbers a rail with or without "mW", GR3D_FREQ with or without a percentage or not at all,
a time in front or none. So each kind of word is looked for by itself, and none is needed.
"""

import re
import subprocess
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import IO

from florence_edge.errors import BackendError

_SILENCE = 2.0  # seconds without a line, or without an end after SIGTERM
_TIME = re.compile(r"^\s*(\d{2}-\d{2}-\d{4} \d{2}:\d{2}:\d{2})\b")
_RAM = re.compile(r"\bRAM (\d{1,9})/(\d{1,9})MB")
_GPU = re.compile(r"\bGR3D_FREQ (?:(\d{1,3})%)?(?:@\[?([\d,]{1,99})\]?)?")
_TEMPERATURE = re.compile(r"(\S+)@(-?\d{1,4}(?:\.\d{1,9})?)C(?=[/\s]|$)")
# VDD_IN 4900mW/5000mW, VDD_GPU 37528mW/37528mW/37528mW, and POM_5V_IN 2132/2132 of JetPack 4.
_RAIL = re.compile(r"(?<!\S)([A-Z]\w*) (-?\d{1,9})(?:mW(?:/-?\d+mW)*|/-?\d+)(?!\S)")

_OFF = -200.0  # sensors without power say -256
_UNUSED = "NC"


@dataclass(frozen=True, slots=True, kw_only=True)
class TegrastatsLine:
    """What is in a line; None or empty where it is not there.

    `ram` is used and total MB, `gpu_mhz` one clock a cluster, `temperatures` degrees Celsius,
    `watts` the power of each rail at that moment (not the averages that follow it).
    """

    time: datetime | None
    ram: tuple[int, int] | None
    gpu_percent: int | None
    gpu_mhz: tuple[int, ...]
    temperatures: Mapping[str, float]
    watts: Mapping[str, float]


def parse(line: str) -> TegrastatsLine:
    """Read a line; words that are not understood are passed over."""
    ram, gpu = _RAM.search(line), _GPU.search(line)
    temperatures = {name: float(celsius) for name, celsius in _TEMPERATURE.findall(line)}
    watts: dict[str, float] = {}
    for label, milliwatts in _RAIL.findall(line):
        if label != _UNUSED:
            watts.setdefault(label, int(milliwatts) / 1000)
    return TegrastatsLine(
        time=_time(line),
        ram=None if ram is None else (int(ram[1]), int(ram[2])),
        gpu_percent=int(gpu[1]) if gpu is not None and gpu[1] else None,
        gpu_mhz=tuple(int(mhz) for mhz in re.findall(r"\d+", (gpu[2] or "") if gpu else "")),
        temperatures={name: value for name, value in temperatures.items() if value > _OFF},
        watts=watts,
    )


def _time(line: str) -> datetime | None:
    found = _TIME.search(line)
    with suppress(ValueError):  # digits that are not a date
        return datetime.strptime(found[1], "%m-%d-%Y %H:%M:%S") if found else None
    return None


class Tegrastats:
    """Reads all lines in a thread of its own, so that none waits in a pipe and grows old."""

    def __init__(self, command: Sequence[str]) -> None:
        try:
            self._process = subprocess.Popen(
                command, stdout=subprocess.PIPE, text=True, errors="replace"
            )
        except OSError as error:
            raise BackendError(f"{command[0]} cannot be started: {error}.") from error
        self._news = threading.Condition()
        self._line = ""
        self._count = 0
        self._ended = False
        lines = self._process.stdout
        if lines is None:
            raise BackendError(f"{command[0]} has no output to read.")
        self._thread = threading.Thread(target=self._read, args=[lines], daemon=True)
        self._thread.start()

    def watts(self) -> Mapping[str, float]:
        """Rails and their power, of the next line that comes.

        Raises:
            BackendError: no line comes for two seconds, or tegrastats has ended.
        """
        with self._news:
            before = self._count
            self._news.wait_for(lambda: self._count > before or self._ended, timeout=_SILENCE)
            if self._count > before:
                return parse(self._line).watts
            what = "ended" if self._ended else f"has printed nothing for {_SILENCE:g} s"
        raise BackendError(f"tegrastats {what}. Run it by hand to see why: tegrastats")

    def close(self) -> None:
        """End it, by force if it does not end by itself."""
        self._process.terminate()
        try:
            self._process.wait(_SILENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._thread.join(_SILENCE)  # a child of it may hold the pipe open

    def _read(self, lines: IO[str]) -> None:
        with lines:
            for line in lines:
                with self._news:
                    self._line, self._count = line, self._count + 1
                    self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()
