"""Average precision of detections, as COCO's own code counts it (pycocotools)."""

import io
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from importlib import import_module
from typing import Any

from florence_edge import Result
from florence_edge.errors import MissingPackageError
from florence_edge.extras import pip_install
from florence_edge_calibration.metrics import Boxes

from .data import Row, Truth, corners

# pycocotools' twelve numbers, in its order; those without a case are -1 and left out here.
_STATISTICS = (
    *("AP50:95", "AP50", "AP75", "AP small", "AP medium", "AP large"),
    *("AR1", "AR10", "AR100", "AR small", "AR medium", "AR large"),
)


def detection_figures(truth: Truth, results: Mapping[int, Result]) -> dict[str, float]:
    """COCO's figures of answers to OD.

    A box counts with its own score (exp of the mean log-probability of its location tokens); a
    label that is not a category's name, letter case aside, is not counted, and its share is given.

    Args:
        truth: categories and instances.
        results: by the id of the picture; pictures without an answer count as empty.

    Raises:
        MissingPackageError: pycocotools is not installed.
    """
    names = {str(row["name"]).lower(): int(row["id"]) for row in truth.categories}
    found = [row for image_id, result in results.items() for row in _rows(image_id, result, names)]
    regions = sum(len(result.regions) for result in results.values())
    figures = coco_figures(truth, found)
    return {**figures, "labels that are not a category": 1 - len(found) / max(1, regions)}


def coco_figures(truth: Truth, found: Sequence[Row]) -> dict[str, float]:
    """pycocotools' figures of detections in COCO's result format."""
    coco, evaluation = _import("pycocotools.coco"), _import("pycocotools.cocoeval")
    with redirect_stdout(io.StringIO()):  # pycocotools prints what it does
        true = coco.COCO()
        true.dataset = _dataset(truth)
        true.createIndex()
        detections = true.loadRes(list(found)) if found else _nothing(coco, true)
        evaluated = evaluation.COCOeval(true, detections, "bbox")
        evaluated.params.imgIds = _pictures(truth)
        evaluated.evaluate()
        evaluated.accumulate()
        evaluated.summarize()
    pairs = zip(_STATISTICS, evaluated.stats.tolist(), strict=True)
    return {name: float(value) for name, value in pairs if value >= 0}


def check_installed() -> None:
    """Find out before the answers what is needed after them.

    Raises:
        MissingPackageError: pycocotools is not installed.
    """
    _import("pycocotools.cocoeval")


def boxes_of_truth(truth: Truth, image_id: int) -> Boxes:
    """The true boxes of one picture, crowds left out, as calibration's `metrics` takes them."""
    names = {int(row["id"]): str(row["name"]).lower() for row in truth.categories}
    rows = [row for row in truth.instances if row["image_id"] == image_id and not _crowd(row)]
    return Boxes(
        boxes=[corners(row["bbox"]) for row in rows],
        labels=[names[row["category_id"]] for row in rows],
    )


def _pictures(truth: Truth) -> list[int]:
    """Those that OD is asked about; all, where there are no questions."""
    about = {each.image_id for each in truth.questions if each.task == "OD"}
    return sorted(about or truth.pictures)


def _rows(image_id: int, result: Result, names: Mapping[str, int]) -> list[Row]:
    rows: list[Row] = []
    for region in result.regions:
        category = names.get(region.label.strip().lower())
        if category is not None:
            x1, y1, x2, y2 = region.box
            box = [x1, y1, x2 - x1, y2 - y1]
            row = {"image_id": image_id, "category_id": category, "bbox": box}
            rows.append({**row, "score": region.score})
    return rows


def _dataset(truth: Truth) -> dict[str, Any]:
    """What pycocotools needs; it takes an annotation of id 0 for none, so they are counted anew."""
    annotations = [
        {
            **row,
            "id": number,
            "iscrowd": _crowd(row),
            "area": row.get("area", row["bbox"][2] * row["bbox"][3]),
        }
        for number, row in enumerate(truth.instances, start=1)
    ]
    images = [{"id": image_id} for image_id in truth.pictures]
    return {"images": images, "categories": list(truth.categories), "annotations": annotations}


def _nothing(coco: Any, true: Any) -> Any:
    """No detections at all, which `loadRes` does not take."""
    empty = coco.COCO()
    empty.dataset = {**true.dataset, "annotations": []}
    empty.createIndex()
    return empty


def _crowd(row: Row) -> int:
    return int(row.get("iscrowd", 0))


def _import(module: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise MissingPackageError(
            f"Average precision needs {module.partition('.')[0]}, which is not installed. Install "
            f"it with: {pip_install('bench')}"
        ) from error
