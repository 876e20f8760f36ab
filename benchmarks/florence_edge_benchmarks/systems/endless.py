"""Answers that do not end before their longest length: what `min_new_tokens` is in transformers.

Random weights say the end token whenever they like. To compare engines over equally many tokens,
it is taken out of the scores, so that only the length ends an answer. That costs a few
microseconds a step, which count as search.
"""

from collections.abc import Sequence

import numpy as np

from florence_edge.backends import Backend, Decoder
from florence_edge.backends.base import Features, Pixels
from florence_edge.logits import Ints
from florence_edge.search import Floats, Scores


class EndlessBackend:
    """A backend whose decoders never score `end_token`."""

    def __init__(self, backend: Backend, end_token: int) -> None:
        self.most_new_tokens = backend.most_new_tokens
        self._backend = backend
        self._end_token = end_token

    def look(self, pixels: Pixels) -> Features:
        return self._backend.look(pixels)

    def read(
        self, features: Features, input_ids: Ints, encoder_mask: Ints, *, beams: int
    ) -> "EndlessDecoder":
        decoder = self._backend.read(features, input_ids, encoder_mask, beams=beams)
        return EndlessDecoder(decoder, self._end_token)


class EndlessDecoder:
    """A decoder that never scores `end_token`."""

    def __init__(self, decoder: Decoder, end_token: int) -> None:
        self._decoder = decoder
        self._end_token = end_token

    def step(self, tokens: Ints, parents: Ints) -> Sequence[Scores]:
        return [self._without_end(scores) for scores in self._decoder.step(tokens, parents)]

    def _without_end(self, scores: Scores) -> Scores:
        """Each row loses one of its top K: the end token or, without it, the last."""
        is_end = scores.top_ids == self._end_token

        def full() -> Floats:
            log_probs: Floats = scores.full().copy()
            log_probs[:, self._end_token] = -np.inf
            return log_probs

        if not is_end.any():
            return Scores(scores.top_log_probs[:, :-1], scores.top_ids[:, :-1], full)
        kept = np.argsort(is_end, axis=1, kind="stable")[:, :-1]
        return Scores(
            np.take_along_axis(scores.top_log_probs, kept, axis=1),
            np.take_along_axis(scores.top_ids, kept, axis=1),
            full,
        )
