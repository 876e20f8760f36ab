"""A data folder with truth, in COCO's form and a little more, as questions that can be graded.

benchmarks/DATA.md describes the tables; all but `images` are optional. Every row is checked when it
is read, so that hours of answers do not end in a grader that cannot use them.
"""

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from florence_edge.errors import RequestError
from florence_edge.files import open_plain
from florence_edge.results.parse import parse
from florence_edge.tasks import Task, find_task
from florence_edge_calibration.metrics import Boxes

from ..results_io import data_fingerprint
from .captions import tokenized

Row = Mapping[str, Any]

VQA = "VQA"
HELP = "benchmarks/DATA.md describes the tables."

_MAX_SIDE, _MAX_AREA = 1e5, 1e10  # pixels; larger boxes pycocotools leaves out without a word

_FieldKind = tuple[str, Callable[[Any], bool]]  # what is expected, and whether a value is that


def _is_number(value: object) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return abs(value) <= _MAX_AREA  # which NaN is not


def _is_box(value: Any) -> bool:
    if not _are(value, _is_number) or len(value) != 4:
        return False
    x, y, width, height = map(float, value)
    return max(abs(x), abs(y), width, height) <= _MAX_SIDE and min(width, height) >= 0


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_caption(value: Any) -> bool:
    return isinstance(value, str) and bool(tokenized(value))


def _are(values: Any, kind: Callable[[Any], bool]) -> bool:
    return isinstance(values, list) and bool(values) and all(map(kind, values))


def _is_polygon(value: Any) -> bool:
    return _are(value, _is_number) and len(value) >= 6 and len(value) % 2 == 0


_TEXT: _FieldKind = ("a text", _is_text)
_WORDS: _FieldKind = ("a text with a word in it", _is_caption)
_ID: _FieldKind = ("a whole number", _is_id)
_AREA: _FieldKind = ("a number of pixels", lambda value: _is_number(value) and value >= 0)
_CROWD: _FieldKind = ("0 or 1", lambda value: isinstance(value, int) and value in (0, 1))
_BOX: _FieldKind = ("x, y, width, height", _is_box)
_OUTLINE: _FieldKind = ("polygons x, y, x, y, ...", lambda value: _are(value, _is_polygon))
_TEXTS: _FieldKind = ("texts", lambda value: _are(value, _is_text))
_TEXT_OR_NONE: _FieldKind = (
    "a text or null",
    lambda value: value is None or isinstance(value, str),
)

_FIELDS: Mapping[str, Mapping[str, _FieldKind]] = {
    "images": {"id": _ID, "file_name": _TEXT},
    "categories": {"id": _ID, "name": _TEXT},
    "captions": {"image_id": _ID, "caption": _WORDS},
    "phrases": {"image_id": _ID, "caption": _TEXT, "phrase": _TEXT, "bbox": _BOX},
    "expressions": {"image_id": _ID, "text": _TEXT, "segmentation": _OUTLINE},
    "words": {"image_id": _ID, "text": _TEXT},
    "vqa": {"image_id": _ID, "question": _TEXT, "answers": _TEXTS},
    "questions": {"image_id": _ID, "task": _TEXT, "text": _TEXT_OR_NONE, "answer": _TEXT},
}
_INSTANCE: Mapping[str, _FieldKind] = {"image_id": _ID, "category_id": _ID, "bbox": _BOX}
_MAY_HAVE: Mapping[str, _FieldKind] = {"image_id": _ID, "area": _AREA, "iscrowd": _CROWD}
_CAPTION = _FIELDS["captions"]
_BINS = (1000, 1000)
_REGIONS = ("bboxes", "quad_boxes", "polygons")


def check_table(name: str, rows: Any) -> None:
    """Check the rows of one table of one file.

    Raises:
        RequestError: naming the row and the field.
    """
    if not isinstance(rows, list):
        raise RequestError(f"table `{name}` is not a list. {HELP}")
    for number, row in enumerate(rows, 1):
        where = f"row {number} of `{name}`"
        if not isinstance(row, dict):
            raise RequestError(f"{where} is not an object. {HELP}")
        _check_row(row, _fields(name, row), where)
        if name == "questions":
            _check_row(row, {"answer": _answer_to(_task(row, where))}, where)


def check_categories(instances: Sequence[Row], categories: Sequence[Row]) -> None:
    """Check that every box is of a category.

    Raises:
        RequestError: naming one that is not.
    """
    known = {row["id"] for row in categories}
    for row in instances:
        if row["category_id"] not in known:
            raise RequestError(
                f"`annotations` name the category {row['category_id']}, which the table "
                f"`categories` does not have. {HELP}"
            )


def _fields(name: str, row: Row) -> Mapping[str, _FieldKind]:
    """Annotations are boxes, captions, or of a kind that is not asked for."""
    if name != "annotations":
        return _FIELDS[name]
    return {
        **{field: kind for field, kind in _MAY_HAVE.items() if field in row},
        **(_INSTANCE if "bbox" in row else {}),
        **(_CAPTION if "caption" in row else {}),
    }


def _task(row: Row, where: str) -> Task:
    try:
        return find_task(row["task"])
    except RequestError as error:
        raise RequestError(f"{where}: {error}") from error


def _answer_to(task: Task) -> _FieldKind:
    """What there must be in a true answer, so that others can be compared with it."""
    if is_captioning(task.name):
        return _WORDS
    return f"regions as {task.token} writes them", lambda answer: _is_answer(task, answer)


def _is_answer(task: Task, answer: str) -> bool:
    """Whether an answer to a task about regions has one; the others are texts."""
    found = parse(task.name, answer, image_size=_BINS)[task.token]
    return isinstance(found, str) or any(found[kind] for kind in _REGIONS if kind in found)


def is_captioning(task: str) -> bool:
    """Whether a task's answers are captions of the whole picture."""
    return task.endswith("CAPTION") and "REGION" not in task


def _check_row(row: Row, fields: Mapping[str, _FieldKind], where: str) -> None:
    for field, (expected, fits) in fields.items():
        if field not in row:
            raise RequestError(f"{where} lacks '{field}', expected {expected}. {HELP}")
        if not fits(row[field]):
            shown = repr(row[field])
            shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
            raise RequestError(f"{where}: '{field}' is {shown}, expected {expected}. {HELP}")


@dataclass(frozen=True, slots=True, kw_only=True)
class DataQuestion:
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


def _questions(
    tables: Mapping[str, Sequence[Row]], pictures: Collection[int]
) -> Iterable[DataQuestion]:
    """What all tables ask; `questions` about a task take the place of the others."""
    known = {find_task(row["task"]).name for row in tables["questions"]}
    for row in tables["questions"]:
        task = find_task(row["task"]).name
        yield DataQuestion(
            image_id=row["image_id"],
            task=task,
            text=row["text"] or None,
            answer=row["answer"],
            references=(row["answer"],) if is_captioning(task) else (),
        )
    has_boxes = any("bbox" in row and not row.get("iscrowd") for row in tables["annotations"])
    if has_boxes and "OD" not in known:
        yield from (DataQuestion(image_id=image_id, task="OD") for image_id in pictures)
    if "CAPTION" not in known:
        for image_id, rows in _by_image(tables["captions"]).items():
            captions = tuple(row["caption"] for row in rows)
            yield DataQuestion(image_id=image_id, task="CAPTION", references=captions)
    if "OCR" not in known:
        for image_id, rows in _by_image(tables["words"]).items():
            words = " ".join(row["text"] for row in rows)
            yield DataQuestion(image_id=image_id, task="OCR", words=words)
    yield from _grounded(tables["phrases"])
    for row in tables["expressions"]:
        yield DataQuestion(
            image_id=row["image_id"],
            task="REFERRING_EXPRESSION_SEGMENTATION",
            text=row["text"],
            outline=tuple(map(tuple, row["segmentation"])),
        )
    for row in tables["vqa"]:
        yield DataQuestion(
            image_id=row["image_id"], task=VQA, text=row["question"], answers=tuple(row["answers"])
        )


def _grounded(rows: Iterable[Row]) -> Iterable[DataQuestion]:
    """One question a caption, with all its phrases."""
    captions: dict[tuple[int, str], list[Row]] = {}
    for row in rows:
        captions.setdefault((row["image_id"], row["caption"]), []).append(row)
    for (image_id, caption), phrases in captions.items():
        boxes = [corners(row["bbox"]) for row in phrases]
        yield DataQuestion(
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


_TABLES = (
    *("images", "categories", "annotations", "captions", "questions"),
    *("phrases", "expressions", "words", "vqa"),
)
_OF_ALL = ("images", "categories")  # the other tables are about pictures
_OFFICIAL = ("instances_val*.json", "captions_val*.json")  # what COCO's own folder is read for


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """The pictures that are there, the questions about each, and COCO's instances."""

    name: str
    fingerprint: str
    """Of the files it was read from, and of the pictures that were taken."""
    pictures: Mapping[int, Path]
    questions: tuple[DataQuestion, ...]
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
    questions = tuple(_questions(kept, pictures))
    if not questions:
        raise RequestError(_no_question(folder, tables, pictures))
    return Truth(
        name=folder.resolve().name,
        fingerprint=data_fingerprint(files, pictures),
        pictures=pictures,
        questions=questions,
        categories=tuple(tables["categories"]),
        instances=instances,
    )


def _no_question(
    folder: Path, tables: Mapping[str, Sequence[Row]], pictures: Collection[int]
) -> str:
    """Why there is no question: ids that do not match, or only truth that no question is about."""
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
            with open_plain(file) as opened:  # json takes NaN, which a row's own message names
                found = json.load(opened)
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
    folders = [folder, *sorted(path for path in folder.iterdir() if path.is_dir())]
    found: dict[int, Path] = {}
    for row in sorted(images, key=lambda row: int(row["id"])):
        path = next((p for one in folders if (p := one / row["file_name"]).is_file()), None)
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
