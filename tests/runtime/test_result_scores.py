import math

import pytest

from florence_edge.results.result import Scorer, TokenPiece


def piece(text: str, log_prob: float, *, forced: bool = False) -> TokenPiece:
    return TokenPiece(token_id=0, text=text, log_prob=log_prob, forced=forced)


def test_the_score_of_a_stretch_is_the_geometric_mean_of_its_tokens() -> None:
    scorer = Scorer([piece("one", math.log(0.9)), piece("two", math.log(0.4))])
    assert scorer.of([(0, 3)]) == pytest.approx(0.9)
    assert scorer.of([(0, 6)]) == pytest.approx(0.6)
    assert scorer.whole() == pytest.approx(0.6)


def test_a_token_counts_as_soon_as_one_of_its_characters_does() -> None:
    scorer = Scorer([piece(" one", -1.0), piece("two", -2.0), piece("three", -4.0)])
    assert scorer.of([(3, 5)]) == pytest.approx(math.exp(-1.5))


def test_stretches_of_one_region_are_taken_together() -> None:
    scorer = Scorer([piece("a", -1.0), piece("b", -9.0), piece("c", -3.0)])
    assert scorer.of([(0, 1), (2, 3)]) == pytest.approx(math.exp(-2))


def test_markers_and_forced_tokens_count_nowhere() -> None:
    pieces = [
        piece("</s>", 0.0, forced=True),
        piece("<s>", -9.0),
        piece("a", -1.0),
        piece("b", -9.0, forced=True),
        piece("</s>", -9.0),
        piece("<pad>", -9.0),
    ]
    assert Scorer(pieces).whole() == pytest.approx(math.exp(-1))
    assert Scorer(pieces).of([(0, 100)]) == pytest.approx(math.exp(-1))


def test_tokens_that_share_a_character_all_count_for_it() -> None:
    scorer = Scorer([piece("a", -9.0), piece("", -1.0), piece("", -2.0), piece("中", -3.0)])
    assert scorer.of([(1, 2)]) == pytest.approx(math.exp(-2))
    assert scorer.of([(0, 1)]) == pytest.approx(math.exp(-9))


def test_nothing_said_has_no_score() -> None:
    scorer = Scorer([piece("</s>", 0.0, forced=True), piece("</s>", -1.0)])
    assert scorer.whole() is None
    assert scorer.of([(0, 8)]) is None
    assert Scorer([]).whole() is None


def test_an_empty_stretch_has_no_score() -> None:
    assert Scorer([piece("abc", -1.0)]).of([(0, 0), (3, 3)]) is None
