"""What a program asks of the disk, in order: which files are synced, and when names change."""

import os
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from florence_edge import files
from florence_edge.files import folder_beside, replace_folder

Event = tuple[str, str]  # "sync", "rename to" or "exchange with", and the path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def put(target: Path, text: str) -> None:
    with folder_beside(target) as new:
        (new / "inner").mkdir()
        (new / "inner" / "text").write_text(text)
        replace_folder(new, target)


@contextmanager
def recorded() -> Iterator[list[Event]]:
    """The events while the block runs; everything is done as well."""
    events: list[Event] = []
    with pytest.MonkeyPatch.context() as patch:
        fsync, rename, exchanged = os.fsync, os.rename, files._exchanged

        def note_sync(descriptor: int) -> None:
            events.append(("sync", os.readlink(f"/proc/self/fd/{descriptor}")))
            fsync(descriptor)

        def note_rename(old: Any, new: Any, **options: Any) -> None:
            rename(old, new, **options)
            events.append(("rename to", str(new)))

        def note_exchange(new: Path, target: Path) -> bool:
            done = exchanged(new, target)
            if done:
                events.append(("exchange with", str(target)))
            return done

        patch.setattr(os, "fsync", note_sync)
        patch.setattr(os, "rename", note_rename)
        patch.setattr(files, "_exchanged", note_exchange)
        yield events


def check_synced_before_it_got_its_name(events: list[Event], target: Path) -> None:
    """Everything that is at `target` now was on the disk before the name, and the name after."""
    named = max(at for at, event in enumerate(events) if event[1] == str(target.resolve()))
    assert events[named][0] in ("rename to", "exchange with")
    synced_before = [path for kind, path in events[:named] if kind == "sync"]
    inside = [target, *target.rglob("*")] if target.is_dir() else []
    for path in inside:
        relative = path.relative_to(target)
        found = [each for each in synced_before if _is(Path(each), target.name, relative)]
        assert found, f"{relative} was not synced before {target.name} got its name"
    if not inside:
        assert any(f".{target.stem}.unfinished" in each for each in synced_before)
    assert ("sync", str(target.resolve().parent)) in events[named:]


def _is(synced: Path, name: str, relative: Path) -> bool:
    """Whether what was synced is `relative` in the hidden folder of `name`."""
    hidden = f".{name}.florence-new"
    if hidden not in synced.parts:
        return False
    inside = synced.parts[synced.parts.index(hidden) + 1 :]
    return inside in (relative.parts, (name, *relative.parts))


def killed(run: Callable[[], object]) -> int:
    """Run something in a process of its own that ends by a signal; gives its number."""
    with warnings.catch_warnings():
        # From Python 3.12 on, a fork beside the threads of an engine; `run` uses none.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        try:
            run()
        finally:
            os._exit(0)
    return os.WTERMSIG(os.waitpid(child, 0)[1])


def kill_this_process(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)
