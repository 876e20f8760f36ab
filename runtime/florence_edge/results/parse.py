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
purpose: whoever compares answers must find no difference. The originals apply regular expressions
that take hours for some long texts, as a model that rambles writes them; here each kind of answer
is read in one pass over its tags, to the same effect.
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
from ..tasks import AnswerKind, Task, TaskLike, find_task, free_task

Span = tuple[int, int]

# A number beyond the vocabulary (<loc_1234>, spelled out) counts and is not clamped.
_LOCATION = re.compile(r"<loc_\d+>")
_OUTLINE_PART = re.compile(r"<(?:loc_\d+|sep|poly|/poly)>")
_CUT_OFF_POLYGON_LABEL = {
    "native": _LOCATION,
    "microsoft": re.compile(r"loc_\d+>"),  # meant the same, but lost its bracket
}

# The originals put numbers into int64, and fail on a text with a larger one that they use: here,
# its region is not found. Python itself reads no number of more digits than this.
_LARGEST_NUMBER = 2**63 - 1
_MOST_DIGITS = 4300

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
            return _bare_polygons(text, convention)
        case AnswerKind.BOXES_OR_POLYGONS if as_polygons:
            return _labelled_polygons(text, convention)
        case AnswerKind.BOXES_WITH_LABELS | AnswerKind.BOXES_OR_POLYGONS:
            return _labelled_boxes(text)


class _Tags(NamedTuple):
    """The tags of one kind in a text, in order; those that touch make a run."""

    spans: list[Span]
    run_ends: list[int]  # for each tag, the index behind the last of its run

    @staticmethod
    def find(tag: re.Pattern[str], text: str, span: Span | None = None) -> "_Tags":
        """All tags in the text, or in a part of it."""
        spans = [found.span() for found in tag.finditer(text, *(span or (0, len(text))))]
        run_ends = [len(spans)] * len(spans)
        for i in range(len(spans) - 2, -1, -1):
            touch = spans[i][1] == spans[i + 1][0]
            run_ends[i] = run_ends[i + 1] if touch else i + 1
        return _Tags(spans, run_ends)

    def runs(self) -> Iterator[range]:
        """The indices of each run."""
        first = 0
        while first < len(self.spans):
            yield range(first, self.run_ends[first])
            first = self.run_ends[first]

    def span(self, tags: range) -> Span:
        """The characters of tags that touch."""
        return self.spans[tags[0]][0], self.spans[tags[-1]][1]


def _labelled_quads(text: str, convention: Convention) -> Iterator[Mention]:
    """The originals' `(.+?)` and eight locations; a label may hold anything but a line break."""
    tags = _Tags.find(_LOCATION, text)
    at = first = 0
    while first < len(tags.spans):
        start = tags.spans[first][0]
        if tags.run_ends[first] - first < 8:
            first = tags.run_ends[first]
            continue
        label = max(at, text.rfind("\n", at, start) + 1), start
        if label[0] == start:  # no label: the first location becomes that of the next ones
            at, first = start, first + 1
            continue
        locations = tags.span(range(first, first + 8))
        at, first = locations[1], first + 8
        kept = _trimmed(text, label) if convention == "native" else label
        yield Mention("quad", text[slice(*kept)], kept, (locations,))


def _boxes(tags: _Tags, run: range) -> list[Span]:
    """Four locations each; what is left over is lost."""
    fours = range(run.start, run.stop - 3, 4)
    return [tags.span(range(first, first + 4)) for first in fours]


def _bare_boxes(text: str) -> Iterator[Mention]:
    tags = _Tags.find(_LOCATION, text)
    for run in tags.runs():
        for box in _boxes(tags, run):
            yield Mention("box", "", (box[0], box[0]), (box,))


def _labelled_runs(text: str, tags: _Tags) -> Iterator[tuple[int, range]]:
    """The originals' `[^<]+` and four tags or more: where the label begins, and the run behind it.

    Where nothing stands before a run, the end of its first tag (`loc_1>`) is the label of the rest.
    """
    at = first = 0
    while first < len(tags.spans):
        start, run = tags.spans[first][0], range(first, tags.run_ends[first])
        if len(run) < 4:
            first = run.stop
        elif start == at or text[start - 1] == "<":
            first += 1
        else:
            yield max(at, text.rfind("<", at, start) + 1), run
            at, first = tags.spans[run[-1]][1], run.stop


def _labelled_boxes(text: str, *, unwanted: frozenset[str] = frozenset()) -> Iterator[Mention]:
    tags = _Tags.find(_LOCATION, text)
    for start, run in _labelled_runs(text, tags):
        span = _label_span(text, start, tags.span(run)[1])
        if span is None or text[slice(*span)] in unwanted:
            continue
        # Labels of boxes lose all beyond ASCII; those of quads and polygons keep it.
        label = text[slice(*span)].encode("ascii", "ignore").decode("ascii")
        for box in _boxes(tags, run):
            yield Mention("box", label, span, (box,))


def _bare_polygons(text: str, convention: Convention) -> Iterator[Mention]:
    tags = _Tags.find(_OUTLINE_PART, text)
    for run in tags.runs():
        if len(run) >= 4:
            yield from _polygons(text, tags.span(run), convention)


def _labelled_polygons(text: str, convention: Convention) -> Iterator[Mention]:
    tags = _Tags.find(_OUTLINE_PART, text)
    for start, run in _labelled_runs(text, tags):
        yield from _polygons(text, (start, tags.span(run)[1]), convention)


def _polygons(text: str, chunk: Span, convention: Convention) -> Iterator[Mention]:
    start, end = chunk
    cut = _CUT_OFF_POLYGON_LABEL[convention].match(text, start, end)
    label = _label_span(text, cut.end() if cut else start, end)
    if label is None:
        return
    name = text[slice(*label)]
    for thing in _enclosed(text, start, end):
        rings = tuple(_rings(text, thing))
        if rings:
            yield Mention("polygon", name, label, rings)


def _rings(text: str, thing: Span) -> Iterator[Span]:
    """Locations up to <sep> or the end; those that run into <poly> or </poly> are lost."""
    tags = _Tags.find(_LOCATION, text, thing)
    for run in tags.runs():
        start, end = tags.span(run)
        if end == thing[1] or text.startswith("<sep>", end):
            yield start, end


def _enclosed(text: str, start: int, end: int) -> Iterator[Span]:
    opened, closed = text.find("<poly>", start, end), text.find("</poly>", start, end)
    if opened < 0 or closed < 0:
        yield start, end  # a single thing needs no enclosure; a truncated one has no end
        return
    while opened >= 0 and (closed := text.find("</poly>", opened, end)) >= 0:
        yield opened + len("<poly>"), closed
        opened = text.find("<poly>", closed, end)


def _label_span(text: str, start: int, end: int) -> Span | None:
    """What stands before the first location or <poly>; None without one.

    A label with a line break inside is none, and its regions are lost, as the originals lose them.
    """
    tags = [text.find(tag, start, end) for tag in ("<loc_", "<poly>")]
    found = [at for at in tags if at >= 0]
    if not found:
        return None
    label = text[start : min(found)]
    return None if "\n" in label.lstrip() else _trimmed(text, (start, min(found)))


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
    task: TaskLike,
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
    found = []
    for mention in find_mentions(kind, cleaned.text, convention, as_polygons=as_polygons):
        bins = [_bins(cleaned.text, span) for span in mention.location_spans]
        rings = [dequantize(ring, image_size, convention) for ring in bins if ring is not None]
        if len(rings) == len(bins):
            found.append(
                FoundRegion(
                    label=mention.label,
                    shape=mention.shape,
                    rings=tuple(rings),
                    label_span=cleaned.raw_span(mention.label_span),
                    location_spans=tuple(map(cleaned.raw_span, mention.location_spans)),
                )
            )
    return tuple(found)


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


def _bins(text: str, span: Span) -> list[int] | None:
    """The numbers of a ring; None with one that the originals cannot hold."""
    digits = _BIN.findall(text, *span)
    if max(map(len, digits)) > _MOST_DIGITS:
        return None
    bins = [int(number) for number in digits]
    bins = bins[: len(bins) // 2 * 2]  # an x without its y is dropped
    return bins if max(bins, default=0) <= _LARGEST_NUMBER else None


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
        kept, at = [], 0
        while (found := text.find(marker, at)) >= 0:
            kept += origin[at:found]
            at = found + len(marker)
        origin = kept + origin[at:]
        text = text.replace(marker, "")
    return _Cleaned(text, origin)


def _task_or_free_prompt(task: TaskLike) -> Task:
    try:
        return find_task(task)
    except RequestError:
        return free_task(str(task))
