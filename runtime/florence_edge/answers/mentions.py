"""The grammar of answers: where in a text which things are mentioned, for each kind of answer.

    labelled boxes      car<loc_1><loc_2><loc_3><loc_4>          more boxes: the next four, ...
    bare boxes          <loc_1><loc_2><loc_3><loc_4>             the next four, ...
    labelled quads      STOP<loc_1>...<loc_8>
    polygons            <loc_1><loc_2>...<sep><loc_1><loc_2>...  rings of one thing
    several things      <poly>ring<sep>ring</poly><poly>ring</poly>
    labelled polygons   the same, after a label

The readers take text without markers (`parse.py` removes them). Their oddities are those of the
originals and kept on purpose: whoever compares answers must find no difference.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

from ..tasks import AnswerKind
from .regions import Convention, Shape

Span = tuple[int, int]

# A number beyond the vocabulary (<loc_1234>, spelled out) counts and is not clamped. With more
# than nine digits it is no location; transformers overflows, and fails, on such a text.
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
# `.` stops at a line break: words with one inside are no label, and its regions are lost.
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

    shape: Shape
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
