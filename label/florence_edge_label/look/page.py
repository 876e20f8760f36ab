"""Write the page: one file that needs no network, with small copies of the samples in it."""

import base64
import io
import json
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from PIL import Image

from florence_edge import FlorenceEdgeError, ImageError, ImageOptions, Region, RequestError
from florence_edge.files import write_whole
from florence_edge.image_file import decode

from ..labelled import LabelledPicture, LabelledSet
from ..sources.reading import PictureReader
from .gather import BINS, Gathered, TaskFigures, gather

_SIDE = 448  # pixels of the longer side of a sample
_QUALITY = 80
_MAX_REGIONS = 200  # drawn of one sample
_MAX_CLASSES = 60  # shown of one task


def write(folder: Path, output: Path, *, samples: int) -> None:
    """Write the page about a labelled set; an unfinished one, too.

    Raises:
        RequestError: there is no labelled set, or nothing in it yet.
        FlorenceEdgeError: it cannot be written; what was there is left.
    """
    labelled = LabelledSet(folder, partial=True)
    found = gather(labelled, samples)
    if not found.pictures:
        raise RequestError(f"Nothing of {folder} is labelled yet.")
    try:
        write_whole(output, render(labelled, found))
    except OSError as error:
        if isinstance(error, FlorenceEdgeError):
            raise
        raise FlorenceEdgeError(f"Cannot write {output}: {error}.") from error


def render(labelled: LabelledSet, found: Gathered) -> str:
    """The page as HTML."""
    folder = files(__package__)
    content = {
        "title": escape(f"{labelled.folder.path.resolve().name}, labelled"),
        "style": folder.joinpath("page.css").read_text("utf-8"),
        "script": folder.joinpath("page.js").read_text("utf-8"),
        # `</script>` and `<!--` may stand in any text that a picture holds.
        "data": json.dumps(data_of(labelled, found)).replace("<", "\\u003c"),
    }
    return Template(folder.joinpath("page.html").read_text("utf-8")).substitute(content)


def data_of(labelled: LabelledSet, found: Gathered) -> dict[str, Any]:
    """What the page draws, as JSON; docs/label.md shows it."""
    plan = labelled.plan
    kept = plan.thresholds
    return {
        "name": labelled.folder.path.resolve().name,
        "source": plan.source,
        "bundle": dict(plan.bundle),
        "tasks": [_task(found.tasks[name], labelled) for name in labelled.tasks],
        "pictures": found.pictures,
        "of": plan.pictures,
        "unread": found.unread,
        "failed": found.failed,
        "errors": [{"image": image, "error": error} for image, error in found.errors],
        "bins": BINS,
        "minScore": kept.min_score,
        "perPicture": sorted(found.regions_by_picture.items()),
        "samples": _samples(labelled, found),
    }


def _task(task: TaskFigures, labelled: LabelledSet) -> dict[str, Any]:
    ranked = sorted(task.classes.values(), key=lambda each: (-each.regions, each.label))
    classes = [
        {
            "label": each.label,
            "regions": each.regions,
            "pictures": each.pictures,
            "bins": each.bins,
        }
        for each in ranked[:_MAX_CLASSES]
    ]
    return {
        "name": task.name,
        "regional": task.name in labelled.region_tasks,
        "statuses": dict(task.statuses),
        "classes": classes,
        "moreClasses": max(0, len(ranked) - _MAX_CLASSES),
        "bins": task.bins,
    }


def _samples(labelled: LabelledSet, found: Gathered) -> list[dict[str, Any]]:
    shown = []
    with PictureReader(labelled.plan.column) as reader:
        for why, pictures in found.samples.items():
            for picture in pictures:
                try:
                    image = _small(picture, reader)
                except ImageError:  # the source has moved since
                    image = None
                shown.append({**_sample(picture), "why": why, "picture": image})
    return shown


def _sample(picture: LabelledPicture) -> dict[str, Any]:
    width, height = picture.size or (1, 1)
    regions = [
        {"task": row.task, "label": each.label, "score": each.score, **_shape(each)}
        for row in picture.rows
        for each in row.regions
    ]
    texts = [
        {"task": row.task, "text": row.text, "score": row.score}
        for row in picture.rows
        if row.text and not row.regions and not row.text_input
    ]
    return {
        "image": picture.entry.name,
        "width": width,
        "height": height,
        "regions": regions[:_MAX_REGIONS],
        "texts": texts,
    }


def _shape(region: Region) -> dict[str, Any]:
    if region.shape == "box":
        return {"box": list(region.box)}
    return {"box": list(region.box), "rings": [list(ring) for ring in region.rings]}


def _small(picture: LabelledPicture, reader: PictureReader) -> str:
    """A small copy as a data: URL, turned upright as the coordinates are.

    Raises:
        ImageError: it cannot be read any more.
    """
    options = ImageOptions(max_pixels=picture_limit(picture), deep_range="full")
    try:
        image = decode(reader.read(picture.entry), picture.entry.name, options).convert("RGB")
    except (OSError, ValueError, SyntaxError) as error:
        raise ImageError(f"{picture.entry.name} cannot be read any more: {error}") from error
    image.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def picture_limit(picture: LabelledPicture) -> int:
    """How many pixels a sample may have: those that it was labelled with."""
    width, height = picture.size or (1, 1)
    return max(1, width * height)
