"""The held-out scenes, committed as pictures and truth; training never uses their seeds.

They are not drawn where they are used, because fonts change between Pillow versions.
`python -m florence_edge_calibration.scenes.held_out` writes them anew.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from florence_edge.files import from_json, read_json, whole_file, write_whole

from . import (
    GRID,
    Scene,
    SceneQuestion,
    ask_everything,
    draw_scene,
    generate_scene,
    generate_scenes,
)
from .shapes import SHAPES

FOLDER = Path(__file__).parents[2] / "held_out"
_COUNT, _FIRST_SEED = 200, 0
_PICTURE_SIZE = 256
_JPEG_QUALITY = 90
_SHOWN_SEED, _SHOWN_SIZE = 9, 512


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOutScene:
    """A committed picture and one question of each task about it."""

    picture: Path
    questions: tuple[SceneQuestion, ...]


@dataclass(frozen=True, slots=True)
class _ImageRow:
    id: int
    file_name: str


@dataclass(frozen=True, slots=True)
class _QuestionRow:
    image_id: int
    task: str
    text: str
    answer: str


@dataclass(frozen=True, slots=True)
class _Truth:
    """What the evaluation reads of truth.json; `coco_truth` says what else is in it."""

    images: list[_ImageRow]
    questions: list[_QuestionRow]


def load_held_out(folder: Path = FOLDER) -> list[HeldOutScene]:
    """Read the committed scenes.

    Raises:
        OSError: the folder has no truth.json.
        ValueError: truth.json is damaged; the field is named.
    """
    content = read_json(folder / "truth.json")
    truth = from_json(_Truth, content)
    questions: dict[int, list[SceneQuestion]] = {image.id: [] for image in truth.images}
    for row in truth.questions:
        question = SceneQuestion(task=row.task, text=row.text, answer=row.answer)
        questions[row.image_id].append(question)
    return [
        HeldOutScene(picture=folder / image.file_name, questions=tuple(questions[image.id]))
        for image in truth.images
    ]


def write_held_out(folder: Path, scenes: Sequence[Scene]) -> None:
    """Write pictures and truth."""
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    for image_id, scene in enumerate(scenes):
        picture = draw_scene(scene, _PICTURE_SIZE)
        with whole_file(folder / _file_name(image_id)) as file:
            picture.save(file, quality=_JPEG_QUALITY, subsampling=0)
    truth = _one_row_a_line(coco_truth(scenes, _PICTURE_SIZE))
    write_whole(folder / "truth.json", truth)


def coco_truth(scenes: Sequence[Scene], image_size: int) -> dict[str, list[dict[str, Any]]]:
    """The truth in COCO's form, with captions, words and the questions of the evaluation."""
    truth: dict[str, list[dict[str, Any]]] = {
        "images": [],
        "categories": [{"id": index, "name": name} for index, name in enumerate(SHAPES, start=1)],
        "annotations": [],
        "captions": [],
        "words": [],
        "questions": [],
    }
    for image_id, scene in enumerate(scenes):
        side = {"width": image_size, "height": image_size}
        truth["images"].append({"id": image_id, "file_name": _file_name(image_id), **side})
        for annotation in _annotations(scene, image_size / GRID):
            annotation_id = len(truth["annotations"]) + 1  # pycocotools takes 0 for: no match
            truth["annotations"].append({"id": annotation_id, "image_id": image_id, **annotation})
        for word in scene.words:
            quad = _flat(word.quad, image_size / GRID)
            truth["words"].append({"image_id": image_id, "text": word.text, "quad": quad})
        for question in ask_everything(scene):
            row = {"task": question.task, "text": question.text, "answer": question.answer}
            truth["questions"].append({"image_id": image_id, **row})
            if question.task.endswith("CAPTION") and not question.task.startswith("DENSE"):
                truth["captions"].append({"image_id": image_id, "caption": question.answer})
    return truth


def draw_truth(scene: Scene, image_size: int) -> Image.Image:
    """A scene with its boxes, polygons, quads and names drawn on it."""
    picture = draw_scene(scene, image_size)
    canvas = ImageDraw.Draw(picture)
    font = ImageFont.load_default(image_size / 40)
    scale = image_size / GRID
    for thing in scene.objects:
        box = [side * scale for side in thing.box]
        canvas.rectangle(box, outline=(255, 0, 255), width=2)
        _draw_outline(canvas, _flat(thing.polygon, scale), (0, 255, 0))
        _draw_label(canvas, thing.description, (box[0], box[1]), font)
    for word in scene.words:
        quad = _flat(word.quad, scale)
        _draw_outline(canvas, quad, (255, 120, 0))
        _draw_label(canvas, word.text, (quad[0], quad[1]), font)
    return picture


def _one_row_a_line(tables: dict[str, list[dict[str, Any]]]) -> str:
    """JSON in which a changed row is a changed line."""
    texts = (
        f"{json.dumps(name)}: [\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]"
        for name, rows in tables.items()
    )
    return "{" + ",\n".join(texts) + "}\n"


def _file_name(image_id: int) -> str:
    return f"pictures/{image_id:03d}.jpg"


def _annotations(scene: Scene, scale: float) -> list[dict[str, Any]]:
    category_ids = {name: index for index, name in enumerate(SHAPES, start=1)}
    annotations = []
    for thing in scene.objects:
        x1, y1, x2, y2 = (side * scale for side in thing.box)
        polygon = _flat(thing.polygon, scale)
        annotations.append(
            {
                "category_id": category_ids[thing.shape],
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "segmentation": [polygon],
                "area": _polygon_area(polygon),
                "iscrowd": 0,
                "description": thing.description,
            }
        )
    return annotations


def _flat(points: Sequence[tuple[int, int]], scale: float) -> list[float]:
    return [value * scale for point in points for value in point]


def _polygon_area(polygon: Sequence[float]) -> float:
    xs, ys = polygon[0::2], polygon[1::2]
    doubled = sum(xs[i - 1] * ys[i] - xs[i] * ys[i - 1] for i in range(len(xs)))
    return abs(doubled) / 2


def _draw_outline(
    canvas: ImageDraw.ImageDraw, flat: Sequence[float], colour: tuple[int, int, int]
) -> None:
    points = list(zip(flat[0::2], flat[1::2], strict=True))
    canvas.line([*points, points[0]], fill=colour, width=2)


def _draw_label(
    canvas: ImageDraw.ImageDraw,
    label: str,
    corner: tuple[float, float],
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
) -> None:
    place = (corner[0] + 2, corner[1] - 2)
    canvas.text(
        place,
        label,
        fill=(255, 255, 255),
        font=font,
        anchor="lb",
        stroke_width=2,
        stroke_fill=(0, 0, 0),
    )


def main() -> None:
    """Write the held-out scenes, and one scene with its truth drawn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=FOLDER)
    output: Path = parser.parse_args().output
    write_held_out(output, list(generate_scenes(_FIRST_SEED, _COUNT)))
    shown = draw_truth(generate_scene(_SHOWN_SEED), _SHOWN_SIZE)
    with whole_file(output.parent / "scene_with_truth.png") as file:
        shown.save(file)


if __name__ == "__main__":
    main()
