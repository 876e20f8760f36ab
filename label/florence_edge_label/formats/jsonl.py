"""JSON lines: a picture a line, with every answer and every kept region."""

import json
from pathlib import Path
from typing import Any

from florence_edge import Region
from florence_edge.files import whole_file

from ..labelled import LabelledPicture
from ..parts import Row
from .files import Written
from .view import ExportView


def write(view: ExportView, target: Path) -> Written:
    """Write all tasks, whichever was chosen, and pictures that failed with their errors.

    Raises:
        OSError: it cannot be written; what was there is left.
    """
    done = Written()
    with whole_file(target) as unfinished, unfinished.open("w", encoding="utf-8") as file:
        for picture in view.labelled.pictures():
            answers = [_answer(row, view) for row in picture.rows if row.task is not None]
            file.write(json.dumps(_picture(picture, answers)) + "\n")
            done.add(sum(len(answer.get("regions", ())) for answer in answers))
    return done


def _picture(picture: LabelledPicture, answers: list[dict[str, Any]]) -> dict[str, Any]:
    first = picture.rows[0]
    known: dict[str, Any] = {"image_id": first.image_id, "image": first.image}
    if first.task is None:
        return {**known, "error": first.error}
    return {**known, "width": first.width, "height": first.height, "answers": answers}


def _answer(row: Row, view: ExportView) -> dict[str, Any]:
    asked = {"task": row.task, "text_input": row.text_input, "status": row.status}
    if row.error is not None:
        return {**asked, "error": row.error}
    kept = view.thresholds.apply(row.regions)
    regions = [_region(each) for each in kept]
    return {**asked, "text": row.text, "score": row.score, "regions": regions}


def _region(region: Region) -> dict[str, Any]:
    return {
        "label": region.label,
        "box": list(region.box),
        "score": region.score,
        "label_score": region.label_score,
        **({} if region.shape == "box" else {region.shape: [list(r) for r in region.rings]}),
    }
