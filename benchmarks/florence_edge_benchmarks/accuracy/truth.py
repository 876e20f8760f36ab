"""A data folder with truth, in COCO's form and a little more, as questions that can be judged.

benchmarks/DATA.md describes the tables. All are optional but `images`.
"""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from florence_edge.errors import RequestError

from ..results.fingerprints import data_fingerprint
from .questions import Asked, questions_of
from .truth_rows import HELP, Row, check_categories, check_table

_TABLES = (
    *("images", "categories", "annotations", "captions", "questions"),
    *("phrases", "expressions", "words", "vqa"),
)
_OF_ALL = ("images", "categories")  # the other tables are about pictures
_OFFICIAL = ("instances_val*.json", "captions_val*.json")  # what COCO's own folder is read for


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """The pictures that are there, what is asked about each, and COCO's instances."""

    name: str
    fingerprint: str
    """Of the files it was read from, and of the pictures that were taken."""
    pictures: Mapping[int, Path]
    asked: tuple[Asked, ...]
    categories: tuple[Row, ...]
    instances: tuple[Row, ...]

    @property
    def has_boxes(self) -> bool:
        """Whether there is a box to be found; of crowds alone there is no average precision."""
        return any(not row.get("iscrowd") for row in self.instances)


def read_truth(
    folder: Path, annotations: Sequence[Path] = (), *, limit: int | None = None
) -> Truth:
    """Read a data folder.

    Args:
        folder: holds the pictures, or folders with them, and JSON files.
        annotations: the JSON files; left out, those in `folder`, else COCO's for val in
            `folder/annotations`.
        limit: how many pictures to take, in the order of their ids.

    Raises:
        RequestError: there are no such files, they lack a field, no picture is there, or nothing
            is known of those that are.
    """
    files = list(annotations) or _annotation_files(folder)
    tables = _tables(files)
    pictures = _pictures(folder, tables["images"], limit)
    kept = {name: _about(rows, pictures) for name, rows in tables.items()}
    instances = tuple(row for row in kept["annotations"] if "bbox" in row)
    check_categories(instances, tables["categories"])
    asked = tuple(questions_of(kept, pictures))
    if not asked:
        raise RequestError(_nothing_asked(folder, tables, pictures))
    return Truth(
        name=folder.resolve().name,
        fingerprint=data_fingerprint(files, pictures),
        pictures=pictures,
        asked=asked,
        categories=tuple(tables["categories"]),
        instances=instances,
    )


def _nothing_asked(
    folder: Path, tables: Mapping[str, Sequence[Row]], pictures: Collection[int]
) -> str:
    """Why there is no question: ids that do not match, or no truth of a kind that is asked for."""
    rows = [row for name in _TABLES if name not in _OF_ALL for row in tables[name]]
    if rows and not _about(rows, pictures):
        return (
            f"No truth in {folder} is about any of the {len(pictures)} pictures that were taken. "
            "An `image_id` should be the `id` of a row of `images` whose file is there."
        )
    return f"{folder} has pictures, but no truth about them that can be asked for. {HELP}"


def _annotation_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise RequestError(f"There is no folder {folder}. Give one with pictures and truth.")
    found = sorted(folder.glob("*.json"))
    if not found:
        for pattern in _OFFICIAL:
            found += sorted((folder / "annotations").glob(pattern))
    if not found:
        raise RequestError(
            f"There is no truth in {folder}: no *.json, and no annotations/instances_val*.json. "
            "Give a folder as benchmarks/DATA.md describes it, or name --annotations."
        )
    return found


def _tables(files: Iterable[Path]) -> dict[str, list[Row]]:
    """The tables of all files; a picture that several of them name is taken once."""
    tables: dict[str, list[Row]] = {name: [] for name in _TABLES}
    for file in files:
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise RequestError(f"{file} cannot be read: {error}. Expected COCO's JSON.") from error
        if not isinstance(found, dict) or not isinstance(found.get("images"), list):
            raise RequestError(f"{file} has no table `images`. Expected COCO's JSON.")
        for name in _TABLES:
            try:
                check_table(name, found.get(name, []))
            except RequestError as error:
                raise RequestError(f"{file}: {error}") from error
            tables[name] += found.get(name, [])
    tables["captions"] += [row for row in tables["annotations"] if "caption" in row]
    tables["images"] = list({row["id"]: row for row in tables["images"]}.values())
    tables["categories"] = list({row["id"]: row for row in tables["categories"]}.values())
    return tables


def _pictures(folder: Path, images: Sequence[Row], limit: int | None) -> dict[int, Path]:
    places = [folder, *sorted(path for path in folder.iterdir() if path.is_dir())]
    found: dict[int, Path] = {}
    for row in sorted(images, key=lambda row: int(row["id"])):
        path = next((p for place in places if (p := place / row["file_name"]).is_file()), None)
        if path is not None and (limit is None or len(found) < limit):
            found[int(row["id"])] = path
    if not found:
        raise RequestError(
            f"None of the {len(images)} pictures that the truth names is in {folder} or in a "
            "folder in it."
        )
    return found


def _about(rows: Iterable[Row], pictures: Collection[int]) -> list[Row]:
    """The rows about pictures that are there."""
    return [row for row in rows if row.get("image_id") in pictures]
