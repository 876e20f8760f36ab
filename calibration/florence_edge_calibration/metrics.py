"""Metrics of right answers: boxes, polygons, words and captions against truth, and each task's own.

`judge` takes all answers to one task about generated scenes. A task has one headline figure,
between 0 and 1, and sometimes others beside it.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from florence_edge.results.parse import parse
from florence_edge.tasks import TASKS

from . import Float64s
from .scenes.shapes import COLOURS, SHAPES

_RASTER = 256  # polygons are compared on a raster of this many pixels a side
_RECALLS = np.linspace(0, 1, 101)  # COCO's interpolation points
_NAMES = [f"{colour} {shape}" for colour in COLOURS for shape in SHAPES]
_BINS = (1000, 1000)  # answers are compared in location bins, whatever the size of the picture


@dataclass(frozen=True, slots=True, kw_only=True)
class Boxes:
    """The labelled boxes x1, y1, x2, y2 of one picture; without scores all count alike."""

    boxes: Sequence[Sequence[float]]
    labels: Sequence[str]
    scores: Sequence[float] | None = None


def box_iou(ones: Sequence[Sequence[float]], others: Sequence[Sequence[float]]) -> Float64s:
    """Intersection over union of all pairs, [len(ones), len(others)]."""
    one = np.asarray(ones, dtype=np.float64).reshape(-1, 1, 4)
    other = np.asarray(others, dtype=np.float64).reshape(1, -1, 4)
    low, high = np.maximum(one[..., :2], other[..., :2]), np.minimum(one[..., 2:], other[..., 2:])
    shared = np.clip(high - low, 0, None).prod(axis=-1)
    area, other_area = (
        np.clip(boxes[..., 2:] - boxes[..., :2], 0, None).prod(axis=-1) for boxes in (one, other)
    )
    union = area + other_area - shared
    iou: Float64s = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return iou


def average_precision(
    found: Sequence[Boxes], truth: Sequence[Boxes], min_iou: float = 0.5
) -> float:
    """Mean over the true labels of the average precision; both sides list the same pictures."""
    labels = sorted({label for picture in truth for label in picture.labels})
    if not labels:
        return float("nan")
    return float(np.mean([_precision_of(label, found, truth, min_iou) for label in labels]))


def _precision_of(
    label: str, found: Sequence[Boxes], truth: Sequence[Boxes], min_iou: float
) -> float:
    scores, hits, wanted = list[float](), list[bool](), 0
    for answers, picture in zip(found, truth, strict=True):
        true_boxes = [box for box, name in _pairs(picture) if name == label]
        wanted += len(true_boxes)
        own = [index for index, name in enumerate(answers.labels) if name == label]
        own_scores = [1.0 if answers.scores is None else answers.scores[index] for index in own]
        order = np.argsort(-np.asarray(own_scores), kind="stable")
        boxes = [answers.boxes[own[index]] for index in order]
        hits += _matches(box_iou(boxes, true_boxes), min_iou)
        scores += [own_scores[index] for index in order]
    ranked = np.asarray(hits, dtype=bool)[np.argsort(-np.asarray(scores), kind="stable")]
    return _area_under(ranked, wanted)


def _pairs(picture: Boxes) -> Iterable[tuple[Sequence[float], str]]:
    return zip(picture.boxes, picture.labels, strict=True)


def _matches(iou: Float64s, min_iou: float) -> list[bool]:
    """Give each found box, best first, the free true box it covers best."""
    free = np.ones(iou.shape[1], dtype=bool)
    hits = []
    for row in iou:
        candidates = np.where(free, row, -1.0)
        hit = bool(candidates.size) and float(candidates.max()) >= min_iou
        if hit:
            free[int(candidates.argmax())] = False
        hits.append(hit)
    return hits


def _area_under(hits: npt.NDArray[np.bool_], wanted: int) -> float:
    """Interpolated area under the precision-recall curve of ranked hits."""
    if not len(hits) or not wanted:
        return 0.0
    right = np.cumsum(hits)
    recall, precision = right / wanted, right / np.arange(1, len(hits) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    places = np.searchsorted(recall, _RECALLS, side="left")
    return float(np.where(places < len(envelope), np.append(envelope, 0.0)[places], 0.0).mean())


def mean_iou(found: Boxes, truth: Boxes) -> float:
    """Mean over true boxes of the best found box with that label, 0 where there is none."""
    best = []
    for box, label in _pairs(truth):
        same = [other for other, name in _pairs(found) if name == label]
        best.append(float(box_iou([box], same).max(initial=0.0)))
    return float(np.mean(best)) if best else float("nan")


def polygon_iou(
    found: Sequence[Sequence[float]],
    truth: Sequence[Sequence[float]],
    image_size: tuple[int, int],
) -> float:
    """Intersection over union of two regions, each made of flat x, y, x, y, ... polygons."""
    one, other = _raster(found, image_size), _raster(truth, image_size)
    union = np.count_nonzero(one | other)
    return np.count_nonzero(one & other) / union if union else 0.0


def _raster(
    polygons: Sequence[Sequence[float]], image_size: tuple[int, int]
) -> npt.NDArray[np.bool_]:
    canvas = Image.new("1", (_RASTER, _RASTER))
    scale = np.array(_RASTER) / np.array(image_size)
    for polygon in polygons:
        points = np.asarray(polygon, dtype=np.float64).reshape(-1, 2) * scale
        if len(points) >= 3:
            ImageDraw.Draw(canvas).polygon([(x, y) for x, y in points], fill=1)
    return np.asarray(canvas, dtype=bool)


def exact_words(found: str, truth: str) -> float:
    """Share of the true words that were read exactly, order aside."""
    wanted, read = Counter(truth.split()), Counter(found.split())
    return sum((wanted & read).values()) / max(1, sum(wanted.values()))


def word_error_rate(found: str, truth: str) -> float:
    """Words to insert, delete or replace, per true word."""
    read, wanted = found.split(), truth.split()
    row = list(range(len(wanted) + 1))
    for index, word in enumerate(read, start=1):
        diagonal, row[0] = row[0], index
        for place, true_word in enumerate(wanted, start=1):
            cheapest = min(row[place] + 1, row[place - 1] + 1, diagonal + (word != true_word))
            diagonal, row[place] = row[place], cheapest
    return row[-1] / max(1, len(wanted))


@dataclass(frozen=True, slots=True, kw_only=True)
class Naming:
    """How well a caption names the objects of a picture."""

    recall: float
    precision: float

    @property
    def complete(self) -> bool:
        """Whether every object is named and nothing else is."""
        return self.recall == 1.0 and self.precision == 1.0


def naming(found: str, truth: str, names: Collection[str]) -> Naming:
    """Compare which of `names` (e.g. `red circle`) two captions mention, and how often."""
    wanted, named = _mentions(truth, names), _mentions(found, names)
    right = sum((wanted & named).values())
    return Naming(
        recall=right / max(1, sum(wanted.values())), precision=right / max(1, sum(named.values()))
    )


def _mentions(text: str, names: Collection[str]) -> Counter[str]:
    mentioned = {name: text.count(name) for name in names}
    return Counter({name: count for name, count in mentioned.items() if count})


@dataclass(frozen=True, slots=True, kw_only=True)
class FreeAnswer:
    """The raw text that a model generated freely, and the one that is right."""

    text: str
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


def judge(task: str, answers: Sequence[FreeAnswer]) -> Verdict:
    """Judge all answers to one task, e.g. `OD`."""
    headline, measure = _MEASURES[task]
    return Verdict(headline=headline, figures=measure(task, answers))


def _parsed(task: str, text: str) -> Any:
    return parse(task, text, image_size=_BINS)[TASKS[task].token]


def _boxes(task: str, text: str) -> Boxes:
    result = _parsed(task, text)
    labels = result["bboxes_labels"] if "bboxes_labels" in result else result["labels"]
    return Boxes(boxes=result["bboxes"], labels=labels)


def _detection(task: str, answers: Sequence[FreeAnswer]) -> dict[str, float]:
    found = [_boxes(task, answer.text) for answer in answers]
    truth = [_boxes(task, answer.truth) for answer in answers]
    return {
        "AP50": average_precision(found, truth, 0.5),
        "AP75": average_precision(found, truth, 0.75),
    }


def _grounding(task: str, answers: Sequence[FreeAnswer]) -> dict[str, float]:
    pairs = [(_boxes(task, answer.text), _boxes(task, answer.truth)) for answer in answers]
    return {"box IoU": _mean([mean_iou(found, truth) for found, truth in pairs])}


def _segmentation(task: str, answers: Sequence[FreeAnswer]) -> dict[str, float]:
    return {
        "polygon IoU": _mean(
            [
                polygon_iou(_rings(task, answer.text), _rings(task, answer.truth), _BINS)
                for answer in answers
            ]
        )
    }


def _rings(task: str, text: str) -> list[list[float]]:
    return [ring for instance in _parsed(task, text)["polygons"] for ring in instance]


def _captions(task: str, answers: Sequence[FreeAnswer]) -> dict[str, float]:
    namings = [
        naming(_parsed(task, answer.text), _parsed(task, answer.truth), _NAMES)
        for answer in answers
    ]
    return {
        "every object named": _mean([float(each.complete) for each in namings]),
        "object recall": _mean([each.recall for each in namings]),
        "object precision": _mean([each.precision for each in namings]),
        "whole text exact": _exact(task, answers),
    }


def _reading(task: str, answers: Sequence[FreeAnswer]) -> dict[str, float]:
    pairs = [(_parsed(task, answer.text), _parsed(task, answer.truth)) for answer in answers]
    return {
        "words exact": _mean([exact_words(found, truth) for found, truth in pairs]),
        "word error rate": _mean([word_error_rate(found, truth) for found, truth in pairs]),
    }


def _reading_in_quads(task: str, answers: Sequence[FreeAnswer]) -> dict[str, float]:
    pairs = [(_quads(task, answer.text), _quads(task, answer.truth)) for answer in answers]
    return {
        "words exact": _mean(
            [exact_words(" ".join(found.labels), " ".join(truth.labels)) for found, truth in pairs]
        ),
        "quad IoU": _mean([mean_iou(found, truth) for found, truth in pairs]),
    }


def _quads(task: str, text: str) -> Boxes:
    """Quads as the upright boxes around them, which they are in scenes."""
    result = _parsed(task, text)
    boxes = [
        (min(quad[0::2]), min(quad[1::2]), max(quad[0::2]), max(quad[1::2]))
        for quad in result["quad_boxes"]
    ]
    return Boxes(boxes=boxes, labels=result["labels"])


def _exact_match(task: str, answers: Sequence[FreeAnswer]) -> dict[str, float]:
    return {"exact": _exact(task, answers)}


def _exact(task: str, answers: Sequence[FreeAnswer]) -> float:
    return _mean([float(_parsed(task, each.text) == _parsed(task, each.truth)) for each in answers])


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


_Measure = Callable[[str, Sequence[FreeAnswer]], dict[str, float]]

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
    "REGION_TO_CATEGORY": ("exact", _exact_match),
    "REGION_TO_DESCRIPTION": ("exact", _exact_match),
    "REGION_TO_OCR": ("exact", _exact_match),
}
