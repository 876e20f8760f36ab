"""The pictures of entries: a path for a file of this machine, else the bytes."""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any, BinaryIO

from florence_edge import FlorenceEdgeError, ImageError, ImageNotFoundError

from ..picture_list import Entry
from ..storage import is_url, open_binary
from .tables import opened, picture_column

_BATCH = 16  # rows of a table at once


class PictureReader:
    """Reads pictures one by one; the tar or table at hand stays open. `close` it, or use `with`.

    Neighbours of a tar or a table are read fastest in their order.
    """

    def __init__(self, column: str | None = None) -> None:
        self._column = column
        self._place = ""
        self._file: BinaryIO | None = None
        self._table: _Table | None = None

    def read(self, entry: Entry) -> str | bytes:
        """What `prepare_images` takes.

        Raises:
            ImageError: it cannot be read; the message names it.
        """
        if entry.offset is None and entry.row is None and not is_url(entry.place):
            return entry.place
        try:
            return self._bytes(entry)
        except FileNotFoundError as error:
            self.close()
            raise ImageNotFoundError(f"There is no file {entry.place}.") from error
        except ImageError:
            raise
        except (OSError, FlorenceEdgeError, ValueError) as error:  # as remote storage fails
            self.close()
            raise ImageError(f"{entry.name} cannot be read: {error}.") from error

    def _bytes(self, entry: Entry) -> bytes:
        if entry.offset is None and entry.row is None:
            with open_binary(entry.place) as file:
                return file.read()
        if self._place != entry.place or self._file is None:
            self.close()
            self._file = open_binary(entry.place)
            self._place = entry.place
        if entry.row is not None:
            if self._table is None:
                self._table = _Table(self._file, entry.place, self._column)
            return self._table.bytes_of(entry.row)
        self._file.seek(entry.offset or 0)
        content = self._file.read(entry.size or 0)
        if len(content) != entry.size:
            raise ImageError(f"{entry.name} is cut off: {entry.place} has become shorter.")
        return content

    def close(self) -> None:
        """Close what is open."""
        if self._file is not None:
            with suppress(OSError):
                self._file.close()
        self._file, self._table, self._place = None, None, ""

    def __enter__(self) -> "PictureReader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Table:
    """A Parquet file that is read forwards, a few rows at a time."""

    def __init__(self, file: BinaryIO, place: str, column: str | None) -> None:
        self._table = opened(file, place)
        self._column = picture_column(self._table.schema_arrow, place, column)
        self._starts = [0]
        for group in range(self._table.num_row_groups):
            rows = self._table.metadata.row_group(group).num_rows
            self._starts.append(self._starts[-1] + rows)
        self._batches: Iterator[Any] = iter(())
        self._rows: list[Any] = []
        self._first, self._group = 0, -1

    def bytes_of(self, row: int) -> bytes:
        if row >= self._starts[-1]:
            raise ImageError(f"There is no row {row}: the table has become shorter.")
        group = self._group_of(row)
        if group != self._group or row < self._first:
            self._begin(group)
        while row >= self._first + len(self._rows):
            self._first += len(self._rows)
            self._rows = next(self._batches).column(0).to_pylist()
        found = self._rows[row - self._first]
        content = found["bytes"] if isinstance(found, dict) else found
        if not content:
            raise ImageError(f"Row {row} holds no bytes of a picture.")
        return bytes(content)

    def _group_of(self, row: int) -> int:
        return next(g for g, start in enumerate(self._starts[1:]) if row < start)

    def _begin(self, group: int) -> None:
        self._batches = self._table.iter_batches(
            batch_size=_BATCH, row_groups=[group], columns=[self._column]
        )
        self._rows, self._first, self._group = [], self._starts[group], group
