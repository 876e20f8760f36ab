"""A machine's files under one root, so that a recorded board is read like a live one."""

import re
from dataclasses import dataclass
from pathlib import Path


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
        try:
            content = self.path(name).read_bytes()
        except OSError:
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
