"""What may lie where a file is expected."""

import os
from collections.abc import Callable
from pathlib import Path

NOT_A_FILE: dict[str, Callable[[Path], None]] = {
    "pipe": os.mkfifo,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "folder": Path.mkdir,
}


def put_in_place_of(path: Path, kind: str) -> None:
    """Replace a file by one of NOT_A_FILE."""
    path.unlink()
    NOT_A_FILE[kind](path)
