"""Exports: a labelled set in the format of another tool, with the thresholds of one's choice."""

from dataclasses import dataclass, replace
from pathlib import Path

from florence_edge import FlorenceEdgeError, RequestError
from florence_edge.tasks import task_key

from .formats import FORMATS
from .formats.view import ExportView, PictureMode, with_classes
from .labelled import LabelledSet
from .sources.coco import Category
from .thresholds import Thresholds


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOptions:
    """What to export of a labelled set, and how."""

    task: str | None = None
    """Whose regions; by default the first that was asked and gives any."""
    classes: tuple[str, ...] | None = None
    """The only classes, numbered in this order; by default all."""
    thresholds: Thresholds | None = None
    """Scores and doubles; by default those that the set was labelled with."""
    clean: bool | None = None
    """Whether what a model's slips leave goes; by default as the set was labelled."""
    pictures: PictureMode = "link"
    val: float = 0.1
    image_url: str = "/data/local-files/?d="
    partial: bool = False
    output: Path | None = None


@dataclass(frozen=True, slots=True)
class Exported:
    """Where an export is, and what is in it."""

    target: Path
    summary: str
    notes: tuple[str, ...] = ()


def export(folder: Path, name: str, options: ExportOptions) -> Exported:
    """Write a labelled set in the format called `name`.

    Raises:
        RequestError: the set is not finished, or an option does not fit it.
        FlorenceEdgeError: it cannot be written; what was there is left.
    """
    made, labelled = FORMATS[name], LabelledSet(folder, partial=options.partial)
    if not 0 <= options.val < 1:
        raise RequestError(f"--val is {options.val:g}; it must be a share from 0 to below 1.")
    task = _task(labelled, options.task)
    if made.needs_regions and task is None:
        raise RequestError(
            f"{name} holds regions, and {', '.join(labelled.tasks)} give none. Formats for texts "
            "are coco, jsonl, imagefolder and labelstudio."
        )
    view = _view(labelled, task, options)
    target = options.output or folder / made.name
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        done = made.write(view, target)
    except OSError as error:
        if isinstance(error, FlorenceEdgeError):
            raise
        raise FlorenceEdgeError(f"Cannot write {target}: {error}.") from error
    others = [each for each in labelled.region_tasks if each != task]
    if others and name != "jsonl":
        done.notes.append(f"Regions are those of {task}; --task chooses {' or '.join(others)}.")
    summary = f"{done.pictures:,} pictures, {done.regions:,} regions"
    classes = f", {len(view.classes):,} classes" if view.classes else ""
    return Exported(target, summary + classes, tuple(done.notes))


def _task(labelled: LabelledSet, wanted: str | None) -> str | None:
    """The task whose regions are exported; None where none gives any."""
    if wanted is None:
        return next(iter(labelled.region_tasks), None)
    asked = task_key(wanted)
    name = next((each for each in labelled.region_tasks if task_key(each) == asked), None)
    if name is None:
        raise RequestError(
            f"{wanted} was not asked, or gives no regions. There are: "
            f"{', '.join(labelled.region_tasks) or 'none'}."
        )
    return name


def _view(labelled: LabelledSet, task: str | None, options: ExportOptions) -> ExportView:
    kept = labelled.plan.thresholds
    clean = kept.clean if options.clean is None else options.clean
    view = ExportView(
        labelled=labelled,
        task=task,
        thresholds=replace(options.thresholds or kept, clean=clean),
        pictures_as=options.pictures,
        val=options.val,
        image_url=options.image_url,
    )
    if options.classes is None:
        return with_classes(view)
    classes = tuple(Category(i, each.strip()) for i, each in enumerate(options.classes, 1))
    return replace(view, classes=classes)
