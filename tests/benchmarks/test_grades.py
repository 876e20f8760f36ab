import pytest

from florence_edge.answers.result import Result, read_answer
from florence_edge.answers.scores import TokenPiece
from florence_edge.tasks import find_task, free_prompt
from florence_edge_benchmarks.accuracy.grades import Answered, grade
from florence_edge_benchmarks.accuracy.questions import VQA, Asked
from florence_edge_calibration.fidelity import Boxes


def said(task: str, text: str) -> Result:
    pieces = [TokenPiece(number, part, -0.1) for number, part in enumerate(["</s>", "<s>", text])]
    asked = free_prompt(task) if task == VQA else find_task(task)
    return read_answer(asked, pieces, image_size=(1000, 1000))


def graded(task: str, *pairs: tuple[Asked, str]) -> dict[str, float]:
    return grade(task, [Answered(asked, said(task, text)) for asked, text in pairs])


def test_phrases_are_graded_by_the_best_box_of_their_name() -> None:
    truth = Boxes(boxes=[(100, 100, 200, 200), (0, 0, 50, 50)], labels=["a cat", "a dog"])
    asked = Asked(image_id=1, task="CAPTION_TO_PHRASE_GROUNDING", text="x", boxes=truth)
    text = "a cat<loc_100><loc_100><loc_200><loc_200>"
    figures = graded("CAPTION_TO_PHRASE_GROUNDING", (asked, text))
    assert figures["box IoU"] == pytest.approx(0.5, abs=0.01)
    assert figures["boxes found at IoU 0.5"] == 0.5


def test_outlines_are_graded_by_their_area() -> None:
    task = "REFERRING_EXPRESSION_SEGMENTATION"
    square = (0.0, 0.0, 500.0, 0.0, 500.0, 500.0, 0.0, 500.0)
    asked = Asked(image_id=1, task=task, text="x", outline=(square,))
    half = "<loc_0><loc_0><loc_500><loc_0><loc_500><loc_250><loc_0><loc_250>"
    assert graded(task, (asked, half))["polygon IoU"] == pytest.approx(0.5, abs=0.02)


def test_word_errors_count_over_all_words() -> None:
    one = Asked(image_id=1, task="OCR", words="ONE TWO THREE")
    other = Asked(image_id=2, task="OCR", words="FOUR")
    assert graded("OCR", (one, "ONE TWO THREE"), (other, "WRONG")) == {"word error rate": 0.25}


def test_answers_in_florences_notation_are_judged_as_the_miniatures_are() -> None:
    asked = Asked(image_id=1, task="REGION_TO_CATEGORY", text="x", answer="circle")
    figures = graded("REGION_TO_CATEGORY", (asked, "circle"), (asked, "star"))
    assert figures == {"exact": 0.5}


def test_questions_of_ones_own_are_graded_by_their_people() -> None:
    asked = Asked(image_id=1, task=VQA, text="?", answers=("Two.",))
    assert graded(VQA, (asked, "2"), (asked, "three")) == {"VQA accuracy": 0.5}
