"""Judge free-running answers about scenes, task by task, with the measures of fidelity.py.

Each task has one headline figure, between 0 and 1, and sometimes others beside it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from florence_edge.answers.parse import parse
from florence_edge.tasks import TASKS

from .fidelity import (
    Boxes,
    average_precision,
    exact_words,
    mean_iou,
    naming,
    polygon_iou,
    word_error_rate,
)
from .scenes.shapes import COLOURS, SHAPES

_NAMES = [f"{colour} {shape}" for colour in COLOURS for shape in SHAPES]
_BINS = (1000, 1000)  # answers are compared in location bins, whatever the size of the picture


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a model said to a question, and what it should have said."""

    said: str
    truth: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The figures of one task; `headline` names the one that stands in tables."""

    headline: str
    figures: dict[str, float]

    @property
    def value(self) -> float:
        """The headline figure."""
        return self.figures[self.headline]


def judge(task: str, answers: Sequence[Answer]) -> Verdict:
    """Judge all answers to one task, e.g. `OD`."""
    headline, measure = _MEASURES[task]
    return Verdict(headline=headline, figures=measure(task, answers))


def _read(task: str, text: str) -> Any:
    return parse(task, text, image_size=_BINS)[TASKS[task].token]


def _boxes(task: str, text: str) -> Boxes:
    result = _read(task, text)
    labels = result["bboxes_labels"] if "bboxes_labels" in result else result["labels"]
    return Boxes(boxes=result["bboxes"], labels=labels)


def _detection(task: str, answers: Sequence[Answer]) -> dict[str, float]:
    found = [_boxes(task, answer.said) for answer in answers]
    truth = [_boxes(task, answer.truth) for answer in answers]
    return {
        "AP50": average_precision(found, truth, 0.5),
        "AP75": average_precision(found, truth, 0.75),
    }


def _grounding(task: str, answers: Sequence[Answer]) -> dict[str, float]:
    pairs = [(_boxes(task, answer.said), _boxes(task, answer.truth)) for answer in answers]
    return {"box IoU": _mean([mean_iou(found, truth) for found, truth in pairs])}


def _segmentation(task: str, answers: Sequence[Answer]) -> dict[str, float]:
    return {
        "polygon IoU": _mean(
            [
                polygon_iou(_rings(task, answer.said), _rings(task, answer.truth), _BINS)
                for answer in answers
            ]
        )
    }


def _rings(task: str, text: str) -> list[list[float]]:
    return [ring for instance in _read(task, text)["polygons"] for ring in instance]


def _captions(task: str, answers: Sequence[Answer]) -> dict[str, float]:
    namings = [
        naming(_read(task, answer.said), _read(task, answer.truth), _NAMES) for answer in answers
    ]
    return {
        "every object named": _mean([float(each.complete) for each in namings]),
        "object recall": _mean([each.recall for each in namings]),
        "object precision": _mean([each.precision for each in namings]),
        "whole text exact": _exact(task, answers),
    }


def _reading(task: str, answers: Sequence[Answer]) -> dict[str, float]:
    pairs = [(_read(task, answer.said), _read(task, answer.truth)) for answer in answers]
    return {
        "words exact": _mean([exact_words(said, truth) for said, truth in pairs]),
        "word error rate": _mean([word_error_rate(said, truth) for said, truth in pairs]),
    }


def _reading_in_quads(task: str, answers: Sequence[Answer]) -> dict[str, float]:
    pairs = [(_quads(task, answer.said), _quads(task, answer.truth)) for answer in answers]
    return {
        "words exact": _mean(
            [exact_words(" ".join(said.labels), " ".join(truth.labels)) for said, truth in pairs]
        ),
        "quad IoU": _mean([mean_iou(said, truth) for said, truth in pairs]),
    }


def _quads(task: str, text: str) -> Boxes:
    """Quads as the upright boxes around them, which they are in scenes."""
    result = _read(task, text)
    boxes = [
        (min(quad[0::2]), min(quad[1::2]), max(quad[0::2]), max(quad[1::2]))
        for quad in result["quad_boxes"]
    ]
    return Boxes(boxes=boxes, labels=result["labels"])


def _saying(task: str, answers: Sequence[Answer]) -> dict[str, float]:
    return {"exact": _exact(task, answers)}


def _exact(task: str, answers: Sequence[Answer]) -> float:
    return _mean([float(_read(task, each.said) == _read(task, each.truth)) for each in answers])


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


_Measure = Callable[[str, Sequence[Answer]], dict[str, float]]

_MEASURES: dict[str, tuple[str, _Measure]] = {
    "CAPTION": ("every object named", _captions),
    "DETAILED_CAPTION": ("every object named", _captions),
    "MORE_DETAILED_CAPTION": ("every object named", _captions),
    "OCR": ("words exact", _reading),
    "OCR_WITH_REGION": ("words exact", _reading_in_quads),
    "OD": ("AP50", _detection),
    "DENSE_REGION_CAPTION": ("AP50", _detection),
    "REGION_PROPOSAL": ("AP50", _detection),
    "CAPTION_TO_PHRASE_GROUNDING": ("box IoU", _grounding),
    "OPEN_VOCABULARY_DETECTION": ("box IoU", _grounding),
    "REFERRING_EXPRESSION_SEGMENTATION": ("polygon IoU", _segmentation),
    "REGION_TO_SEGMENTATION": ("polygon IoU", _segmentation),
    "REGION_TO_CATEGORY": ("exact", _saying),
    "REGION_TO_DESCRIPTION": ("exact", _saying),
    "REGION_TO_OCR": ("exact", _saying),
}
