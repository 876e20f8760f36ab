"""Answers against what is known of them: one grader for each kind of truth.

A grader sees the answers to one task and gives figures by name, the headline first.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from florence_edge import Result
from florence_edge_calibration.fidelity import Boxes, box_iou, mean_iou, polygon_iou
from florence_edge_calibration.fidelity import word_error_rate as error_rate
from florence_edge_calibration.judge import Answer, judge

from .captions import caption_figures
from .questions import Asked
from .vqa import vqa_score


@dataclass(frozen=True, slots=True)
class Answered:
    """A question with its answer."""

    asked: Asked
    result: Result


Figures = dict[str, float]


def grade(task: str, answered: Sequence[Answered]) -> Figures:
    """The figures of one task: those of every kind of truth that its questions have."""
    figures: Figures = {}
    for has_truth, grader in _GRADERS:
        known = [each for each in answered if has_truth(each.asked)]
        if known:
            figures.update(grader(task, known))
    return figures


def _told(task: str, answered: Sequence[Answered]) -> Figures:
    """Answers in Florence-2's notation, by the measures of the miniature's table."""
    pairs = [Answer(said=each.result.raw_text, truth=each.asked.answer or "") for each in answered]
    verdict = judge(task, pairs)
    return {verdict.headline: verdict.value, **verdict.figures}


def _captions(task: str, answered: Sequence[Answered]) -> Figures:
    references = {place: each.asked.references for place, each in enumerate(answered)}
    return caption_figures(
        references, {place: each.result.text for place, each in enumerate(answered)}
    )


def _grounding(task: str, answered: Sequence[Answered]) -> Figures:
    """IoU of the best box said for each true one, and how many reach 0.5."""
    pairs = [(_boxes(each.result), each.asked.boxes) for each in answered if each.asked.boxes]
    hits = [
        bool(box_iou([box], [said for said, name in _pairs(found) if name == label]).max(initial=0)
             >= 0.5)
        for found, truth in pairs
        for box, label in _pairs(truth)
    ]  # fmt: skip
    return {
        "box IoU": _mean([mean_iou(found, truth) for found, truth in pairs]),
        "boxes found at IoU 0.5": _mean(hits),
    }


def _outlines(task: str, answered: Sequence[Answered]) -> Figures:
    values = [
        polygon_iou(
            [ring for region in each.result.regions for ring in region.rings],
            each.asked.outline,
            each.result.image_size,
        )
        for each in answered
    ]
    return {"polygon IoU": _mean(values)}


def _words(task: str, answered: Sequence[Answered]) -> Figures:
    """Errors in words over all true words, in the order in which the data lists them."""
    wanted = [each.asked.words or "" for each in answered]
    lengths = [max(1, len(words.split())) for words in wanted]
    pairs = zip(answered, wanted, lengths, strict=True)
    errors = sum(error_rate(each.result.text, words) * length for each, words, length in pairs)
    return {"word error rate": errors / sum(lengths)}


def _vqa(task: str, answered: Sequence[Answered]) -> Figures:
    scores = [vqa_score(each.result.text, each.asked.answers) for each in answered]
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


_Grader = Callable[[str, Sequence[Answered]], Figures]

_GRADERS: tuple[tuple[Callable[[Asked], object], _Grader], ...] = (
    (lambda asked: asked.answer is not None, _told),
    (lambda asked: asked.references, _captions),
    (lambda asked: asked.boxes, _grounding),
    (lambda asked: asked.outline, _outlines),
    (lambda asked: asked.words is not None, _words),
    (lambda asked: asked.answers, _vqa),
)
