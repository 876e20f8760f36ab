"""Parquet tables with pictures, as Hugging Face's `datasets` stores them: {bytes, path} a row."""

from collections.abc import Iterator, Sequence
from itertools import repeat
from pathlib import PurePosixPath
from typing import Any

from florence_edge import RequestError

from ..arrow import pa, pq
from ..picture_list import Entry
from ..storage import archive_names, open_binary

_USUAL = ("image", "img", "picture", "jpg", "png", "webp")


def entries(places: Sequence[str], root: str, column: str | None) -> Iterator[Entry]:
    """The rows of all tables in their order; the bytes of the pictures are not read.

    They are called by the path of their table below `root` and by their row.

    Raises:
        OSError: a table cannot be read.
        RequestError: a file is not Parquet, is damaged, or it has no column with pictures.
    """
    for place, called in zip(places, archive_names(root, places), strict=True):
        with open_binary(place) as file:
            table = opened(file, place)
            named = picture_column(table.schema_arrow, place, column)
            for row, path in enumerate(_paths(table, place, named)):
                suffix = PurePosixPath(path).suffix if path else ""
                yield Entry(name=f"{called}/{row:08d}{suffix}", place=place, row=row)


def opened(file: Any, place: str) -> Any:
    """An open Parquet file as pyarrow's.

    Raises:
        RequestError: it is not one.
    """
    try:
        return pq.ParquetFile(file)
    except pa.ArrowException as error:
        raise RequestError(f"{place} is not a whole Parquet file: {error}.") from error


def picture_column(schema: Any, place: str, wanted: str | None) -> str:
    """The column whose type is {bytes, path} or bytes: the one that is wanted, or a usual one.

    Raises:
        RequestError: there is none, or several.
    """
    fit = [field.name for field in schema if _holds_bytes(field.type)]
    if wanted is not None:
        if wanted in fit:
            return wanted
        raise RequestError(
            f"{place} has no pictures in a column {wanted!r}. Columns with bytes: "
            f"{', '.join(fit) or 'none'}."
        )
    usual = [name for name in _USUAL if name in fit]
    if usual or len(fit) == 1:
        return str((usual or fit)[0])
    raise RequestError(
        f"{place} has {'several columns' if fit else 'no column'} with bytes"
        f"{': ' + ', '.join(fit) + '. Choose one: --column' if fit else ', so no pictures'}."
    )


def _holds_bytes(kind: Any) -> bool:
    if pa.types.is_struct(kind):
        return bool(kind.get_field_index("bytes") >= 0)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _paths(table: Any, place: str, column: str) -> Iterator[str | None]:
    """The path that each row gives its picture; None without one, or without a picture."""
    kind = table.schema_arrow.field(column).type
    has_paths = pa.types.is_struct(kind) and kind.get_field_index("path") >= 0
    for group in range(table.num_row_groups):
        if has_paths:
            yield from _paths_of_group(table, place, column, group)
        else:
            yield from repeat(None, table.metadata.row_group(group).num_rows)


def _paths_of_group(table: Any, place: str, column: str, group: int) -> list[str | None]:
    try:
        found = table.read_row_group(group, columns=[f"{column}.path"]).column(column).to_pylist()
    except (pa.ArrowException, OSError) as error:  # OSError, too, is how pyarrow calls damage
        raise RequestError(
            f"{place} cannot be read behind its row group {group}: {error}. Fetch it again."
        ) from error
    return [None if each is None else each["path"] for each in found]
