"""Whether the rows of a data folder's tables are what benchmarks/DATA.md says they are."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from florence_edge.answers.parse import parse
from florence_edge.errors import RequestError
from florence_edge.tasks import Task, find_task

from .captions import tokenized

Row = Mapping[str, Any]

_MOST_SIDE, _MOST_AREA = 1e5, 1e10  # pixels; larger boxes pycocotools leaves out without a word

_Kind = tuple[str, Callable[[Any], bool]]  # what is expected, and whether a value is that


def _is_number(value: object) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return abs(value) <= _MOST_AREA  # which NaN is not


def _is_box(value: Any) -> bool:
    if not _are(value, _is_number) or len(value) != 4:
        return False
    x, y, width, height = map(float, value)
    return max(abs(x), abs(y), width, height) <= _MOST_SIDE and min(width, height) >= 0


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


_TEXT: _Kind = ("a text", _is_text)
_WORDS: _Kind = ("a text with a word in it", _is_caption)
_ID: _Kind = ("a whole number", _is_id)
_AREA: _Kind = ("a number of pixels", lambda value: _is_number(value) and value >= 0)
_CROWD: _Kind = ("0 or 1", lambda value: isinstance(value, int) and value in (0, 1))
_BOX: _Kind = ("x, y, width, height", _is_box)
_OUTLINE: _Kind = ("polygons x, y, x, y, ...", lambda value: _are(value, _is_polygon))
_TEXTS: _Kind = ("texts", lambda value: _are(value, _is_text))
_TEXT_OR_NONE: _Kind = ("a text or null", lambda value: value is None or isinstance(value, str))

_FIELDS: Mapping[str, Mapping[str, _Kind]] = {
    "images": {"id": _ID, "file_name": _TEXT},
    "categories": {"id": _ID, "name": _TEXT},
    "captions": {"image_id": _ID, "caption": _WORDS},
    "phrases": {"image_id": _ID, "caption": _TEXT, "phrase": _TEXT, "bbox": _BOX},
    "expressions": {"image_id": _ID, "text": _TEXT, "segmentation": _OUTLINE},
    "words": {"image_id": _ID, "text": _TEXT},
    "vqa": {"image_id": _ID, "question": _TEXT, "answers": _TEXTS},
    "questions": {"image_id": _ID, "task": _TEXT, "text": _TEXT_OR_NONE, "answer": _TEXT},
}
_INSTANCE: Mapping[str, _Kind] = {"image_id": _ID, "category_id": _ID, "bbox": _BOX}
_MAY_HAVE: Mapping[str, _Kind] = {"image_id": _ID, "area": _AREA, "iscrowd": _CROWD}
_CAPTION = _FIELDS["captions"]
_BINS = (1000, 1000)
_REGIONS = ("bboxes", "quad_boxes", "polygons")


def check_table(name: str, rows: Any) -> None:
    """Check the rows of one table of one file.

    Raises:
        RequestError: naming the row and the field.
    """
    if not isinstance(rows, list):
        raise RequestError(f"table `{name}` is no list. {HELP}")
    for number, row in enumerate(rows, 1):
        where = f"row {number} of `{name}`"
        if not isinstance(row, dict):
            raise RequestError(f"{where} is no object. {HELP}")
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


def _fields(name: str, row: Row) -> Mapping[str, _Kind]:
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


def _answer_to(task: Task) -> _Kind:
    """What there must be in an answer, so that said ones can be compared with it."""
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


def _check_row(row: Row, fields: Mapping[str, _Kind], where: str) -> None:
    for field, (expected, fits) in fields.items():
        if field not in row:
            raise RequestError(f"{where} lacks '{field}', expected {expected}. {HELP}")
        if not fits(row[field]):
            said = repr(row[field])
            said = said if len(said) <= 60 else f"{said[:57]}..."
            raise RequestError(f"{where}: '{field}' is {said}, expected {expected}. {HELP}")


HELP = "benchmarks/DATA.md describes the tables."
