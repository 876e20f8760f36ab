from collections.abc import Sequence

import pytest

from florence_edge_benchmarks.accuracy.vqa import plain_answer, vqa_score


@pytest.mark.parametrize(
    ("said", "answers", "score"),
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
def test_vqa_is_scored_as_its_authors_do(said: str, answers: Sequence[str], score: float) -> None:
    assert vqa_score(said, answers) == pytest.approx(score)


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
