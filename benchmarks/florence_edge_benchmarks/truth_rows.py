"""Whether the rows of a data folder's tables are what benchmarks/DATA.md says they are."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from florence_edge.errors import RequestError

Row = Mapping[str, Any]

_Kind = tuple[str, Callable[[Any], bool]]  # what is expected, and whether a value is that


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _are(values: Any, kind: Callable[[Any], bool]) -> bool:
    return isinstance(values, list) and bool(values) and all(map(kind, values))


def _is_polygon(value: Any) -> bool:
    return _are(value, _is_number) and len(value) >= 6 and len(value) % 2 == 0


_TEXT: _Kind = ("a text", _is_text)
_ID: _Kind = (
    "a whole number",
    lambda value: isinstance(value, int) and not isinstance(value, bool),
)
_BOX: _Kind = ("x, y, width, height", lambda value: _are(value, _is_number) and len(value) == 4)
_OUTLINE: _Kind = ("polygons x, y, x, y, ...", lambda value: _are(value, _is_polygon))
_TEXTS: _Kind = ("texts", lambda value: _are(value, _is_text))
_TEXT_OR_NONE: _Kind = ("a text or null", lambda value: value is None or isinstance(value, str))

_FIELDS: Mapping[str, Mapping[str, _Kind]] = {
    "images": {"id": _ID, "file_name": _TEXT},
    "categories": {"id": _ID, "name": _TEXT},
    "captions": {"image_id": _ID, "caption": _TEXT},
    "phrases": {"image_id": _ID, "caption": _TEXT, "phrase": _TEXT, "bbox": _BOX},
    "expressions": {"image_id": _ID, "text": _TEXT, "segmentation": _OUTLINE},
    "words": {"image_id": _ID, "text": _TEXT},
    "vqa": {"image_id": _ID, "question": _TEXT, "answers": _TEXTS},
    "questions": {"image_id": _ID, "task": _TEXT, "text": _TEXT_OR_NONE, "answer": _TEXT},
}
_INSTANCE: Mapping[str, _Kind] = {"image_id": _ID, "category_id": _ID, "bbox": _BOX}
_CAPTION = _FIELDS["captions"]


def check_table(name: str, rows: Any) -> None:
    """Check the rows of one table of one file.

    Raises:
        RequestError: naming the row and the field.
    """
    if not isinstance(rows, list):
        raise RequestError(f"table `{name}` is no list. {_HELP}")
    for number, row in enumerate(rows, 1):
        where = f"row {number} of `{name}`"
        if not isinstance(row, dict):
            raise RequestError(f"{where} is no object. {_HELP}")
        _check_row(row, _fields(name, row), where)


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
                f"`categories` does not have. {_HELP}"
            )


def _fields(name: str, row: Row) -> Mapping[str, _Kind]:
    """Annotations are boxes, captions, or of a kind that is not asked for."""
    if name != "annotations":
        return _FIELDS[name]
    return {**(_INSTANCE if "bbox" in row else {}), **(_CAPTION if "caption" in row else {})}


def _check_row(row: Row, fields: Mapping[str, _Kind], where: str) -> None:
    for field, (expected, fits) in fields.items():
        if field not in row:
            raise RequestError(f"{where} lacks '{field}', expected {expected}. {_HELP}")
        if not fits(row[field]):
            said = repr(row[field])
            said = said if len(said) <= 60 else f"{said[:57]}..."
            raise RequestError(f"{where}: '{field}' is {said}, expected {expected}. {_HELP}")


_HELP = "benchmarks/DATA.md describes the tables."
