"""What formats write: long JSON row by row, folders that are there whole, pictures in them."""

import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain, count
from pathlib import Path, PurePosixPath
from typing import IO, Any

from florence_edge import RequestError
from florence_edge.files import folder_beside, replace_folder
from florence_edge.image_file import SUFFIXES

from ..picture_list import Entry
from ..sources.reading import PictureReader
from ..storage import is_url
from .view import PictureMode

_MARK = ".florence-label"  # says that a folder may be replaced


@dataclass(slots=True, kw_only=True)
class Written:
    """What an export came to."""

    pictures: int = 0
    regions: int = 0
    notes: list[str] = field(default_factory=list)

    def add(self, regions: int) -> None:
        """One more picture."""
        self.pictures += 1
        self.regions += regions


def write_array(file: IO[str], rows: Iterable[Any]) -> None:
    """A JSON array with a row a line, written as the rows come."""
    file.write("[")
    for number, row in enumerate(rows):
        file.write(f"{',' if number else ''}\n{json.dumps(row)}")
    file.write("\n]")


@contextmanager
def export_folder(target: Path) -> Iterator[Path]:
    """A folder that gets the name `target` when the block ends, in place of an older export there.

    Raises:
        RequestError: there is something else at `target`.
        OSError: it cannot be written; what was there is left.
    """
    if not _may_be_replaced(target):
        raise RequestError(
            f"{target} is there, and is not an export of florence-label. Choose another --output."
        )
    with folder_beside(target) as new:
        (new / _MARK).touch()
        yield new
        replace_folder(new, target)


def _may_be_replaced(target: Path) -> bool:
    if not target.exists():
        return True
    return target.is_dir() and ((target / _MARK).exists() or not any(target.iterdir()))


def relative_name(entry: Entry) -> str:
    """A picture's path below an export: without a scheme, a root or steps upwards."""
    name = entry.name.partition("://")[2] if is_url(entry.name) else entry.name
    parts = [part for part in name.split("/") if part not in ("", ".", "..")]
    inside = "/".join(parts) or str(entry.image_id)
    known = PurePosixPath(inside).suffix.lower() in SUFFIXES
    return inside if known else f"{inside}.jpg"  # readers look at the content


def free_name(name: str, is_taken: Callable[[PurePosixPath], bool]) -> str:
    """The name, or one made of it that is not taken: `a_png.png` beside `a.jpg`, `a_png_2.png`, ...

    The exports depend on the order of the list alone, and so do these names.
    """
    path = PurePosixPath(name)
    other = f"{path.stem}_{path.suffix[1:]}"
    numbered = (f"{other}_{number}" for number in count(2))
    stems = chain((path.stem, other), numbered)
    names = (path.with_name(f"{stem}{path.suffix}") for stem in stems)
    return str(next(each for each in names if not is_taken(each)))


class PictureWriter:
    """Puts pictures into an export: links to local files, or copies. `close` it, or use `with`."""

    def __init__(self, mode: PictureMode, column: str | None = None) -> None:
        self._mode = mode
        self._reader = PictureReader(column)

    def put(self, entry: Entry, target: Path) -> None:
        """Write one picture, unless there are to be none.

        Raises:
            ImageError: it cannot be read any more.
            OSError: it cannot be written.
        """
        if self._mode == "none":
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        content = self._reader.read(entry)
        if isinstance(content, bytes):
            target.write_bytes(content)
        elif self._mode == "link":
            target.symlink_to(os.path.abspath(content))
        else:
            target.write_bytes(Path(content).read_bytes())

    def __enter__(self) -> "PictureWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.close()
