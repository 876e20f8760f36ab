"""What the tables of a data folder ask, and what they know of the answers."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from florence_edge.tasks import find_task
from florence_edge_calibration.fidelity import Boxes

from .truth_rows import Row, is_captioning

VQA = "VQA"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A question about a picture, and what is known of its answer."""

    image_id: int
    task: str
    """A task's name, or `VQA`, whose text is the question."""
    text: str | None = None
    answer: str | None = None
    """In Florence-2's own notation."""
    references: tuple[str, ...] = ()
    """Captions by people."""
    boxes: Boxes | None = None
    """Of phrases, x1, y1, x2, y2 in pixels."""
    outline: tuple[tuple[float, ...], ...] = ()
    """Polygons x, y, x, y, ... in pixels."""
    words: str | None = None
    """What is written in the picture."""
    answers: tuple[str, ...] = ()
    """Of people to a VQA question."""


def questions_of(tables: Mapping[str, Sequence[Row]], pictures: Collection[int]) -> Iterable[Asked]:
    """What all tables ask; `questions` about a task take the place of the others."""
    told = {find_task(row["task"]).name for row in tables["questions"]}
    for row in tables["questions"]:
        task = find_task(row["task"]).name
        yield Asked(
            image_id=row["image_id"],
            task=task,
            text=row["text"] or None,
            answer=row["answer"],
            references=(row["answer"],) if is_captioning(task) else (),
        )
    wanted = any("bbox" in row and not row.get("iscrowd") for row in tables["annotations"])
    if wanted and "OD" not in told:
        yield from (Asked(image_id=image_id, task="OD") for image_id in pictures)
    if "CAPTION" not in told:
        for image_id, rows in _by_image(tables["captions"]).items():
            captions = tuple(row["caption"] for row in rows)
            yield Asked(image_id=image_id, task="CAPTION", references=captions)
    if "OCR" not in told:
        for image_id, rows in _by_image(tables["words"]).items():
            words = " ".join(row["text"] for row in rows)
            yield Asked(image_id=image_id, task="OCR", words=words)
    yield from _grounded(tables["phrases"])
    for row in tables["expressions"]:
        yield Asked(
            image_id=row["image_id"],
            task="REFERRING_EXPRESSION_SEGMENTATION",
            text=row["text"],
            outline=tuple(map(tuple, row["segmentation"])),
        )
    for row in tables["vqa"]:
        yield Asked(
            image_id=row["image_id"], task=VQA, text=row["question"], answers=tuple(row["answers"])
        )


def _grounded(rows: Iterable[Row]) -> Iterable[Asked]:
    """One question a caption, with all its phrases."""
    captions: dict[tuple[int, str], list[Row]] = {}
    for row in rows:
        captions.setdefault((row["image_id"], row["caption"]), []).append(row)
    for (image_id, caption), phrases in captions.items():
        boxes = [corners(row["bbox"]) for row in phrases]
        yield Asked(
            image_id=image_id,
            task="CAPTION_TO_PHRASE_GROUNDING",
            text=caption,
            boxes=Boxes(boxes=boxes, labels=[row["phrase"] for row in phrases]),
        )


def corners(bbox: Sequence[float]) -> tuple[float, float, float, float]:
    """COCO's x, y, width, height as x1, y1, x2, y2."""
    x, y, width, height = map(float, bbox)
    return x, y, x + width, y + height


def _by_image(rows: Iterable[Row]) -> dict[int, list[Row]]:
    found: dict[int, list[Row]] = {}
    for row in rows:
        found.setdefault(row["image_id"], []).append(row)
    return found
