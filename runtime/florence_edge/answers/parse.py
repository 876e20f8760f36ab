"""Read the text of an answer: the regions it mentions, and Hugging Face's dictionary of them.

    </s><s>car<loc_53><loc_333><loc_932><loc_774></s>                 what the model said
           car<loc_53><loc_333><loc_932><loc_774>                     without markers
           └┬┘└────────────────┬────────────────┘
          label            locations                                  mentions.py: the grammar
                               │
                  34, 160, 596, 371                                   regions.py: bins to pixels
    {"<OD>": {"bboxes": [[34, 160, 596, 371]], "labels": ["car"]}}    what `parse` gives

The rules are those of transformers ("native") and of Microsoft's original code ("microsoft").
The two differ in the coordinates, in the markers that are removed, and in what is cut off a
label. No text is an error: what cannot be read is not found.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..errors import RequestError
from ..tasks import AnswerKind, Task, find_task, free_prompt
from .mentions import Span, find_mentions
from .regions import Convention, Region, Ring, Shape, check_convention, check_image_size, dequantize

_BIN = re.compile(r"<loc_(\d+)>")


@dataclass(frozen=True, slots=True)
class FoundRegion:
    """A region read from a text, and the characters of the raw text that say so."""

    label: str
    shape: Shape
    rings: tuple[Ring, ...]  # pixels, as in `regions.Region`
    label_span: Span  # empty without a label
    location_spans: tuple[Span, ...]  # one a ring


def parse(
    task: str | Task,
    raw_text: str,
    *,
    image_size: tuple[int, int],
    convention: Convention = "native",
) -> dict[str, Any]:
    """Read an answer, generated anywhere, as the processors of Florence-2 do.

    Args:
        task: a task (`OD` or `<OD>`); any other text is a free prompt, answered by plain text.
        raw_text: the decoded answer with its special tokens.
        image_size: width and height of the original picture in pixels.
        convention: `native` gives transformers' whole numbers, `microsoft` the original's
            fractions.

    Returns:
        `{"<OD>": {"bboxes": [[x1, y1, x2, y2], ...], "labels": [...]}}`, `{"<CAPTION>": "..."}`.

    Raises:
        RequestError: the convention or the image size is impossible. No `raw_text` raises.
    """
    check_convention(convention)
    check_image_size(image_size)
    asked = _task_or_free_prompt(task)
    if asked.answer is AnswerKind.PURE_TEXT:
        return {asked.token: plain_text(raw_text, convention)}
    found = find_regions(asked.answer, raw_text, image_size=image_size, convention=convention)
    return {asked.token: hf_from_regions(asked.answer, found)}


def plain_text(raw_text: str, convention: Convention) -> str:
    """The answer as words: no start and end markers; the native convention also strips it."""
    text = _without_markers(raw_text, removed_markers(AnswerKind.PURE_TEXT, convention)).text
    return text.strip() if convention == "native" else text


def removed_markers(kind: AnswerKind, convention: Convention) -> tuple[str, ...]:
    """The special tokens that are taken out of a text before it is read, in this order."""
    if kind is AnswerKind.PURE_TEXT:
        return "<s>", "</s>"
    if kind is AnswerKind.QUADS and convention == "microsoft":
        return ("<s>",)  # which is why its first label usually begins with </s>
    return "<s>", "</s>", "<pad>"


def find_regions(
    kind: AnswerKind, raw_text: str, *, image_size: tuple[int, int], convention: Convention
) -> tuple[FoundRegion, ...]:
    """All regions that a text mentions, in order; none in an answer of plain text."""
    cleaned = _without_markers(raw_text, removed_markers(kind, convention))
    # Asked of the raw text, and for all of it: an answer holds boxes or polygons, never both.
    as_polygons = "<poly>" in raw_text
    return tuple(
        FoundRegion(
            label=mention.label,
            shape=mention.shape,
            rings=tuple(
                dequantize(_bins(cleaned.text, span), image_size, convention)
                for span in mention.location_spans
            ),
            label_span=cleaned.raw_span(mention.label_span),
            location_spans=tuple(map(cleaned.raw_span, mention.location_spans)),
        )
        for mention in find_mentions(kind, cleaned.text, convention, as_polygons=as_polygons)
    )


def hf_from_regions(kind: AnswerKind, regions: Iterable[FoundRegion | Region]) -> dict[str, Any]:
    """The dictionary that Hugging Face gives for these regions; its keys depend on the kind."""
    if kind is AnswerKind.BOXES_OR_POLYGONS:
        regions = tuple(regions)
        boxes = [region for region in regions if region.shape == "box"]
        polygons = [region for region in regions if region.shape == "polygon"]
        return {
            **_columns("bboxes", "bboxes_labels", boxes),
            **_columns("polygons", "polygons_labels", polygons),
        }
    rings = {AnswerKind.QUADS: "quad_boxes", AnswerKind.POLYGONS: "polygons"}.get(kind, "bboxes")
    return _columns(rings, "labels", regions)


def _columns(rings: str, labels: str, regions: Iterable[FoundRegion | Region]) -> dict[str, Any]:
    columns: dict[str, Any] = {rings: [], labels: []}
    for region in regions:
        lists = [list(ring) for ring in region.rings]
        columns[rings].append(lists if region.shape == "polygon" else lists[0])
        columns[labels].append(region.label)
    return columns


def _bins(text: str, span: Span) -> list[int]:
    bins = [int(number) for number in _BIN.findall(text, *span)]
    return bins[: len(bins) // 2 * 2]  # an x without its y is dropped


class _Cleaned(NamedTuple):
    """A text without markers, and where each of its characters stood before."""

    text: str
    origin: list[int]

    def raw_span(self, span: Span) -> Span:
        start, end = span
        return (self.origin[start], self.origin[end - 1] + 1) if start < end else (0, 0)


def _without_markers(raw_text: str, markers: Iterable[str]) -> _Cleaned:
    text, origin = raw_text, list(range(len(raw_text)))
    # One marker after the other, because what a removal joins may be a marker again.
    for marker in markers:
        for found in reversed(list(re.finditer(re.escape(marker), text))):
            del origin[slice(*found.span())]
        text = text.replace(marker, "")
    return _Cleaned(text, origin)


def _task_or_free_prompt(task: str | Task) -> Task:
    try:
        return find_task(task)
    except RequestError:
        return free_prompt(str(task))
