"""Label Studio: tasks with predictions to correct by hand, and the labelling interface for them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree

from florence_edge import ClassIds, Region
from florence_edge.files import whole_file, write_whole
from florence_edge.results.formats import normalized, with_areas

from ..storage import is_url
from .files import Written, write_array
from .view import ExportedPicture, ExportView

_PERCENT = 100
_COLOURS = ("#e69f00", "#56b4e9", "#009e73", "#d55e00", "#0072b2", "#cc79a7", "#882255")


def write(view: ExportView, target: Path) -> Written:
    """Write the tasks, and beside them the interface (`.xml`): paste it into the project's setup.

    Raises:
        OSError: it cannot be written; what was there is left.
    """
    done = Written()
    with whole_file(target) as unfinished, unfinished.open("w", encoding="utf-8") as file:
        write_array(file, _tasks(view, done))
        file.write("\n")
    interface = target.with_suffix(".xml")
    write_whole(interface, _interface(view))
    done.notes.append(f"{interface} is the labelling interface of the project.")
    return done


def _tasks(view: ExportView, done: Written) -> Iterator[dict[str, Any]]:
    numbers = view.class_ids()
    bundle = view.labelled.plan.bundle
    for picture in view.pictures():
        regions = list(_regions(picture, numbers))
        texts = [_text(name, text) for name, text in picture.texts.items()]
        score = sum(each["score"] for each in regions) / len(regions) if regions else 0.0
        prediction = {
            "model_version": f"{bundle['model']} {bundle['precision']}",
            "score": score,
            "result": [*regions, *texts],
        }
        data = {"image": _url(picture, view), "image_id": picture.image_id}
        yield {"data": data, "predictions": [prediction]}
        done.add(len(regions))


def _url(picture: ExportedPicture, view: ExportView) -> str:
    place = picture.entry.place
    return place if is_url(place) else view.image_url + quote(picture.entry.name)


def _regions(picture: ExportedPicture, numbers: ClassIds) -> Iterator[dict[str, Any]]:
    width, height = picture.size
    for region in picture.regions:
        if numbers.number(region.label) is None:
            continue
        label = numbers.names[numbers.number(region.label) or 0]
        for value in _values(region, picture.size):
            kind = "polygonlabels" if "points" in value else "rectanglelabels"
            yield {
                "from_name": kind,
                "to_name": "image",
                "type": kind,
                "original_width": width,
                "original_height": height,
                "image_rotation": 0,
                "score": region.score,
                "value": {**value, kind: [label]},
            }


def _values(region: Region, size: tuple[int, int]) -> Iterator[dict[str, Any]]:
    """Shapes in percent of the picture's sides."""
    if region.shape == "box":
        left, top, right, bottom = (edge * _PERCENT for edge in normalized(region.box, size))
        if right > left and bottom > top:
            yield {
                "x": left,
                "y": top,
                "width": right - left,
                "height": bottom - top,
                "rotation": 0,
            }
        return
    for ring in with_areas(region):
        numbers = [edge * _PERCENT for edge in normalized(ring, size)]
        yield {"points": [list(pair) for pair in zip(numbers[0::2], numbers[1::2], strict=True)]}


def _text(task: str, text: str) -> dict[str, Any]:
    name = task.lower()
    value = {"text": [text]}
    return {"from_name": name, "to_name": "image", "type": "textarea", "value": value}


def _interface(view: ExportView) -> str:
    root = ElementTree.Element("View")
    ElementTree.SubElement(root, "Image", name="image", value="$image", zoom="true")
    if view.task is not None:
        for tag in ("RectangleLabels", "PolygonLabels"):
            labels = ElementTree.SubElement(root, tag, name=tag.lower(), toName="image")
            for number, each in enumerate(view.classes):
                colour = _COLOURS[number % len(_COLOURS)]
                ElementTree.SubElement(labels, "Label", value=each.name, background=colour)
    for task in (name for name in view.labelled.tasks if name not in view.labelled.region_tasks):
        area = {"name": task.lower(), "toName": "image", "editable": "true", "rows": "2"}
        ElementTree.SubElement(root, "TextArea", area)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode") + "\n"
