"""What is exported of a labelled set: the regions of one task that are kept, classes, texts."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from florence_edge import AnswerKind, ClassIds, Region
from florence_edge.results.formats import NAMELESS, coco_annotations

from ..labelled import LabelledPicture, LabelledSet
from ..parts import ERROR
from ..picture_list import Entry
from ..sources.coco import Category
from ..thresholds import Thresholds

PictureMode = Literal["link", "copy", "none"]
"""What becomes of the pictures in formats that are folders."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportedPicture:
    """A picture that could be read, and what is exported of it."""

    entry: Entry
    size: tuple[int, int]
    """Width and height in pixels, turned upright."""
    regions: tuple[Region, ...]
    texts: Mapping[str, str]
    """The answers in words by task."""

    @property
    def image_id(self) -> int:
        """Its id in the source, or its place in the list, from 1."""
        return self.entry.image_id or 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportView:
    """A labelled set through the eyes of an export."""

    labelled: LabelledSet
    task: str | None
    """Whose regions; None where no task gives any."""
    thresholds: Thresholds
    classes: tuple[Category, ...] = ()
    """Regions of other classes are left out."""
    pictures_as: PictureMode = "link"
    val: float = 0.1
    """Share of the pictures for validation, in formats that have it."""
    image_url: str = ""
    """What stands before a picture's path, in formats that name it by URL."""

    def pictures(self) -> Iterator[ExportedPicture]:
        """The pictures in the order of the list, without those that could not be read."""
        for picture in self.labelled.pictures(_COLUMNS):
            size = picture.size
            if size is not None:
                yield ExportedPicture(
                    entry=picture.entry,
                    size=size,
                    regions=tuple(self._regions(picture)),
                    texts=self._texts(picture),
                )

    def class_ids(self) -> ClassIds:
        """The numbers of the classes, from 0."""
        return ClassIds([each.name for each in self.classes])

    def _regions(self, picture: LabelledPicture) -> list[Region]:
        rows = [row for row in picture.rows if row.task == self.task]
        found = [_named(region) for row in rows for region in row.regions]
        return self.thresholds.apply(found)

    def _texts(self, picture: LabelledPicture) -> dict[str, str]:
        kind = self.labelled.plan.answer_kind
        return {
            row.task: row.text or ""
            for row in picture.rows
            if row.task is not None
            and row.status != ERROR
            and kind(row.task) is AnswerKind.PURE_TEXT
        }


_COLUMNS = ("width", "height", "task", "text", "regions")


def _named(region: Region) -> Region:
    return region if region.label.strip() else replace(region, label=NAMELESS)


def with_classes(view: ExportView) -> ExportView:
    """The view with all classes that its regions have.

    First come those of a COCO source with their ids, then those of the ontology, then the others
    as they appear, which is the same whoever labelled.
    """
    plan = view.labelled.plan
    known = list(plan.categories)
    ids = ClassIds()
    for each in known:
        ids.number(each.name)
    for label in (plan.options.get("ontology") or {}).values():
        ids.number(label)
    if view.task is not None:
        for picture in view.pictures():
            coco_annotations(picture.regions, ids, image_id=0, first_id=1)
    first = max((each.id for each in known), default=0) + 1
    added = enumerate(ids.names[len(known) :], first)
    return replace(view, classes=(*known, *(Category(number, name) for number, name in added)))
