"""Hugging Face's imagefolder: pictures, and metadata.jsonl with objects and texts.

datasets.load_dataset("imagefolder", data_dir=...)
"""

import json
import os
from pathlib import Path, PurePosixPath
from typing import Any

from florence_edge import ClassIds
from florence_edge.results.formats import coco_annotations

from .files import PictureWriter, Written, export_folder, free_name, relative_name
from .view import ExportedPicture, ExportView


def write(view: ExportView, target: Path) -> Written:
    """Write the folder; boxes are left, top, width, height in pixels, as `datasets` shows them.

    Raises:
        RequestError: there is something else at `target`.
        ImageError: a picture cannot be read any more.
        OSError: it cannot be written; what was there is left.
    """
    done, numbers = Written(), view.class_ids()
    column = view.labelled.plan.column
    with (
        export_folder(target) as folder,
        PictureWriter(view.pictures_as, column) as pictures,
        (folder / "metadata.jsonl").open("w", encoding="utf-8") as file,
    ):
        named: set[PurePosixPath] = set()  # where no file says which names are taken
        alone = view.pictures_as == "none"
        for picture in view.pictures():
            name = free_name(
                relative_name(picture.entry),
                named.__contains__ if alone else lambda path: os.path.lexists(folder / path),
            )
            if alone:
                named.add(PurePosixPath(name))
            row, found = _row(picture, view, numbers)
            file.write(json.dumps({"file_name": name, **row}) + "\n")
            pictures.put(picture.entry, folder / name)
            done.add(found)
        names = [each.name for each in view.classes]
        (folder / "classes.json").write_text(json.dumps(names) + "\n", encoding="utf-8")
    return done


def _row(
    picture: ExportedPicture, view: ExportView, numbers: ClassIds
) -> tuple[dict[str, Any], int]:
    found = coco_annotations(picture.regions, numbers, image_id=0, first_id=1)
    objects = {
        "bbox": [each["bbox"] for each in found],
        "categories": [each["category_id"] - 1 for each in found],
        "scores": [each["score"] for each in found],
    }
    texts = {name.lower(): text for name, text in picture.texts.items()}
    kept = {} if view.task is None else {"objects": objects}
    return {**texts, **kept}, len(found)
