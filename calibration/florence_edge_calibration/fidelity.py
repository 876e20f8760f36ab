"""How right answers are: pure measures of boxes, polygons, words and captions against truth."""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

Floats = npt.NDArray[np.float64]

_RASTER = 256  # polygons are compared on a raster of this many pixels a side
_RECALLS = np.linspace(0, 1, 101)  # COCO's interpolation points


@dataclass(frozen=True, slots=True, kw_only=True)
class Boxes:
    """The labelled boxes x1, y1, x2, y2 of one picture; without scores all count alike."""

    boxes: Sequence[Sequence[float]]
    labels: Sequence[str]
    scores: Sequence[float] | None = None


def box_iou(ones: Sequence[Sequence[float]], others: Sequence[Sequence[float]]) -> Floats:
    """Intersection over union of all pairs, [len(ones), len(others)]."""
    one = np.asarray(ones, dtype=np.float64).reshape(-1, 1, 4)
    other = np.asarray(others, dtype=np.float64).reshape(1, -1, 4)
    low, high = np.maximum(one[..., :2], other[..., :2]), np.minimum(one[..., 2:], other[..., 2:])
    shared = np.clip(high - low, 0, None).prod(axis=-1)
    area, other_area = (
        np.clip(boxes[..., 2:] - boxes[..., :2], 0, None).prod(axis=-1) for boxes in (one, other)
    )
    union = area + other_area - shared
    iou: Floats = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return iou


def average_precision(
    found: Sequence[Boxes], truth: Sequence[Boxes], least_iou: float = 0.5
) -> float:
    """Mean over the true labels of the average precision; both sides list the same pictures."""
    labels = sorted({label for picture in truth for label in picture.labels})
    if not labels:
        return float("nan")
    return float(np.mean([_precision_of(label, found, truth, least_iou) for label in labels]))


def _precision_of(
    label: str, found: Sequence[Boxes], truth: Sequence[Boxes], least_iou: float
) -> float:
    scores, hits, wanted = list[float](), list[bool](), 0
    for answers, picture in zip(found, truth, strict=True):
        true_boxes = [box for box, name in _pairs(picture) if name == label]
        wanted += len(true_boxes)
        own = [index for index, name in enumerate(answers.labels) if name == label]
        own_scores = [1.0 if answers.scores is None else answers.scores[index] for index in own]
        order = np.argsort(-np.asarray(own_scores), kind="stable")
        boxes = [answers.boxes[own[index]] for index in order]
        hits += _matches(box_iou(boxes, true_boxes), least_iou)
        scores += [own_scores[index] for index in order]
    ranked = np.asarray(hits, dtype=bool)[np.argsort(-np.asarray(scores), kind="stable")]
    return _area_under(ranked, wanted)


def _pairs(picture: Boxes) -> Iterable[tuple[Sequence[float], str]]:
    return zip(picture.boxes, picture.labels, strict=True)


def _matches(iou: Floats, least_iou: float) -> list[bool]:
    """Give each found box, best first, the free true box it covers best."""
    free = np.ones(iou.shape[1], dtype=bool)
    hits = []
    for row in iou:
        candidates = np.where(free, row, -1.0)
        hit = bool(candidates.size) and float(candidates.max()) >= least_iou
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
