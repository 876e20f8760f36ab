"""COCO: `coco.json` with boxes and outlines, and their scores; captions in a file beside it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from florence_edge.files import whole_file
from florence_edge.results.formats import coco_annotations

from .files import Written, write_array
from .view import ExportedPicture, ExportView


def write(view: ExportView, target: Path) -> Written:
    """Write images, categories and annotations; of a COCO source with its own ids.

    Where captions were asked for, too, they go to `captions.json` beside it, in COCO's form.

    Raises:
        OSError: it cannot be written; what was there is left.
    """
    done = Written()
    with whole_file(target) as unfinished, unfinished.open("w", encoding="utf-8") as file:
        file.write('{"images": ')
        write_array(file, map(_image, view.pictures()))
        categories = [{"id": each.id, "name": each.name} for each in view.classes]
        file.write(f',\n"categories": {json.dumps(categories)},\n"annotations": ')
        write_array(file, _annotations(view, done))
        file.write("}\n")
    captions = [name for name in view.labelled.tasks if name.endswith("CAPTION")]
    captions = [name for name in captions if "REGION" not in name]
    if captions:
        beside = target.with_name("captions.json")
        _write_captions(view, captions[0], beside)
        done.notes.append(f"{beside} has the answers to {captions[0]}.")
    return done


def _image(picture: ExportedPicture) -> dict[str, Any]:
    width, height = picture.size
    name = picture.entry.name
    return {"id": picture.image_id, "file_name": name, "width": width, "height": height}


def _annotations(view: ExportView, done: Written) -> Iterator[dict[str, Any]]:
    numbers, next_id = view.class_ids(), 1
    for picture in view.pictures():
        found = coco_annotations(
            picture.regions, numbers, image_id=picture.image_id, first_id=next_id
        )
        for each in found:
            yield {**each, "category_id": view.classes[each["category_id"] - 1].id}
        next_id += len(found)
        done.add(len(found))


def _write_captions(view: ExportView, task: str, target: Path) -> None:
    with whole_file(target) as unfinished, unfinished.open("w", encoding="utf-8") as file:
        file.write('{"images": ')
        write_array(file, map(_image, view.pictures()))
        file.write(',\n"annotations": ')
        rows = (
            {"id": number, "image_id": picture.image_id, "caption": picture.texts[task]}
            for number, picture in enumerate(view.pictures(), 1)
            if task in picture.texts
        )
        write_array(file, rows)
        file.write("}\n")
