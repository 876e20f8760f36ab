"""Read the text of an answer: the regions it mentions, and Hugging Face's dictionary of them.

    </s><s>car<loc_53><loc_333><loc_932><loc_774></s>                 what the model said
           car<loc_53><loc_333><loc_932><loc_774>                     without markers
           └┬┘└────────────────┬────────────────┘
          label            locations                                  the grammar, below
                               │
                  34, 160, 596, 371                                   regions.py: bins to pixels
    {"<OD>": {"bboxes": [[34, 160, 596, 371]], "labels": ["car"]}}    what `parse` gives

The rules are those of transformers ("native") and of Microsoft's original code ("microsoft").
The two differ in the coordinates, in the markers that are removed, and in what is cut off a
label. No text is an error: what cannot be read is not found.

The grammar, for each kind of answer:

    labelled boxes      car<loc_1><loc_2><loc_3><loc_4>          more boxes: the next four, ...
    bare boxes          <loc_1><loc_2><loc_3><loc_4>             the next four, ...
    labelled quads      STOP<loc_1>...<loc_8>
    polygons            <loc_1><loc_2>...<sep><loc_1><loc_2>...  rings of one thing
    several things      <poly>ring<sep>ring</poly><poly>ring</poly>
    labelled polygons   the same, after a label

It is applied to text without markers. Its oddities are those of the originals and kept on
purpose: whoever compares answers must find no difference.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..errors import RequestError
from ..regions import (
    Convention,
    Region,
    RegionShape,
    Ring,
    check_convention,
    check_image_size,
    dequantize,
)
from ..tasks import AnswerKind, Task, find_task, free_task

Span = tuple[int, int]

# A number beyond the vocabulary (<loc_1234>, spelled out) counts and is not clamped. With more
# than nine digits it is not a location; transformers overflows, and fails, on such a text.
_LOCATION = r"<loc_\d{1,9}>"
_OUTLINE_PART = rf"(?:{_LOCATION}|<sep>|<poly>|</poly>)"

# The lookbehinds say where a label can begin: behind a tag or at the start of the stretch that it
# fills. They change no answer, but spare a long rambling one a search from each character.
_LABEL = r"(?<![^<>])[^<]+"
_LINE_LABEL = r"(?<![^\n>]).+?"

_BOX = re.compile(rf"(?:{_LOCATION}){{4}}")
_LABELLED_BOXES = re.compile(rf"{_LABEL}((?:{_LOCATION}){{4,}})")
_LABELLED_QUAD = re.compile(rf"({_LINE_LABEL})((?:{_LOCATION}){{8}})")
_POLYGONS = re.compile(rf"{_OUTLINE_PART}{{4,}}")
_LABELLED_POLYGONS = re.compile(rf"{_LABEL}{_OUTLINE_PART}{{4,}}")
_ENCLOSED = re.compile(r"<poly>(.*?)</poly>")
# Only <sep> or the end completes a ring: locations that run into <poly> or </poly> are lost.
_RING = re.compile(rf"((?:{_LOCATION})+)(?:<sep>|\Z)")
# `.` stops at a line break: words with one inside are not a label, and its regions are lost.
_WORDS = re.compile(r"\s*(.*?)(?=<loc_|<poly>)")
_CUT_OFF_POLYGON_LABEL = {
    "native": re.compile(_LOCATION),
    "microsoft": re.compile(r"loc_\d+>"),  # meant the same, but lost its bracket
}

_NAMES_OF_NO_THING = """
    I, me, mine, myself, we, us, our, ours, ourselves, you, your, yours, yourself, yourselves,
    he, him, his, himself, she, her, hers, herself, it, its, itself, one, oneself,
    they, them, their, theirs, themselves, this, that, these, those, who, whom, whose, which, what,
    all, another, any, anybody, anyone, anything, each, each other, one another,
    everybody, everyone, everything, few, many, nobody, none, several, some, somebody, someone,
    something, a, an, the, image, images, the image, a group, a set, lots, other objects
"""
NOT_GROUNDED = frozenset(phrase.strip() for phrase in _NAMES_OF_NO_THING.split(","))
"""Phrases that grounding leaves out; compared as written, capitals included."""


class Mention(NamedTuple):
    """One thing in a text: its label and, for each ring of its outline, a span of locations."""

    shape: RegionShape
    label: str
    label_span: Span  # empty without a label
    location_spans: tuple[Span, ...]


def find_mentions(
    kind: AnswerKind, text: str, convention: Convention, *, as_polygons: bool
) -> Iterator[Mention]:
    """The things that a text mentions, in order.

    Args:
        kind: which grammar the text follows.
        text: an answer without markers.
        convention: whose oddities to follow.
        as_polygons: for an answer of boxes or polygons, which of the two it is.
    """
    match kind:
        case AnswerKind.PURE_TEXT:
            return iter(())
        case AnswerKind.QUADS:
            return _labelled_quads(text, convention)
        case AnswerKind.BOXES:
            return _bare_boxes(text)
        case AnswerKind.PHRASES:
            return _labelled_boxes(text, unwanted=NOT_GROUNDED)
        case AnswerKind.POLYGONS:
            return _polygons(text, _POLYGONS, convention)
        case AnswerKind.BOXES_OR_POLYGONS if as_polygons:
            return _polygons(text, _LABELLED_POLYGONS, convention)
        case AnswerKind.BOXES_WITH_LABELS | AnswerKind.BOXES_OR_POLYGONS:
            return _labelled_boxes(text)


def _labelled_quads(text: str, convention: Convention) -> Iterator[Mention]:
    for quad in _LABELLED_QUAD.finditer(text):
        label = _trimmed(text, quad.span(1)) if convention == "native" else quad.span(1)
        yield Mention("quad", text[slice(*label)], label, (quad.span(2),))


def _bare_boxes(text: str) -> Iterator[Mention]:
    for box in _BOX.finditer(text):
        yield Mention("box", "", (box.start(), box.start()), (box.span(),))


def _labelled_boxes(text: str, *, unwanted: frozenset[str] = frozenset()) -> Iterator[Mention]:
    for chunk in _LABELLED_BOXES.finditer(text):
        span = _label_span(text, *chunk.span())
        if span is None or text[slice(*span)] in unwanted:
            continue
        # Labels of boxes lose all beyond ASCII; those of quads and polygons keep it.
        label = text[slice(*span)].encode("ascii", "ignore").decode("ascii")
        for box in _BOX.finditer(text, *chunk.span(1)):
            yield Mention("box", label, span, (box.span(),))


def _polygons(text: str, chunks: re.Pattern[str], convention: Convention) -> Iterator[Mention]:
    for chunk in chunks.finditer(text):
        start, end = chunk.span()
        cut = _CUT_OFF_POLYGON_LABEL[convention].match(text, start, end)
        label = _label_span(text, cut.end() if cut else start, end)
        if label is None:
            continue
        for thing in _enclosed(text, start, end):
            rings = tuple(ring.span(1) for ring in _RING.finditer(text, *thing))
            if rings:
                yield Mention("polygon", text[slice(*label)], label, rings)


def _enclosed(text: str, start: int, end: int) -> list[Span]:
    if "<poly>" in text[start:end] and "</poly>" in text[start:end]:
        return [enclosed.span(1) for enclosed in _ENCLOSED.finditer(text, start, end)]
    return [(start, end)]  # a single thing needs no enclosure; a truncated one has no end


def _label_span(text: str, start: int, end: int) -> Span | None:
    words = _WORDS.match(text, start, end)
    return words and _trimmed(text, words.span(1))


def _trimmed(text: str, span: Span) -> Span:
    start, end = span
    end = start + len(text[start:end].rstrip())
    return end - len(text[start:end].lstrip()), end


_BIN = re.compile(r"<loc_(\d+)>")


@dataclass(frozen=True, slots=True)
class FoundRegion:
    """A region read from a text, and the characters of the raw text that say so."""

    label: str
    shape: RegionShape
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
        return free_task(str(task))
