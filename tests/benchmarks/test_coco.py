"""pycocotools against calibration's own average precision, which needs no package."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pycocotools")

from florence_edge import Florence2, GenerationOptions, Result
from florence_edge_benchmarks.accuracy.coco import boxes_of_truth, coco_figures, detection_figures
from florence_edge_benchmarks.accuracy.data import DataQuestion, Row, Truth, read_truth
from florence_edge_calibration.metrics import Boxes, average_precision
from florence_edge_calibration.scenes.held_out import FOLDER

CATEGORIES = ({"id": 1, "name": "Cat"}, {"id": 7, "name": "sports ball"})


def truth_of(*instances: Row, pictures: int = 2) -> Truth:
    return Truth(
        name="test",
        fingerprint="f",
        pictures={number: Path(f"{number}.jpg") for number in range(pictures)},
        questions=(),
        categories=CATEGORIES,
        instances=instances,
    )


def box(image_id: int, category: int, *bbox: float, **more: float) -> Row:
    return {"image_id": image_id, "category_id": category, "bbox": list(bbox), **more}


TRUTH = truth_of(box(0, 1, 10, 10, 50, 40), box(1, 7, 0, 0, 20, 20))


def test_the_truth_itself_is_perfect() -> None:
    figures = coco_figures(TRUTH, [{**row, "score": 0.9} for row in TRUTH.instances])
    assert [figures[name] for name in ("AP50:95", "AP50", "AR100")] == pytest.approx([1, 1, 1])


def test_nothing_found_is_zero_and_no_error() -> None:
    assert coco_figures(TRUTH, [])["AP50:95"] == 0.0


def test_a_box_that_is_a_little_off_counts_at_low_iou_only() -> None:
    shifted = box(0, 1, 10, 10, 50, 30, score=0.9)  # IoU 0.75
    figures = coco_figures(truth_of(box(0, 1, 10, 10, 50, 40)), [shifted])
    assert figures["AP50"] == pytest.approx(1.0)
    assert figures["AP50:95"] == pytest.approx(0.6)  # 0.50, 0.55, ... 0.75 of ten


def test_a_crowd_is_neither_wanted_nor_wrong() -> None:
    crowd = box(0, 1, 100, 100, 90, 90, iscrowd=1)
    truth = truth_of(box(0, 1, 10, 10, 50, 40), crowd)
    found = [
        {**row, "score": score} for row, score in zip(truth.instances, (0.8, 0.9), strict=True)
    ]
    assert coco_figures(truth, found)["AP50"] == pytest.approx(1.0)
    assert boxes_of_truth(truth, 0).labels == ["cat"]


def test_pictures_that_are_not_asked_about_are_not_missed() -> None:
    asked = replace(
        TRUTH, questions=(DataQuestion(image_id=0, task="OD"), DataQuestion(image_id=1, task="OCR"))
    )
    found = [{**TRUTH.instances[0], "score": 0.9}]
    assert coco_figures(asked, found)["AP50"] == pytest.approx(1.0)
    assert coco_figures(TRUTH, found)["AP50"] == pytest.approx(0.5)


def test_labels_are_matched_without_their_case_and_strangers_are_counted(
    tiny_model: Florence2, picture: Path
) -> None:
    result = tiny_model.run(picture, "OD", options=GenerationOptions(max_new_tokens=20))
    from florence_edge.regions import Region

    def region(label: str) -> Region:
        return Region(
            label=label, shape="box", rings=((10, 10, 60, 50),), score=0.9, label_score=None
        )

    answer = replace(result, regions=(region("CAT "), region("unicorn")))
    figures = detection_figures(truth_of(box(0, 1, 10, 10, 50, 40)), {0: answer})
    assert figures["AP50:95"] == pytest.approx(1.0)
    assert figures["labels that are not a category"] == 0.5


@pytest.mark.parametrize("seed", range(5))
def test_both_count_the_same_over_random_boxes(seed: int) -> None:
    random = np.random.default_rng(seed)
    pictures = 12
    instances, found = list[Row](), list[Row]()
    for image_id in range(pictures):
        for _ in range(random.integers(1, 6)):
            category = int(random.choice([1, 7]))
            x, y, w, h = random.uniform((0, 0, 20, 20), (100, 100, 80, 80))
            instances.append(box(image_id, category, x, y, w, h))
            if random.random() < 0.8:
                dx, dy = random.uniform(-8, 8, 2)
                found.append(box(image_id, category, x + dx, y + dy, w, h, score=random.random()))
        x, y, w, h = random.uniform((0, 0, 20, 20), (100, 100, 80, 80))
        found.append(box(image_id, 1, x, y, w, h, score=random.random()))
    truth = truth_of(*instances, pictures=pictures)
    figures = coco_figures(truth, found)
    for name, min_iou in (("AP50", 0.5), ("AP75", 0.75)):
        own = average_precision(_found(found, pictures), _true(truth), min_iou)
        assert figures[name] == pytest.approx(own, abs=1e-9)


def _found(rows: list[Row], pictures: int) -> list[Boxes]:
    names = {1: "cat", 7: "sports ball"}
    each = [[row for row in rows if row["image_id"] == image_id] for image_id in range(pictures)]
    return [
        Boxes(
            boxes=[(x, y, x + w, y + h) for x, y, w, h in (row["bbox"] for row in own)],
            labels=[names[row["category_id"]] for row in own],
            scores=[row["score"] for row in own],
        )
        for own in each
    ]


def _true(truth: Truth) -> list[Boxes]:
    return [boxes_of_truth(truth, image_id) for image_id in truth.pictures]


def test_both_count_the_same_over_the_miniatures_answers(miniature_bundle: Path) -> None:
    """Boxes and scores as the runtime gives them, truth as it is committed."""
    truth = read_truth(FOLDER, limit=60)
    model = Florence2.load(miniature_bundle, threads=1)
    options = GenerationOptions(num_beams=1, max_new_tokens=60)
    paths = list(truth.pictures.values())
    results: dict[int, Result] = dict(
        zip(truth.pictures, model.run(paths, "OD", options=options), strict=True)
    )
    found = [
        Boxes(
            boxes=[region.box for region in result.regions],
            labels=[region.label for region in result.regions],
            scores=[region.score for region in result.regions],
        )
        for result in results.values()
    ]
    figures = detection_figures(truth, results)
    own = average_precision(found, _true(truth), 0.5)
    assert figures["AP50"] == pytest.approx(own, abs=1e-9)
    assert own > 0.7
    assert figures["AP50:95"] < figures["AP50"]
