"""The formats that a labelled set is exported to: a module each, and this table of them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from . import coco, imagefolder, jsonl, labelstudio, voc, yolo
from .files import Written
from .view import ExportView


@dataclass(frozen=True, slots=True)
class Format:
    """How a format is written, and what it is called in the folder of the run."""

    write: Callable[[ExportView, Path], Written]
    name: str
    needs_regions: bool = True
    """Whether it says nothing without regions."""


FORMATS = {
    "coco": Format(coco.write, "coco.json", needs_regions=False),
    "yolo": Format(yolo.write, "yolo"),
    "labelstudio": Format(labelstudio.write, "labelstudio.json", needs_regions=False),
    "imagefolder": Format(imagefolder.write, "imagefolder", needs_regions=False),
    "jsonl": Format(jsonl.write, "labels.jsonl", needs_regions=False),
    "voc": Format(voc.write, "voc"),
}
