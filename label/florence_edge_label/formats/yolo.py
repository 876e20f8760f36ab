"""YOLO as Ultralytics reads it: data.yaml, images/ and labels/, each with train and val."""

import hashlib
import json
from pathlib import Path

from florence_edge.results.formats import yolo_lines

from ..picture_list import Entry
from .files import PictureWriter, Written, export_folder, free_name, relative_name
from .view import ExportView


def write(view: ExportView, target: Path) -> Written:
    """Write the folder. A picture without regions has an empty label file: it is a background.

    Boxes are centre and size, polygons their points, quads four corners, in fractions of the
    picture. Which pictures are for validation depends on their names alone.

    Raises:
        RequestError: there is something else at `target`.
        ImageError: a picture cannot be read any more.
        OSError: it cannot be written; what was there is left.
    """
    done, numbers = Written(), view.class_ids()
    column = view.labelled.plan.column
    with export_folder(target) as folder, PictureWriter(view.pictures_as, column) as pictures:
        for name in ("train", "val"):
            (folder / "images" / name).mkdir(parents=True)
            (folder / "labels" / name).mkdir(parents=True)
        for picture in view.pictures():
            part = "val" if is_for_validation(picture.entry, view.val) else "train"
            name = _name(folder / "labels" / part, picture.entry)
            label = (folder / "labels" / part / name).with_suffix(".txt")
            label.parent.mkdir(parents=True, exist_ok=True)
            lines = yolo_lines(picture.regions, numbers, picture.size)
            label.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
            pictures.put(picture.entry, folder / "images" / part / name)
            done.add(len(lines))
        (folder / "data.yaml").write_text(_data_yaml(view), encoding="utf-8")
    return done


def is_for_validation(entry: Entry, share: float) -> bool:
    """Whether a picture is one of the share for validation: by a hash of its name."""
    digest = hashlib.sha256(entry.name.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:4], "big") < share * 2**32


def _name(labels: Path, entry: Entry) -> str:
    """A name whose label file no other picture has; no folder in it is called images.

    Ultralytics finds a label by the last /images/ in the path, and without the suffix.
    """
    parts = relative_name(entry).split("/")
    wanted = "/".join(f"{part}_" if part == "images" else part for part in parts)
    return free_name(wanted, lambda name: (labels / name).with_suffix(".txt").exists())


def _data_yaml(view: ExportView) -> str:
    """Without `path`: Ultralytics then takes the folder that the file lies in."""
    names = "".join(
        f"  {number}: {json.dumps(each.name)}\n" for number, each in enumerate(view.classes)
    )
    val = "images/val" if view.val else "images/train"
    return f"train: images/train\nval: {val}\nnames:\n{names or '  {}'}"
