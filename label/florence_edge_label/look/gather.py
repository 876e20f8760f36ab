"""What the page shows of a labelled set, gathered in one pass with little memory."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from heapq import heappush, heappushpop

from florence_edge import Region

from ..labelled import LabelledPicture, LabelledSet

BINS = 50
"""Of score histograms, from 0 to 1."""

_SHOWN_ERRORS = 100
_EVERY = ("random", "unsure", "crowded", "empty")


@dataclass(slots=True)
class ClassFigures:
    """What is known of one class of one task."""

    label: str
    regions: int = 0
    pictures: int = 0
    bins: list[int] = field(default_factory=lambda: [0] * BINS)
    """Regions by score."""

    def add(self, regions: Sequence[Region]) -> None:
        """The regions of this class on one picture."""
        self.pictures += 1
        self.regions += len(regions)
        for region in regions:
            self.bins[min(int(region.score * BINS), BINS - 1)] += 1


@dataclass(slots=True)
class TaskFigures:
    """What is known of the answers to one task."""

    name: str
    statuses: Counter[str] = field(default_factory=Counter)
    classes: dict[str, ClassFigures] = field(default_factory=dict)
    """By label without white space around it, letter case aside."""
    bins: list[int] = field(default_factory=lambda: [0] * BINS)
    """Answers in words by score."""

    def add_regions(self, regions: Sequence[Region]) -> None:
        """The regions of one picture."""
        by_class: dict[str, list[Region]] = {}
        for region in regions:
            by_class.setdefault(region.label.strip().casefold(), []).append(region)
        for key, some in by_class.items():
            label = some[0].label.strip()
            self.classes.setdefault(key, ClassFigures(label)).add(some)

    def add_text(self, score: float) -> None:
        """The score of one answer in words."""
        self.bins[min(int(score * BINS), BINS - 1)] += 1


@dataclass(slots=True)
class Gathered:
    """All that the page shows."""

    pictures: int = 0
    unread: int = 0
    """Pictures without any answer."""
    errors: list[tuple[str, str]] = field(default_factory=list)
    """The first pictures that failed, with their reasons."""
    failed: int = 0
    regions_by_picture: Counter[int] = field(default_factory=Counter)
    tasks: dict[str, TaskFigures] = field(default_factory=dict)
    samples: dict[str, list[LabelledPicture]] = field(default_factory=dict)
    """By why they were chosen: random, unsure, crowded or empty."""


def gather(labelled: LabelledSet, samples: int) -> Gathered:
    """Go through a labelled set once.

    Args:
        labelled: may lack shards.
        samples: how many pictures to choose. Which are random depends on their names alone.
    """
    found = Gathered(tasks={name: TaskFigures(name) for name in labelled.tasks})
    regional = set(labelled.region_tasks)
    shares = (samples - 3 * (samples // 6), samples // 6, samples // 6, samples // 6)
    chosen = [_Best(share) for share in shares]
    for picture in labelled.pictures():
        found.pictures += 1
        if picture.errors:
            found.failed += 1
            if len(found.errors) < _SHOWN_ERRORS:
                found.errors.append((picture.entry.name, picture.errors[0]))
        if picture.size is None:
            found.unread += 1
            continue
        regions = _count(picture, found, regional)
        for best, key in zip(chosen, _keys(picture, regions), strict=True):
            best.offer(key, picture)
    taken: set[int] = set()
    for name, best in zip(_EVERY[1:] + _EVERY[:1], chosen[1:] + chosen[:1], strict=True):
        fresh = [each for each in best.pictures() if each.rows[0].image_id not in taken]
        taken.update(each.rows[0].image_id for each in fresh)
        found.samples[name] = fresh
    return found


def _count(picture: LabelledPicture, found: Gathered, regional: set[str]) -> list[Region]:
    """Count the answers about one picture; its regions."""
    every: list[Region] = []
    by_task: dict[str, list[Region]] = {}
    for row in picture.rows:
        if row.task is None:
            continue
        task = found.tasks[row.task]
        task.statuses[row.status] += 1
        if row.task in regional:
            by_task.setdefault(row.task, []).extend(row.regions)
        elif row.score is not None and row.text:
            task.add_text(row.score)
    for name, regions in by_task.items():
        found.tasks[name].add_regions(regions)
        every += regions
    found.regions_by_picture[len(every)] += 1
    return every


def _keys(picture: LabelledPicture, regions: Sequence[Region]) -> tuple[float | None, ...]:
    """How well a picture fits each choice; None where it does not."""
    digest = hashlib.sha256(picture.entry.name.encode("utf-8", "surrogatepass")).digest()
    chance = int.from_bytes(digest[:6], "big") / 2**48
    worst = min((region.score for region in regions), default=None)
    return (
        chance,
        None if worst is None else 1 - worst,
        len(regions) or None,
        None if regions else chance,
    )


class _Best:
    """The pictures with the largest keys."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._heap: list[tuple[float, int, LabelledPicture]] = []

    def offer(self, key: float | None, picture: LabelledPicture) -> None:
        if key is None or not self._most:
            return
        item = (key, -picture.rows[0].image_id, picture)
        if len(self._heap) < self._most:
            heappush(self._heap, item)
        else:
            heappushpop(self._heap, item)

    def pictures(self) -> list[LabelledPicture]:
        return [picture for _, _, picture in sorted(self._heap, reverse=True)]
