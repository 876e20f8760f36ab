"""What the processes of pytest-xdist make once between them, such as a bundle."""

import fcntl
import os
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

Make = Callable[[Path], object]


def made_once(factory: pytest.TempPathFactory, name: str, make: Make) -> Path:
    """The folder `name` of this run, filled by whichever process needs it first.

    `make` is given a folder that is not there yet. Nobody may change what it leaves.
    """
    folder = run_folder(factory) / name
    with one_at_a_time(folder):
        if not folder.exists():
            partial = Path(f"{folder}.partial")
            make(partial)
            partial.rename(folder)
    return folder


@contextmanager
def one_at_a_time(path: Path) -> Generator[None, None, None]:
    """No other process is in such a block of the same path: the first one does the work."""
    with Path(f"{path}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def run_folder(factory: pytest.TempPathFactory) -> Path:
    """The temporary folder of this run, which the processes of pytest-xdist have in common."""
    base = factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
