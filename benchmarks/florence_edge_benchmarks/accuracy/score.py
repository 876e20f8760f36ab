"""Answers against what is known of them: one grader for each kind of truth.

A grader takes the answers to one task and gives figures by name, the headline first.

VQA's accuracy (Antol et al. 2015), and which answers count as the same, follow the evaluation that
its authors publish (GT-Vision-Lab/VQA, vqaEval.py of v2.0). It leaves people's answers, which its
data set has in that form already, mostly as they are; here they are brought into it, too, so that
other data may have "Two." for 2.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from florence_edge import Result
from florence_edge_calibration.metrics import (
    Boxes,
    FreeAnswer,
    box_iou,
    judge,
    mean_iou,
    polygon_iou,
    word_error_rate,
)

from .captions import caption_figures
from .data import DataQuestion

_ANNOTATORS = 10  # that answer a question of VQA's
_AGREEING = 3  # of them are full marks

_MARKS = ';/[]"{}()=+\\_-><@`,?!'
_COUNTED = "zero one two three four five six seven eight nine ten"
_NUMBERS = {word: str(number) for number, word in enumerate(_COUNTED.split())} | {"none": "0"}
_ARTICLES = frozenset(("a", "an", "the"))
_CONTRACTIONS = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't
    haven't he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't
    mightn't've might've mustn't must've needn't not've o'clock oughtn't 'ow's'at shan't she'd've
    should've shouldn't shouldn't've somebody'd somebody'd've somebody'll somebody's someone'd
    someone'd've someone'll someone's something'd something'd've something'll that's there'd
    there'd've there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've
    we've weren't what'll what're what's what've when's where'd where's where've who'd who'd've
    who'll who's who've why'll why're why's won't would've wouldn't wouldn't've y'all y'all'll
    y'all'd've you'd you'd've you'll you're you've
"""
# `dont`, and of two apostrophes either alone: `couldnt've`, `couldn'tve`.
_APOSTROPHES = {
    word[:place] + word[place + 1 :]: word
    for word in _CONTRACTIONS.split()
    for place, letter in enumerate(word)
    if letter == "'"
}


def vqa_score(answer: str, answers: Sequence[str]) -> float:
    """The accuracy of an answer, 0 to 1.

    Of ten people's answers, each nine in turn: how many agree, three being full marks. With fewer
    than ten it is whether anybody answered so.
    """
    people = [plain_answer(each) for each in answers]
    own = plain_answer(answer)
    if len(people) < _ANNOTATORS:
        return float(own in people)
    agreeing = [people.count(own) - (other == own) for other in people]
    return sum(min(1.0, count / _AGREEING) for count in agreeing) / len(people)


def plain_answer(text: str) -> str:
    """The words that are compared: lower case, numbers as digits, without articles.

    Punctuation beside a blank goes, else it becomes one, or goes, too, in a text with a number such
    as 1,000; a full stop stays before a digit, and `&`, `:`, `$`, `%` always do.
    """
    flat = " ".join(text.split())
    has_thousands = re.search(r"\d,\d", flat) is not None
    plain = flat
    for mark in _MARKS:
        goes = has_thousands or f"{mark} " in flat or f" {mark}" in flat
        plain = plain.replace(mark, "" if goes else " ")
    words = re.sub(r"\.(?!\d)", "", plain).lower().split()
    kept = [_NUMBERS.get(word, word) for word in words if word not in _ARTICLES]
    return " ".join(_APOSTROPHES.get(word, word) for word in kept)


@dataclass(frozen=True, slots=True)
class GradedAnswer:
    """A question of the data with the model's answer to it."""

    question: DataQuestion
    result: Result


ScoreFigures = dict[str, float]


def grade(task: str, answered: Sequence[GradedAnswer]) -> ScoreFigures:
    """The figures of one task: those of every kind of truth that its questions have."""
    figures: ScoreFigures = {}
    for has_truth, grader in _GRADERS:
        known = [each for each in answered if has_truth(each.question)]
        if known:
            figures.update(grader(task, known))
    return figures


def _notation(task: str, answered: Sequence[GradedAnswer]) -> ScoreFigures:
    """Answers in Florence-2's notation, by the measures of the miniature's table."""
    pairs = [
        FreeAnswer(text=each.result.raw_text, truth=each.question.answer or "") for each in answered
    ]
    verdict = judge(task, pairs)
    return {verdict.headline: verdict.value, **verdict.figures}


def _captions(task: str, answered: Sequence[GradedAnswer]) -> ScoreFigures:
    references = {place: each.question.references for place, each in enumerate(answered)}
    return caption_figures(
        references, {place: each.result.text for place, each in enumerate(answered)}
    )


def _grounding(task: str, answered: Sequence[GradedAnswer]) -> ScoreFigures:
    """IoU of the best box found for each true one, and how many reach 0.5."""
    pairs = [(_boxes(each.result), each.question.boxes) for each in answered if each.question.boxes]
    hits = [
        bool(box_iou([box], [other for other, name in _pairs(found) if name == label])
             .max(initial=0) >= 0.5)
        for found, truth in pairs
        for box, label in _pairs(truth)
    ]  # fmt: skip
    return {
        "box IoU": _mean([mean_iou(found, truth) for found, truth in pairs]),
        "boxes found at IoU 0.5": _mean(hits),
    }


def _outlines(task: str, answered: Sequence[GradedAnswer]) -> ScoreFigures:
    values = [
        polygon_iou(
            [ring for region in each.result.regions for ring in region.rings],
            each.question.outline,
            each.result.image_size,
        )
        for each in answered
    ]
    return {"polygon IoU": _mean(values)}


def _words(task: str, answered: Sequence[GradedAnswer]) -> ScoreFigures:
    """Errors in words over all true words, in the order in which the data lists them."""
    true = [each.question.words or "" for each in answered]
    lengths = [max(1, len(words.split())) for words in true]
    errors = sum(
        word_error_rate(each.result.text, words) * length
        for each, words, length in zip(answered, true, lengths, strict=True)
    )
    return {"word error rate": errors / sum(lengths)}


def _vqa(task: str, answered: Sequence[GradedAnswer]) -> ScoreFigures:
    scores = [vqa_score(each.result.text, each.question.answers) for each in answered]
    return {"VQA accuracy": _mean(scores)}


def _boxes(result: Result) -> Boxes:
    return Boxes(
        boxes=[region.box for region in result.regions],
        labels=[region.label for region in result.regions],
    )


def _pairs(boxes: Boxes) -> list[tuple[Sequence[float], str]]:
    return list(zip(boxes.boxes, boxes.labels, strict=True))


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


_Grader = Callable[[str, Sequence[GradedAnswer]], ScoreFigures]

_GRADERS: tuple[tuple[Callable[[DataQuestion], object], _Grader], ...] = (
    (lambda question: question.answer is not None, _notation),
    (lambda question: question.references, _captions),
    (lambda question: question.boxes, _grounding),
    (lambda question: question.outline, _outlines),
    (lambda question: question.words is not None, _words),
    (lambda question: question.answers, _vqa),
)
