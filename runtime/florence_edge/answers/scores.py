"""How sure the model was: from the log-probabilities of tokens to the score of a part of the text.

    tokens      </s>   <s>    car    <loc_53> <loc_333> <loc_932> <loc_774>   </s>
    log-prob    forced forced -0.7   -0.1     -0.2      -0.1      -0.4        special
    score                     0.50   └────────── exp(mean) = 0.82 ─────────┘

A score is exp of the mean log-probability. Markers and forced tokens tell nothing about the
picture and count nowhere.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .mentions import Span

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
