import math

import pytest

from florence_edge_calibration.metrics import (
    Boxes,
    FreeAnswer,
    average_precision,
    box_iou,
    exact_words,
    judge,
    mean_iou,
    naming,
    polygon_iou,
    word_error_rate,
)
from florence_edge_calibration.scenes import ask_everything, generate_scenes

CAT, DOG = (0, 0, 10, 10), (20, 20, 30, 30)


def test_boxes_overlap_by_their_shared_part() -> None:
    assert box_iou([CAT, DOG], [(0, 0, 10, 5)]).tolist() == [[0.5], [0.0]]
    assert box_iou([], [CAT]).shape == (0, 1)


def test_everything_found_is_a_precision_of_one() -> None:
    truth = [Boxes(boxes=[CAT, DOG], labels=["cat", "dog"])]
    assert average_precision(truth, truth) == pytest.approx(1)


def test_nothing_found_is_a_precision_of_zero() -> None:
    truth = [Boxes(boxes=[CAT], labels=["cat"])]
    assert average_precision([Boxes(boxes=[], labels=[])], truth) == 0
    assert math.isnan(average_precision([], []))


def test_a_box_is_found_once() -> None:
    truth = [Boxes(boxes=[CAT], labels=["cat"])]
    twice = [Boxes(boxes=[CAT, CAT], labels=["cat", "cat"], scores=[0.9, 0.8])]
    wrong_first = [Boxes(boxes=[DOG, CAT], labels=["cat", "cat"], scores=[0.9, 0.8])]
    assert average_precision(twice, truth) == pytest.approx(1)
    assert average_precision(wrong_first, truth) == pytest.approx(0.5)


def test_a_wrong_label_is_not_a_find() -> None:
    truth = [Boxes(boxes=[CAT], labels=["cat"])]
    assert average_precision([Boxes(boxes=[CAT], labels=["dog"])], truth) == 0


def test_a_missed_box_counts_as_zero_iou() -> None:
    truth = Boxes(boxes=[CAT, DOG], labels=["cat", "dog"])
    assert mean_iou(Boxes(boxes=[CAT], labels=["cat"]), truth) == pytest.approx(0.5)


def test_polygons_overlap_by_area() -> None:
    square, lower_half = [[0, 0, 100, 0, 100, 100, 0, 100]], [[0, 50, 100, 50, 100, 100, 0, 100]]
    assert polygon_iou(square, square, (100, 100)) == 1
    assert polygon_iou(lower_half, square, (100, 100)) == pytest.approx(0.5, abs=0.01)
    assert polygon_iou([], square, (100, 100)) == 0


def test_words_count_exactly_and_once() -> None:
    assert exact_words("HOUSE BREAD", "BREAD HOUSE") == 1
    assert exact_words("BREAD BREAD", "BREAD HOUSE") == 0.5
    assert word_error_rate("BREAD", "BREAD HOUSE") == 0.5
    assert word_error_rate("A B C", "A X C") == pytest.approx(1 / 3)


def test_a_caption_is_complete_only_when_it_names_everything_and_nothing_else() -> None:
    names = ["red circle", "blue star"]
    assert naming("blue star, red circle", "red circle and blue star", names).complete
    assert naming("red circle", "red circle and blue star", names).recall == 0.5
    assert naming("red circle and blue star", "red circle", names).precision == 0.5


def test_true_answers_are_judged_perfect_in_every_task() -> None:
    scenes = [ask_everything(scene) for scene in generate_scenes(40, 12)]
    for place, question in enumerate(scenes[0]):
        answers = [
            FreeAnswer(text=f"</s><s>{scene[place].answer}</s>", truth=scene[place].answer)
            for scene in scenes
        ]
        assert judge(question.task, answers).value == pytest.approx(1)


def test_empty_answers_are_judged_worthless_in_every_task() -> None:
    scenes = [ask_everything(scene) for scene in generate_scenes(40, 12)]
    for place, question in enumerate(scenes[0]):
        answers = [FreeAnswer(text="</s><s></s>", truth=scene[place].answer) for scene in scenes]
        assert judge(question.task, answers).value == 0
