"""Files and folders that are there whole, or as they were before; JSON as dataclasses."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import msgspec

_Value = TypeVar("_Value")


def write_whole(path: Path, text: str) -> None:
    """Write a file beside its place first, and rename it.

    A link stays one; a device or a pipe is written to, since a rename would take its place.

    Raises:
        OSError: it cannot be written; what was there before is left.
    """
    target = path.resolve()
    if target.exists() and not target.is_file():
        target.write_text(text, encoding="utf-8")
        return
    unfinished = target.with_name(f".{target.name}.part")
    try:
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(target)
    finally:
        unfinished.unlink(missing_ok=True)


@contextmanager
def folder_beside(target: Path) -> Iterator[Path]:
    """A temporary folder on the disk of `target`, hidden, and gone when the block ends.

    Raises:
        OSError: the parent of `target` cannot be written.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        folder.chmod(0o755)  # mkdtemp makes it private
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def replace_folder(new: Path, target: Path) -> None:
    """Move the finished folder `new` to `target`, on the same disk; what was there is deleted.

    Raises:
        OSError: it cannot be moved; what was at `target` before is there again.
    """
    if not target.exists():
        os.rename(new, target)
        return
    holding = Path(tempfile.mkdtemp(prefix=f".{target.name}-old-", dir=target.parent))
    old = holding / target.name
    try:
        os.rename(target, old)
        os.rename(new, target)
    except BaseException:
        if old.exists() and not target.exists():
            os.rename(old, target)
        with suppress(OSError):  # not empty if even the way back failed: then nothing is deleted
            holding.rmdir()
        raise
    shutil.rmtree(holding, ignore_errors=True)


def from_json(kind: type[_Value], value: Any) -> _Value:
    """A dataclass (or another type that msgspec knows) from what `json.loads` gave.

    Fields are checked by their types; keys that the type does not have are ignored.

    Raises:
        ValueError: naming the field that is missing or of another type.
    """
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise ValueError(str(error)) from error
