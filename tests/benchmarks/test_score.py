from collections.abc import Sequence

import pytest

from florence_edge.results.result import Result, TokenPiece, read_answer
from florence_edge.tasks import find_task, free_task
from florence_edge_benchmarks.accuracy.data import VQA, DataQuestion
from florence_edge_benchmarks.accuracy.score import GradedAnswer, grade, plain_answer, vqa_score
from florence_edge_calibration.metrics import Boxes


def answer(task: str, text: str) -> Result:
    pieces = [TokenPiece(number, part, -0.1) for number, part in enumerate(["</s>", "<s>", text])]
    known = free_task(task) if task == VQA else find_task(task)
    return read_answer(known, pieces, image_size=(1000, 1000))


def graded(task: str, *pairs: tuple[DataQuestion, str]) -> dict[str, float]:
    return grade(task, [GradedAnswer(question, answer(task, text)) for question, text in pairs])


def test_phrases_are_graded_by_the_best_box_of_their_name() -> None:
    truth = Boxes(boxes=[(100, 100, 200, 200), (0, 0, 50, 50)], labels=["a cat", "a dog"])
    question = DataQuestion(image_id=1, task="CAPTION_TO_PHRASE_GROUNDING", text="x", boxes=truth)
    text = "a cat<loc_100><loc_100><loc_200><loc_200>"
    figures = graded("CAPTION_TO_PHRASE_GROUNDING", (question, text))
    assert figures["box IoU"] == pytest.approx(0.5, abs=0.01)
    assert figures["boxes found at IoU 0.5"] == 0.5


def test_outlines_are_graded_by_their_area() -> None:
    task = "REFERRING_EXPRESSION_SEGMENTATION"
    square = (0.0, 0.0, 500.0, 0.0, 500.0, 500.0, 0.0, 500.0)
    question = DataQuestion(image_id=1, task=task, text="x", outline=(square,))
    half = "<loc_0><loc_0><loc_500><loc_0><loc_500><loc_250><loc_0><loc_250>"
    assert graded(task, (question, half))["polygon IoU"] == pytest.approx(0.5, abs=0.02)


def test_word_errors_count_over_all_words() -> None:
    one = DataQuestion(image_id=1, task="OCR", words="ONE TWO THREE")
    other = DataQuestion(image_id=2, task="OCR", words="FOUR")
    assert graded("OCR", (one, "ONE TWO THREE"), (other, "WRONG")) == {"word error rate": 0.25}


def test_answers_in_florences_notation_are_judged_as_the_miniatures_are() -> None:
    question = DataQuestion(image_id=1, task="REGION_TO_CATEGORY", text="x", answer="circle")
    figures = graded("REGION_TO_CATEGORY", (question, "circle"), (question, "star"))
    assert figures == {"exact": 0.5}


def test_questions_of_ones_own_are_graded_by_their_people() -> None:
    question = DataQuestion(image_id=1, task=VQA, text="?", answers=("Two.",))
    assert graded(VQA, (question, "2"), (question, "three")) == {"VQA accuracy": 0.5}


@pytest.mark.parametrize(
    ("answer", "answers", "score"),
    [
        ("The red one.", ["red one"], 1.0),
        ("blue", ["red", "green"], 0.0),
        ("green", ["red", "green", "red"], 1.0),
        ("red", ["red"] * 10, 1.0),
        ("red", ["red"] * 2 + ["blue"] * 8, 0.6),  # twice 1 of 3, eight times 2 of 3
        ("red", ["red"] + ["blue"] * 9, 0.3),
        ("2", ["two"] * 10, 1.0),
        ("35", ["3.5"] * 10, 0.0),
    ],
)
def test_vqa_is_scored_as_its_authors_do(answer: str, answers: Sequence[str], score: float) -> None:
    assert vqa_score(answer, answers) == pytest.approx(score)


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("A dog, an apple & the cat!", "dog apple & cat"),
        ("None", "0"),
        ("Ten\n", "10"),
        ("3.5", "3.5"),
        (".5 liters.", ".5 liters"),
        ("U.S.", "us"),
        ("1,000", "1000"),
        ("t-shirt", "t shirt"),
        ("black/white", "black white"),
        ("black, white", "black white"),
        ("10:30", "10:30"),
        ("$5", "$5"),
        ("dont know", "don't know"),
        ("couldnt've", "couldn't've"),
        ("couldn'tve", "couldn't've"),
        ("oclock", "o'clock"),
        ("its", "its"),
        ("well", "well"),
        ("", ""),
    ],
)
def test_answers_are_brought_into_the_form_that_vqas_authors_compare(text: str, plain: str) -> None:
    """What `processPunctuation` and `processDigitArticle` of their vqaEval.py give."""
    assert plain_answer(text) == plain
