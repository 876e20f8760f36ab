"""Pascal VOC: Annotations/*.xml, JPEGImages/, ImageSets/Main/default.txt."""

from pathlib import Path, PurePosixPath
from xml.etree import ElementTree

from florence_edge import ClassIds
from florence_edge.results.formats import coco_annotations

from .files import PictureWriter, Written, export_folder, free_name, relative_name
from .view import ExportedPicture, ExportView


def write(view: ExportView, target: Path) -> Written:
    """Write the folder; outlines become the boxes around them.

    Pixels count from 1, and `xmax` is the last one that is in the box, as VOC has it.

    Pictures of folders lie flat, as VOC's do: `a/b.jpg` is `a__b.jpg`.

    Raises:
        RequestError: there is something else at `target`.
        ImageError: a picture cannot be read any more.
        OSError: it cannot be written; what was there is left.
    """
    done, numbers = Written(), view.class_ids()
    column = view.labelled.plan.column
    with export_folder(target) as folder, PictureWriter(view.pictures_as, column) as pictures:
        (folder / "Annotations").mkdir()
        (folder / "JPEGImages").mkdir()
        sets = folder / "ImageSets" / "Main"
        sets.mkdir(parents=True)
        with (sets / "default.txt").open("w", encoding="utf-8") as listed:
            for picture in view.pictures():
                name = _name(folder / "Annotations", picture)
                tree, found = _annotation(picture, name, numbers)
                stem = PurePosixPath(name).stem
                tree.write(folder / "Annotations" / f"{stem}.xml", encoding="utf-8")
                listed.write(f"{stem}\n")
                pictures.put(picture.entry, folder / "JPEGImages" / name)
                done.add(found)
        lines = ["# label:color_rgb:parts:actions", "background:::"]
        lines += [f"{each.name}:::" for each in view.classes]
        (folder / "labelmap.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return done


def _name(annotations: Path, picture: ExportedPicture) -> str:
    """A flat name whose annotation no other picture has."""
    flat = relative_name(picture.entry).replace("/", "__")
    return free_name(flat, lambda name: (annotations / f"{name.stem}.xml").exists())


def _annotation(
    picture: ExportedPicture, name: str, numbers: ClassIds
) -> "tuple[ElementTree.ElementTree[ElementTree.Element], int]":
    root = ElementTree.Element("annotation")
    _add(root, "folder", "JPEGImages")
    _add(root, "filename", name)
    size = ElementTree.SubElement(root, "size")
    for tag, pixels in zip(("width", "height", "depth"), (*picture.size, 3), strict=True):
        _add(size, tag, str(pixels))
    _add(root, "segmented", "0")
    found = coco_annotations(picture.regions, numbers, image_id=0, first_id=1)
    for each in found:
        thing = ElementTree.SubElement(root, "object")
        _add(thing, "name", numbers.names[each["category_id"] - 1])
        for tag, value in (("pose", "Unspecified"), ("truncated", "0"), ("difficult", "0")):
            _add(thing, tag, value)
        left, top, width, height = each["bbox"]
        box = ElementTree.SubElement(thing, "bndbox")
        edges = (left + 1, top + 1, left + width, top + height)  # the last pixel is in the box
        for tag, edge in zip(("xmin", "ymin", "xmax", "ymax"), edges, strict=True):
            _add(box, tag, f"{edge:g}")
    ElementTree.indent(root)
    return ElementTree.ElementTree(root), len(found)


def _add(parent: ElementTree.Element, tag: str, text: str) -> None:
    ElementTree.SubElement(parent, tag).text = text
