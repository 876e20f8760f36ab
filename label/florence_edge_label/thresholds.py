"""Which of the regions of a picture are kept: least scores by class, no doubles, no slips."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from florence_edge import Region, RequestError
from florence_edge.results.cleanup import cleaned


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """What a region has to reach.

    Raises:
        RequestError: a number is not between 0 and 1.
    """

    min_score: float = 0.0
    min_score_of: Mapping[str, float] = field(default_factory=dict)
    """Of single classes, letter case aside, in place of `min_score`."""
    nms: float | None = None
    """Of two regions of a class whose boxes overlap more (IoU) the lower score goes."""
    clean: bool = False
    """Whether what a model's slips leave goes, as by `Result.clean`."""

    def __post_init__(self) -> None:
        for value in (self.min_score, *self.min_score_of.values(), self.nms or 0.0):
            if not 0 <= value <= 1:
                raise RequestError(f"{value:g} is not between 0 and 1, as scores and IoU are.")

    @staticmethod
    def parse(min_score: str | None, nms: float | None, *, clean: bool = False) -> "Thresholds":
        """Read scores as users write them: `0.3`, or `0.3,helmet=0.5,person=0.2`.

        Raises:
            RequestError: it is not that.
        """
        general, by_class = 0.0, {}
        for part in (min_score or "").split(","):
            name, equals, number = part.rpartition("=")
            if not part.strip():
                continue
            value = _number(number)
            if math.isnan(value) or (equals and not name.strip()):
                raise RequestError(
                    f"--min-score is {min_score!r}; expected a score from 0 to 1, and scores of "
                    "single classes behind it, such as 0.3,helmet=0.5."
                )
            if equals:
                by_class[name.strip().casefold()] = value
            else:
                general = value
        return Thresholds(min_score=general, min_score_of=by_class, nms=nms, clean=clean)

    def apply(self, regions: Sequence[Region]) -> list[Region]:
        """The regions that are kept, in their order."""
        clean = cleaned(regions) if self.clean else regions
        kept = [each for each in clean if each.score >= self._least(each.label)]
        return kept if self.nms is None else without_doubles(kept, self.nms)

    def _least(self, label: str) -> float:
        return self.min_score_of.get(label.strip().casefold(), self.min_score)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def without_doubles(regions: Sequence[Region], most: float) -> list[Region]:
    """Greedy non-maximum suppression within each class, by the boxes around the regions.

    Of equal scores the first stays. Regions without an area overlap with nothing.
    """
    dropped: set[int] = set()
    boxes = np.array([each.box for each in regions], np.float64).reshape(-1, 4)
    labels = [each.label.strip().casefold() for each in regions]
    order = sorted(range(len(regions)), key=lambda i: -regions[i].score)
    for place, best in enumerate(order):
        rest = [i for i in order[place + 1 :] if labels[i] == labels[best] and i not in dropped]
        if best in dropped or not rest:
            continue
        overlaps = box_iou(boxes[best], boxes[rest])
        dropped |= {i for i, iou in zip(rest, overlaps, strict=True) if iou > most}
    return [each for i, each in enumerate(regions) if i not in dropped]


def box_iou(
    box: npt.NDArray[np.float64], others: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Intersection over union of one box [4] with others [N, 4]: left, top, right, bottom."""
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    both = np.prod(np.clip(high - low, 0, None), axis=1)
    sizes = np.prod(others[:, 2:] - others[:, :2], axis=1) + np.prod(box[2:] - box[:2])
    union = sizes - both
    result: npt.NDArray[np.float64] = np.divide(
        both, union, out=np.zeros_like(both), where=union > 0
    )
    return result
