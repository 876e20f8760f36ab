"""A data folder with truth, in COCO's form and a little more, as questions that can be judged.

benchmarks/DATA.md describes the tables. All are optional but `images`.
"""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from florence_edge.errors import RequestError
from florence_edge.tasks import find_task
from florence_edge_calibration.fidelity import Boxes

from .truth_rows import Row, check_categories, check_table

VQA = "VQA"
_TABLES = (
    *("images", "categories", "annotations", "captions", "questions"),
    *("phrases", "expressions", "words", "vqa"),
)
_OFFICIAL = ("instances_val*.json", "captions_val*.json")  # what COCO's own folder is read for


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A question about a picture, and what is known of its answer."""

    image_id: int
    task: str
    """A task's name, or `VQA`, whose text is the question."""
    text: str | None = None
    answer: str | None = None
    """In Florence-2's own notation."""
    references: tuple[str, ...] = ()
    """Captions by people."""
    boxes: Boxes | None = None
    """Of phrases, x1, y1, x2, y2 in pixels."""
    outline: tuple[tuple[float, ...], ...] = ()
    """Polygons x, y, x, y, ... in pixels."""
    words: str | None = None
    """What is written in the picture."""
    answers: tuple[str, ...] = ()
    """Of people to a VQA question."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """The pictures that are there, what is asked about each, and COCO's instances."""

    name: str
    pictures: Mapping[int, Path]
    asked: tuple[Asked, ...]
    categories: tuple[Row, ...]
    instances: tuple[Row, ...]


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
        RequestError: there are no such files, they lack a field, or no picture is there.
    """
    files = list(annotations) or _annotation_files(folder)
    tables = _tables(files)
    pictures = _pictures(folder, tables["images"], limit)
    kept = {name: _about(rows, pictures) for name, rows in tables.items()}
    instances = tuple(row for row in kept["annotations"] if "bbox" in row)
    check_categories(instances, tables["categories"])
    return Truth(
        name=folder.name,
        pictures=pictures,
        asked=tuple(_questions(kept, pictures)),
        categories=tuple(tables["categories"]),
        instances=instances,
    )


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
        except (OSError, ValueError) as error:
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


def _questions(tables: Mapping[str, Sequence[Row]], pictures: Collection[int]) -> Iterable[Asked]:
    """What all tables ask; `questions` about a task take the place of the others."""
    told = {find_task(row["task"]).name for row in tables["questions"]}
    for row in tables["questions"]:
        is_caption = row["task"].endswith("CAPTION") and "REGION" not in row["task"]
        yield Asked(
            image_id=row["image_id"],
            task=find_task(row["task"]).name,
            text=row["text"] or None,
            answer=row["answer"],
            references=(row["answer"],) if is_caption else (),
        )
    if "OD" not in told and any("bbox" in row for row in tables["annotations"]):
        yield from (Asked(image_id=image_id, task="OD") for image_id in pictures)
    if "CAPTION" not in told:
        for image_id, rows in _by_image(tables["captions"]).items():
            captions = tuple(row["caption"] for row in rows)
            yield Asked(image_id=image_id, task="CAPTION", references=captions)
    if "OCR" not in told:
        for image_id, rows in _by_image(tables["words"]).items():
            words = " ".join(row["text"] for row in rows)
            yield Asked(image_id=image_id, task="OCR", words=words)
    yield from _grounded(tables["phrases"])
    for row in tables["expressions"]:
        yield Asked(
            image_id=row["image_id"],
            task="REFERRING_EXPRESSION_SEGMENTATION",
            text=row["text"],
            outline=tuple(map(tuple, row["segmentation"])),
        )
    for row in tables["vqa"]:
        yield Asked(
            image_id=row["image_id"], task=VQA, text=row["question"], answers=tuple(row["answers"])
        )


def _grounded(rows: Iterable[Row]) -> Iterable[Asked]:
    """One question a caption, with all its phrases."""
    captions: dict[tuple[int, str], list[Row]] = {}
    for row in rows:
        captions.setdefault((row["image_id"], row["caption"]), []).append(row)
    for (image_id, caption), phrases in captions.items():
        boxes = [corners(row["bbox"]) for row in phrases]
        yield Asked(
            image_id=image_id,
            task="CAPTION_TO_PHRASE_GROUNDING",
            text=caption,
            boxes=Boxes(boxes=boxes, labels=[row["phrase"] for row in phrases]),
        )


def corners(bbox: Sequence[float]) -> tuple[float, float, float, float]:
    """COCO's x, y, width, height as x1, y1, x2, y2."""
    x, y, width, height = map(float, bbox)
    return x, y, x + width, y + height


def _by_image(rows: Iterable[Row]) -> dict[int, list[Row]]:
    found: dict[int, list[Row]] = {}
    for row in rows:
        found.setdefault(row["image_id"], []).append(row)
    return found
