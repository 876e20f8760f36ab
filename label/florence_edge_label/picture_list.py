"""The list of pictures of a run: who each is and where it lies, in the order of the source.

It is a Parquet file, written while the source is looked through and read shard by shard, so that
the memory of a run does not grow with it.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

from florence_edge import RequestError
from florence_edge.batch import in_batches

from .arrow import pa, pq

_ROWS = 10_000  # of a row group


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One picture of a source."""

    name: str
    """What it is called in all exports: its path below the source."""
    place: str
    """The file or URL that it is, or that holds it."""
    image_id: int | None = None
    """Its id in the source (COCO); by default its place in the list, from 1."""
    size: int | None = None
    """Bytes, where that is known without opening it."""
    offset: int | None = None
    """Where it begins in a tar, in bytes."""
    row: int | None = None
    """Its row in a table, from 0."""

    def identity(self) -> tuple[object, ...]:
        """What makes it the same picture, wherever its source lies now."""
        return self.name, self.image_id, self.size, self.offset, self.row

    def __str__(self) -> str:
        """`cats/1.jpg (3,412 bytes)`."""
        return self.name if self.size is None else f"{self.name} ({self.size:,} bytes)"


@dataclass(frozen=True, slots=True)
class ListSummary:
    """How many pictures a list has, and a hash of their identities."""

    count: int
    sha256: str


def write_list(path: Path, entries: Iterable[Entry]) -> ListSummary:
    """Write the entries to a new file as they come.

    Raises:
        OSError: it cannot be written.
        RequestError: what looking through the source raises.
    """
    count, digest = 0, hashlib.sha256()
    with pq.ParquetWriter(path, _schema(), compression="zstd") as writer:
        for some in in_batches(entries, _ROWS):
            numbered = [_numbered(each, count + i) for i, each in enumerate(some, 1)]
            for each in numbered:
                digest.update(repr(each.identity()).encode("utf-8", "surrogatepass"))
            writer.write_table(_table(numbered))
            count += len(some)
    return ListSummary(count, digest.hexdigest())


class PictureList:
    """A list on the disk; `close` it, or use it in a `with` block.

    Raises:
        RequestError: here, or as it is read: it is not there, or is damaged.
        OSError: it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._file = pq.ParquetFile(path)
        except (FileNotFoundError, pa.ArrowException) as error:
            raise self._unreadable(error) from error
        self._group: tuple[int, list[Entry]] = (-1, [])
        self.count = int(self._file.metadata.num_rows)

    def slice(self, first: int, count: int) -> list[Entry]:
        """Entries from the place `first` on, from 0; fewer at the end."""
        found: list[Entry] = []
        while len(found) < count and first + len(found) < self.count:
            group, inside = divmod(first + len(found), _ROWS)
            rows = self._read(group)
            found += rows[inside : inside + count - len(found)]
        return found

    def __iter__(self) -> Iterator[Entry]:
        for group in range(self._file.num_row_groups):
            yield from self._read(group)

    def _read(self, group: int) -> list[Entry]:
        if self._group[0] != group:
            try:
                rows = self._file.read_row_group(group).to_pylist()
            except (pa.ArrowException, OSError) as error:  # OSError is pyarrow's word for damage
                raise self._unreadable(error) from error
            self._group = group, [_entry(row) for row in rows]
        return self._group[1]

    def _unreadable(self, error: Exception) -> RequestError:
        return RequestError(
            f"The list of pictures {self._path} is missing or damaged: {error}. Give the command "
            "that labels again: it lists them anew."
        )

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> "PictureList":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def check_same(then: Path, now: Path) -> None:
    """Compare the list that a run began with and that of its source now.

    Raises:
        RequestError: the lists differ; it names the first picture that is not the same.
    """
    with closing(PictureList(then)) as before, closing(PictureList(now)) as found:
        for place, (old, new) in enumerate(zip_longest(before, found), 1):
            if old is None or new is None or old.identity() != new.identity():
                raise RequestError(
                    f"The pictures are not those that this run began with: picture {place} was "
                    f"{old or 'not there'}, and is {new or 'not there'} now; there were "
                    f"{before.count}, and are {found.count} now. Put them back, or label into "
                    "another --output."
                )


def _numbered(entry: Entry, number: int) -> Entry:
    return entry if entry.image_id is not None else replace(entry, image_id=number)


def _schema() -> Any:
    numbers = [(name, pa.int64()) for name in ("image_id", "size", "offset", "row")]
    return pa.schema([("name", pa.string()), ("place", pa.binary()), *numbers])


def _table(entries: list[Entry]) -> Any:
    columns = {
        "name": [each.name for each in entries],
        "place": [os.fsencode(each.place) for each in entries],
        **{
            name: [getattr(each, name) for each in entries]
            for name in ("image_id", "size", "offset", "row")
        },
    }
    return pa.table(columns, schema=_schema())


def _entry(row: dict[str, Any]) -> Entry:
    return Entry(**{**row, "place": os.fsdecode(row["place"])})
