"""florence-label, killed at one step of writing its second part: `killed_driver.py STEP ARGUMENTS`.

It answers in this process, and sends itself SIGKILL, as the kernel would when memory runs out.
"""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from florence_edge import files
from florence_edge_label import run as running
from florence_edge_label.cli import main
from florence_edge_label.labeller import Labeller, Watcher

STEPS = ("open", "half written", "written", "synced", "renamed", "named")

seen = {"parts": 0}


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def wrap(owner: Any, name: str, is_meant: Callable[..., bool], *, before: bool) -> None:
    """Die before or behind a call."""
    inner = getattr(owner, name)

    def wrapped(*given: Any, **named: Any) -> Any:
        meant = is_meant(*given)
        if meant and before:
            die()
        result = inner(*given, **named)
        if meant:
            die()
        return result

    setattr(owner, name, wrapped)


def is_second_part(path: Any, *_: Any) -> bool:
    return ".part-000001" in str(path)


def arm(step: str) -> None:
    if step == "open":
        wrap(Path, "write_bytes", is_second_part, before=True)
    elif step == "half written":
        inner = Path.write_bytes

        def half(path: Path, content: Any) -> int:
            if is_second_part(path):
                inner(path, content[: len(content) // 2])
                die()
            return inner(path, content)

        Path.write_bytes = half  # type: ignore[method-assign,assignment]
    elif step == "written":
        wrap(Path, "write_bytes", is_second_part, before=False)
    elif step == "synced":
        wrap(os, "rename", is_second_part, before=True)
    elif step == "renamed":
        wrap(os, "rename", is_second_part, before=False)
    elif step == "named":
        wrap(files, "_sync_names", lambda p: p.name == "part-000001.parquet", before=False)


def answer(shards: Any, settings: Any, *_: Any) -> Any:
    labeller = Labeller(settings)
    for shard in shards:
        yield labeller.answer(shard, Watcher())


if __name__ == "__main__":
    vars(running)["answer_in_processes"] = answer
    arm(sys.argv[1])
    sys.exit(main(sys.argv[2:]))
