"""What comes back from the model: regions, words, scores, and the ways to use them.

    pieces (tokens, their texts and log-probabilities)  --read_answer-->  Result
    Result  --> to_hf, to_json, to_coco, to_yolo, to_dataframe, to_supervision
                draw, filter, clean, describe

How sure the model was, from the log-probabilities of tokens to the score of a part of the text:

    tokens      </s>   <s>    car    <loc_53> <loc_333> <loc_932> <loc_774>   </s>
    log-prob    forced forced -0.7   -0.1     -0.2      -0.1      -0.4        special
    score                     0.50   └────────── exp(mean) = 0.82 ─────────┘

A score is exp of the mean log-probability. Markers and forced tokens say nothing about the
picture and count nowhere.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Real
from typing import TYPE_CHECKING, Any, Literal

from PIL import Image

from ..counts import check_count
from ..errors import RequestError
from ..image import HostImage, load_image
from ..image_file import Color
from ..regions import Box, Convention, Region, box_of_locations
from ..search import CutOff
from ..tasks import AnswerKind, Task
from .cleanup import cleaned
from .draw import draw
from .formats import (
    ClassIds,
    coco_annotations,
    dataframe,
    normalized,
    numbers_of,
    table_rows,
    yolo_lines,
)
from .parse import FoundRegion, Span, find_regions, hf_from_regions, plain_text
from .supervision import detections_from_regions

if TYPE_CHECKING:
    import pandas
    import supervision

_MARKERS = frozenset({"<s>", "</s>", "<pad>"})


@dataclass(frozen=True, slots=True)
class TokenPiece:
    """One generated token: the text that it adds and how likely it was.

    A token that holds only the beginning of a character adds '', and the character comes with the
    token that completes it. The texts of all pieces, joined, are the raw text.
    """

    token_id: int
    text: str
    log_prob: float
    forced: bool = False

    @property
    def counts(self) -> bool:
        """Whether the model chose this token, and to say something."""
        return not self.forced and self.text not in _MARKERS


class Scorer:
    """Scores stretches of one answer's raw text."""

    def __init__(self, pieces: Sequence[TokenPiece]) -> None:
        counted = [
            (span, float(piece.log_prob))
            for piece, span in zip(pieces, _spans(pieces), strict=True)
            if piece.counts
        ]
        self._starts = [start for (start, _), _ in counted]
        self._ends = [end for (_, end), _ in counted]
        self._log_probs = [log_prob for _, log_prob in counted]

    def whole(self) -> float | None:
        """The score of the whole answer; None where nothing was said."""
        return _score(self._log_probs)

    def of(self, stretches: Iterable[Span]) -> float | None:
        """The score of the tokens that reach into these stretches; None without any."""
        log_probs: list[float] = []
        for start, end in stretches:
            first = bisect_right(self._ends, start)
            log_probs += self._log_probs[first : bisect_left(self._starts, end)]
        return _score(log_probs)


def _spans(pieces: Sequence[TokenPiece]) -> list[Span]:
    """The characters of the raw text that each token has a part in."""
    spans: list[Span] = []
    position = end = sum(len(piece.text) for piece in pieces)
    for piece in reversed(pieces):
        if piece.text:  # a piece without text shares the span of the one that completes it
            end = position
            position -= len(piece.text)
        spans.append((position, end))
    return spans[::-1]


def _score(log_probs: Sequence[float]) -> float | None:
    return math.exp(math.fsum(log_probs) / len(log_probs)) if log_probs else None


_NOTES = {
    "empty": "(the model said nothing)",
    "unparsed": "(the answer names no region; raw text follows)",
    "length": "(cut off: it reached the longest length of an answer, max_new_tokens)",
    "time": "(cut off: its time was up, max_time)",
    "cancel": "(cut off: it was cancelled)",
}
_EDGES = ("x1", "y1", "x2", "y2")  # as in `to_dataframe`

Status = Literal["ok", "empty", "unparsed", "truncated"]
"""How an answer ended; see `Result.status`."""

IMAGE = "image"
"""Key of `Result.seconds`: reading the image and resizing it."""
VISION = "vision"
"""The vision encoder, run once a view: all answers about it show the same."""
PREFILL = "prefill"
"""The prompt's tokens, and the text encoder."""
DECODE = "decode"
"""The decoder and the search, all steps."""
PARSE = "parse"
"""Token ids to text, regions and scores."""
STAGES = (IMAGE, VISION, PREFILL, DECODE, PARSE)
"""The keys of `Result.seconds`: wall-clock seconds, in a batch an equal share for each answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One answer of the model to one task on one picture."""

    task: Task
    text_input: str | None = None
    """What was given beside the picture: a caption, a phrase, a region."""
    raw_text: str
    """The answer as the model wrote it, with its special tokens."""
    token_ids: tuple[int, ...]
    """From the start token on, as `generate` of transformers returns them."""
    token_log_probs: tuple[float, ...]
    """One for each token: log-softmax before any processor of the search."""
    status: Status
    """`ok`; `empty`: nothing was said; `unparsed`: words, but no region where regions were asked
    for; `truncated`: stopped before its end, see `cut_off`."""
    cut_off: CutOff | None = None
    """Why a `truncated` answer stopped: `length` (`max_new_tokens`), `time` (`max_time`) or
    `cancel`; None of any other."""
    image_size: tuple[int, int]
    """Width and height in pixels of the picture that the coordinates belong to."""
    convention: Convention = "native"
    """Whose rules of coordinates and labels hold."""
    text: str
    """The answer as words; of structured answers too, locations included."""
    regions: tuple[Region, ...] = ()
    """What the answer points at, in the order of Hugging Face's lists; none for plain text."""
    score: float
    """exp of the mean log-probability of all that was said, 0 to 1; 0 if nothing was."""
    seconds: Mapping[str, float] = field(default_factory=dict, compare=False)
    """How long each stage took, by the names in `STAGES`; two results that differ in it alone are
    equal."""

    @property
    def scores(self) -> tuple[float, ...]:
        """One score a region, in their order; for plain text that of the text."""
        if self.task.answer is AnswerKind.PURE_TEXT:
            return (self.score,) if self.text else ()
        return tuple(region.score for region in self.regions)

    def to_hf(self) -> dict[str, Any]:
        """The dictionary that Hugging Face's processor gives: `{"<OD>": {"bboxes": ..., ...}}`."""
        if self.task.answer is AnswerKind.PURE_TEXT:
            return {self.task.token: self.text}
        return {self.task.token: hf_from_regions(self.task.answer, self.regions)}

    def to_json(self) -> dict[str, Any]:
        """All of it in types that `json.dumps` takes."""
        return {
            "task": self.task.token,
            "text_input": self.text_input,
            "raw_text": self.raw_text,
            "token_ids": list(self.token_ids),
            "result": self.to_hf(),
            "scores": list(self.scores),
            "label_scores": [region.label_score for region in self.regions],
            "status": self.status,
            "cut_off": self.cut_off,
            "image_size": list(self.image_size),
            "seconds": dict(self.seconds),
        }

    def filter(
        self,
        min_score: float = 0.0,
        *,
        classes: Iterable[str] | None = None,
        max_regions: int | None = None,
    ) -> "Result":
        """Without the regions that score below `min_score`, or whose label is none of `classes`.

        Of the others at most `max_regions`, the best. Plain text stays whatever its score, since
        half a caption is not one; so do raw text, tokens and status, which are what the model said.

        Raises:
            RequestError: `min_score` is not a number, `max_regions` not a whole one of 0 or more,
                or `classes` are not labels, each once.
        """
        if not isinstance(min_score, Real) or math.isnan(min_score):
            raise RequestError(f"min_score is {min_score!r:.40}; it must be a number, 0 to 1.")
        if max_regions is not None:
            check_count("max_regions", max_regions, least=0)
        ids = ClassIds(classes)
        kept = [
            region
            for region in self.regions
            if region.score >= min_score and ids.number(region.label) is not None
        ]
        best = sorted(range(len(kept)), key=lambda place: -kept[place].score)[:max_regions]
        return replace(self, regions=tuple(kept[place] for place in sorted(best)))

    def clean(self) -> "Result":
        """Without what a model's slips leave: regions without an area, location tokens in labels.

        A region whose label is nothing but such tokens goes, too. Raw text, tokens and status stay.
        """
        return replace(self, regions=cleaned(self.regions))

    def draw(
        self, image: HostImage, *, color: Color = "rgb", line_width: int | None = None
    ) -> Image.Image:
        """A copy of the picture, in RGB, with the answer on it; plain text goes under it.

        The region that was asked about, if there was one, is outlined in white. The picture is
        whatever can be asked about, and turned upright in the same way; an array is in RGB order,
        or with `color` "bgr" in OpenCV's. A frame on the GPU comes from its view
        (`model.encode(frame).image`). `line_width` is in pixels; None suits the picture.

        Raises:
            ImageError: it cannot be read.
            RequestError: `image` is not of the size that was asked about, or `color` or
                `line_width` are out of range.
        """
        image = load_image(image, color=color)
        if image.size != self.image_size:
            raise RequestError(
                f"The answer is about a picture of {_size(self.image_size)} pixels, this one has "
                f"{_size(image.size)}. Draw on the picture that was asked about (turned upright, "
                "if its file carries an orientation)."
            )
        is_text = self.task.answer is AnswerKind.PURE_TEXT
        asked = box_of_locations(self.text_input or "", self.image_size, self.convention)
        caption = self.text if is_text else ""
        return draw(image, self.regions, caption=caption, asked=asked, line_width=line_width)

    def describe(self) -> str:
        """For people: the task, a legend, a line a region or the text; and what is to be noted.

        Pixels are rounded. A note says so where nothing was found, or the answer was cut off.
        """
        if self.task.answer is AnswerKind.PURE_TEXT:
            legend = "score  text"
            rows = [f"{self.score:5.2f}  {self.text}"] if self.text else []
        else:
            legend = f"score  {_columns(_EDGES)}  label"
            rows = [_line(region) for region in self.regions]
        asked = f"{self.task.token} {self.text_input or ''}".rstrip()
        return "\n".join([f"{asked}:", *([legend, *rows] if rows else []), *_notes(self, rows)])

    @property
    def normalized_boxes(self) -> tuple[Box, ...]:
        """One box a region: left, top, right, bottom as fractions of the picture, 0 to 1."""
        boxes = (normalized(region.box, self.image_size) for region in self.regions)
        return tuple((left, top, right, bottom) for left, top, right, bottom in boxes)

    def to_coco(
        self, class_ids: ClassIds | None = None, *, image_id: int = 1, first_id: int = 1
    ) -> list[dict[str, Any]]:
        """COCO's annotations with a `score`; bbox is left, top, width, height in pixels.

        Args:
            class_ids: numbers of the labels, one object for a whole data set, whose names then make
                the `categories` (ids from 1); by default this answer's own, as they come.
            image_id: of the picture.
            first_id: of the first annotation; the others follow.
        """
        numbers = numbers_of(class_ids)
        return coco_annotations(self.regions, numbers, image_id=image_id, first_id=first_id)

    def to_yolo(self, class_ids: ClassIds | None = None, *, scores: bool = False) -> list[str]:
        """Lines of a YOLO label file: class, then fractions of the picture; the score on request.

        Boxes are centre and size, quads four corners, polygons their points.
        """
        return yolo_lines(self.regions, numbers_of(class_ids), self.image_size, scores=scores)

    def to_dataframe(self) -> "pandas.DataFrame":
        """One row a region: label, score, label_score, x1, y1, x2, y2, shape, rings, track_id.

        Raises:
            MissingPackageError: pandas is not installed.
        """
        return dataframe(table_rows(self.regions))

    def to_supervision(self, class_ids: ClassIds | None = None) -> "supervision.Detections":
        """The regions as detections of the package supervision, scores as confidences.

        Labels are in `data["class_name"]`, quads in `data["xyxyxyxy"]`, polygons in `mask`.
        Polygons without an area are left out, as supervision itself does. `class_ids` gives the
        same label the same `class_id` in every frame; by default they count within this answer.

        Raises:
            MissingPackageError: supervision is not installed; the message says how to get it.
        """
        return detections_from_regions(self.regions, self.image_size, numbers_of(class_ids))


def read_answer(
    task: Task,
    pieces: Sequence[TokenPiece],
    *,
    image_size: tuple[int, int],
    text_input: str | None = None,
    convention: Convention = "native",
    cut_off: CutOff | None = None,
) -> Result:
    """Read what was generated: find the regions, score them and the whole.

    Args:
        task: what was asked.
        pieces: all tokens from the start token on; their texts, joined, are the raw text.
        image_size: width and height of the original picture in pixels.
        text_input: what was given beside the picture.
        convention: whose rules of coordinates and labels to follow.
        cut_off: why the answer was stopped before the model ended it; None where it was not.

    Returns:
        The result without `seconds`: whoever measured the stages adds them with `replace`.
    """
    raw_text = "".join(piece.text for piece in pieces)
    scorer = Scorer(pieces)
    found = find_regions(task.answer, raw_text, image_size=image_size, convention=convention)
    return Result(
        task=task,
        text_input=text_input,
        raw_text=raw_text,
        token_ids=tuple(int(piece.token_id) for piece in pieces),
        token_log_probs=tuple(float(piece.log_prob) for piece in pieces),
        status=_status(
            said_something=scorer.whole() is not None,
            understood=bool(found) or task.answer is AnswerKind.PURE_TEXT,
            truncated=cut_off is not None,
        ),
        cut_off=cut_off,
        image_size=image_size,
        convention=convention,
        text=plain_text(raw_text, convention),
        regions=tuple(_scored(region, scorer) for region in found),
        score=scorer.whole() or 0.0,
    )


def _status(*, said_something: bool, understood: bool, truncated: bool) -> Status:
    if truncated:  # also where nothing was said yet: silence would mean that nothing is there
        return "truncated"
    if not said_something:
        return "empty"
    return "ok" if understood else "unparsed"


def _scored(found: FoundRegion, scorer: Scorer) -> Region:
    score = scorer.of(found.location_spans)
    return Region(
        label=found.label,
        shape=found.shape,
        rings=found.rings,
        # Locations that were all forced say nothing of their own: the whole answer stands in.
        score=score if score is not None else scorer.whole() or 0.0,
        label_score=scorer.of([found.label_span]) if found.label else None,
    )


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"


def _notes(result: Result, rows: Sequence[str]) -> list[str]:
    """What is to be said behind the lines of an answer."""
    why = result.cut_off or result.status
    if why in _NOTES:
        return [_NOTES[why], *([result.raw_text] if result.status == "unparsed" else [])]
    return [] if rows else ["(no region was kept)"]  # `filter` or `clean` took them all


def _line(region: Region) -> str:
    outlines = _extent(region.shape, len(region.rings))
    edges = _columns([str(round(edge)) for edge in region.box])
    return f"{region.score:5.2f}  {edges}  {outlines}{region.label}".rstrip()


def _columns(four: Sequence[str]) -> str:
    return " ".join(f"{each:>5}" for each in four)


def _extent(shape: str, rings: int) -> str:
    return f"[{rings} outline{'s' if rings > 1 else ''}]  " if shape == "polygon" else ""
