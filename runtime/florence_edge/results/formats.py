"""Regions in the formats that other tools read: COCO annotations, YOLO lines, table rows.

    ClassIds       labels to numbers that stay the same from picture to picture
    coco_annotations, yolo_lines, table_rows      the regions of one answer, each in one format

Regions that a format cannot hold (a polygon of two points, a box without area) are left out of
COCO and YOLO, whose readers refuse them; a table has them all.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import MissingPackageError, RequestError
from ..regions import Region, Ring, has_area

if TYPE_CHECKING:
    import pandas

NAMELESS = "object"
"""The class of regions to which the model gives no label, such as proposals."""

_NUMBERS_OF_A_TRIANGLE = 6
_COLUMNS = ("label", "score", "label_score", "x1", "y1", "x2", "y2", "shape", "rings", "track_id")


class ClassIds:
    """Numbers of labels, from 0, the same for as long as the object lives.

    With `names` the numbers are their places, and a region of any other label has none, so that it
    is left out. Without, each new label gets the next number. Labels are compared without the
    white space around them and whatever the case; a region without one is an `object`.

    Raises:
        RequestError: the names are not a list of texts, or one is empty, or stands twice.
    """

    def __init__(self, names: Iterable[str] | None = None) -> None:
        self._names: list[str] = []
        self._numbers: dict[str, int] = {}
        for name in _listed(names):
            if not isinstance(name, str) or not name.strip() or _key(name) in self._numbers:
                raise RequestError(
                    f"{name!r} cannot be a class: it is empty, or stands twice. "
                    "Give each label once."
                )
            self._add(name)
        self._fixed = names is not None

    @property
    def names(self) -> tuple[str, ...]:
        """The labels by their numbers, as YOLO's `names` and COCO's `categories` list them."""
        return tuple(self._names)

    def number(self, label: str) -> int | None:
        """The number of a label; None where the classes were given and it is not one of them."""
        key = _key(label)
        if key not in self._numbers and not self._fixed:
            self._add(label)
        return self._numbers.get(key)

    def _add(self, label: str) -> None:
        self._numbers[_key(label)] = len(self._names)
        self._names.append(label.strip() or NAMELESS)


def _listed(names: Iterable[str] | None) -> Iterable[str]:
    """The names; a text, which would be taken for a list of its letters, is none."""
    if isinstance(names, str) or not isinstance(names, Iterable | None):
        raise RequestError(
            f"Classes are a list of labels, such as ['car', 'bus'], got {names!r:.80}."
        )
    return names or ()


def _key(label: str) -> str:
    return (label.strip() or NAMELESS).casefold()


def numbers_of(class_ids: ClassIds | None) -> ClassIds:
    """The numbers that a caller gives, or new ones.

    Raises:
        RequestError: it is something else, such as a list of labels.
    """
    if class_ids is None:
        return ClassIds()
    if not isinstance(class_ids, ClassIds):
        raise RequestError(
            f"class_ids is {class_ids!r:.80}; expected ClassIds, such as ClassIds(['car', 'bus'])."
        )
    return class_ids


def normalized(ring: Ring, image_size: tuple[int, int]) -> Ring:
    """Pixel coordinates (flat x, y, ...) as fractions of the picture's width and height, 0 to 1."""
    return tuple(number / image_size[place % 2] for place, number in enumerate(ring))


def with_areas(region: Region) -> tuple[Ring, ...]:
    """The rings of a region without those of a polygon that have fewer than three points."""
    if region.shape != "polygon":
        return region.rings
    return tuple(ring for ring in region.rings if len(ring) >= _NUMBERS_OF_A_TRIANGLE)


def coco_annotations(
    regions: Sequence[Region], class_ids: ClassIds, *, image_id: int, first_id: int
) -> list[dict[str, Any]]:
    """COCO's annotations with a `score`: bbox is left, top, width, height in pixels.

    Category ids count from 1, as COCO's own do. Quads and polygons have a `segmentation`.
    """
    annotations: list[dict[str, Any]] = []
    for region, number in _numbered(regions, class_ids):
        left, top, right, bottom = region.box
        rings = () if region.shape == "box" else with_areas(region)
        annotations.append(
            {
                "id": first_id + len(annotations),
                "image_id": image_id,
                "category_id": number + 1,
                "bbox": [left, top, right - left, bottom - top],
                "area": region.area,
                "segmentation": [list(ring) for ring in rings],
                "iscrowd": 0,
                "score": region.score,
            }
        )
    return annotations


def yolo_lines(
    regions: Sequence[Region],
    class_ids: ClassIds,
    image_size: tuple[int, int],
    *,
    scores: bool = False,
) -> list[str]:
    """Lines of an Ultralytics label file; all coordinates are fractions of the picture, 0 to 1.

    A box is `class x_centre y_centre width height`, a quad `class` and four corners (an oriented
    box), a polygon `class` and its points, one line a ring. `scores` adds the score at the end.
    Beside polygons a box is its four corners, since readers take all lines for one kind.
    """
    lines = []
    numbered = list(_numbered(regions, class_ids))
    outlined = any(region.shape == "polygon" for region, _ in numbered)
    for region, number in numbered:
        for ring in _yolo_rings(region, image_size, outlined=outlined):
            values = [f"{value:.6f}" for value in (*ring, *((region.score,) if scores else ()))]
            lines.append(" ".join([str(number), *values]))
    return lines


def table_rows(regions: Sequence[Region]) -> list[dict[str, Any]]:
    """One row a region: label, scores, box in pixels, shape, rings and track."""
    return [
        dict(
            zip(
                _COLUMNS,
                (
                    region.label,
                    region.score,
                    region.label_score,
                    *region.box,
                    region.shape,
                    [list(ring) for ring in region.rings],
                    region.track_id,
                ),
                strict=True,
            )
        )
        for region in regions
    ]


def dataframe(rows: Sequence[dict[str, Any]]) -> "pandas.DataFrame":
    """Rows as a table of pandas, with all columns where there is no row.

    Raises:
        MissingPackageError: pandas is not installed.
    """
    try:
        import pandas as pd
    except ImportError as error:
        raise MissingPackageError(
            "Tables are made by the package pandas, which is not installed. "
            "Install it with: pip install pandas"
        ) from error
    return pd.DataFrame(list(rows), columns=list(_COLUMNS))


def _numbered(regions: Sequence[Region], class_ids: ClassIds) -> Iterator[tuple[Region, int]]:
    """The regions that have an area and a class."""
    for region in regions:
        covers = any(has_area(ring, region.shape) for ring in region.rings)
        if covers and (number := class_ids.number(region.label)) is not None:
            yield region, number


def _yolo_rings(region: Region, image_size: tuple[int, int], *, outlined: bool) -> list[Ring]:
    if region.shape != "box":
        return [normalized(ring, image_size) for ring in with_areas(region)]
    left, top, right, bottom = normalized(region.box, image_size)
    if outlined:
        return [(left, top, right, top, right, bottom, left, bottom)]
    return [((left + right) / 2, (top + bottom) / 2, right - left, bottom - top)]
