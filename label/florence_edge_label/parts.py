"""Parts: the answers of one shard as a Parquet file, which is there whole or not at all.

A row is one answer: what one picture was asked by one task, and one phrase of an ontology. A
picture that cannot be read has a single row, without a task.
"""

import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from florence_edge import FlorenceEdgeError, Region, RequestError

from .arrow import pa, pq
from .own_file import own_file

ERROR = "error"
"""The status of a row without an answer; the others are those of `Result.status`."""

_RUN = b"florence-label.run"
_NAME = "part-{:06d}.parquet"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One answer, or why there is none; docs/label.md has the same table."""

    image_id: int
    image: str
    """What the picture is called: its path below the source."""
    width: int | None = None
    """In pixels, turned upright; None where it could not be read."""
    height: int | None = None
    task: str | None = None
    text_input: str | None = None
    """The phrase or caption that the task was given."""
    text: str | None = None
    """The answer as words."""
    score: float | None = None
    """exp of the mean log-probability of the whole answer, 0 to 1."""
    status: str
    """`ok`, `empty`, `unparsed`, `truncated`; or `error`."""
    raw_text: str | None = None
    """The answer as the model wrote it, with its location tokens."""
    regions: tuple[Region, ...] = ()
    """All that the answer points at, whatever its score."""
    error: str | None = None


def schema() -> Any:
    """The columns of a part."""
    region = pa.struct(
        [
            ("label", pa.string()),
            ("shape", pa.string()),
            ("rings", pa.list_(pa.list_(pa.float32()))),
            ("score", pa.float64()),
            ("label_score", pa.float64()),
        ]
    )
    return pa.schema(
        [
            ("image_id", pa.int64()),
            ("image", pa.string()),
            ("width", pa.int32()),
            ("height", pa.int32()),
            ("task", pa.string()),
            ("text_input", pa.string()),
            ("text", pa.string()),
            ("score", pa.float64()),
            ("status", pa.string()),
            ("raw_text", pa.string()),
            ("regions", pa.list_(region)),
            ("error", pa.string()),
        ]
    )


def encode(rows: Sequence[Row], run: str) -> bytes:
    """The rows as the content of a part; equal rows of a run give equal bytes."""
    columns: dict[str, list[Any]] = {name: [] for name in schema().names}
    for row in rows:
        for name, values in columns.items():
            values.append(getattr(row, name))
    columns["regions"] = [[_plain(each) for each in regions] for regions in columns["regions"]]
    table = pa.table(columns, schema=schema().with_metadata({_RUN: run.encode()}))
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def _plain(region: Region) -> dict[str, Any]:
    return {
        "label": region.label,
        "shape": region.shape,
        "rings": [list(ring) for ring in region.rings],
        "score": region.score,
        "label_score": region.label_score,
    }


def part_path(folder: Path, number: int) -> Path:
    """Where the part of a shard is, or will be."""
    return folder / _NAME.format(number)


def write_part(folder: Path, number: int, content: bytes) -> None:
    """Write a part whole: under a name of its own, to the disk, and renamed.

    Whoever else writes the same shard writes the same answers: the last rename stands, once.

    Raises:
        FlorenceEdgeError: the disk does not take it; what was there before is left.
    """
    target = part_path(folder, number)
    try:
        with own_file(target) as unfinished:
            unfinished.write_bytes(content)
    except OSError as error:
        raise FlorenceEdgeError(
            f"Cannot write {target}: {error.strerror or error}. Make room, then give the same "
            "command again: it goes on behind the shards that are done."
        ) from error


def finished(folder: Path) -> set[int]:
    """The numbers of the shards whose parts are there."""
    names = (name for name in os.listdir(folder) if name.startswith("part-"))
    numbers = (name.removeprefix("part-").removesuffix(".parquet") for name in names)
    return {int(number) for number in numbers if number.isdecimal()}


def read_part(path: Path, run: str, columns: Sequence[str] | None = None) -> Iterator[Row]:
    """The rows of a part, in their order.

    Args:
        path: of the part.
        run: the fingerprint of the run that it must belong to.
        columns: the only ones to read beside `image_id`, `image` and `status`.

    Raises:
        RequestError: it is damaged, or of another run.
        OSError: it cannot be read.
    """
    wanted = None if columns is None else ["image_id", "image", "status", *columns]
    try:
        with pq.ParquetFile(path) as part:
            found = (part.schema_arrow.metadata or {}).get(_RUN, b"").decode()
            if found != run:
                raise RequestError(
                    f"{path} belongs to another run ({found or 'none'}, not {run}). Take it away."
                )
            for batch in part.iter_batches(columns=wanted):
                yield from map(_row, batch.to_pylist())
    except pa.ArrowInvalid as error:
        raise RequestError(
            f"{path} is damaged: {error}. Delete it, and label again: that shard is done anew."
        ) from error


def _row(values: dict[str, Any]) -> Row:
    regions = values.pop("regions", None) or ()
    return Row(**values, regions=tuple(map(_region, regions)))


def _region(values: dict[str, Any]) -> Region:
    rings = tuple(tuple(_whole(number) for number in ring) for ring in values["rings"])
    return Region(**{**values, "rings": rings})


def _whole(number: float) -> float:
    """Coordinates of the native convention are whole numbers, and shown as such."""
    return int(number) if number.is_integer() else number
