"""Which tokens may come next: Hugging Face's logits processors, in the order of `generate`.

    repetition_penalty ─> no_repeat_ngram_size, bad_words_ids, min_new_tokens ─> forced tokens
      ─> suppress_tokens, begin_suppress_tokens

In greedy search they act on logits, in beam search on log-probabilities, as they do there.
"""

from collections.abc import Set

import numpy as np
import numpy.typing as npt

from .options import GenerationConfig

Ints = npt.NDArray[np.int64]
Float32s = npt.NDArray[np.float32]


def repeated_ngram_tokens(sequence: Ints, size: int) -> Ints:
    """Tokens that would complete an n-gram of `size` tokens which `sequence` [L] already has."""
    count = len(sequence) - size + 1
    if size == 0 or count < 1:
        return np.empty(0, dtype=np.int64)
    matches = np.ones(count, dtype=np.bool_)
    for i, begun in enumerate(sequence[count:]):
        matches &= sequence[i : i + count] == begun
    banned: Ints = sequence[size - 1 :][matches]
    return banned


def forced_token(length: int, generation: GenerationConfig) -> int | None:
    """The only token allowed after `length` tokens (the start token counts), or None."""
    if length == generation.max_length - 1 and generation.forced_eos_token_id >= 0:
        return generation.forced_eos_token_id
    if length == 1 and generation.forced_bos_token_id >= 0:
        return generation.forced_bos_token_id
    return None


class LogitsProcessors:
    """The rules of one generation, for where no token is forced.

    `penalizes` says whether they weigh tokens at all, `raises` whether they may lift some: then no
    token outside of the best can be ruled out without its score.
    """

    def __init__(self, generation: GenerationConfig) -> None:
        self._generation = generation
        self._penalty = generation.repetition_penalty
        self.penalizes = self._penalty != 1
        self.raises = self._penalty < 1
        # A bad word of one token that ends answers does not count.
        words = [
            word
            for word in generation.bad_words_ids
            if len(word) > 1 or word[0] not in generation.eos_token_id
        ]
        never = {word[0] for word in words if len(word) == 1}
        self._never = frozenset(never.union(generation.suppress_tokens))
        self._last_of: dict[tuple[int, ...], list[int]] = {}
        for *begun, last in words:
            if begun:
                self._last_of.setdefault(tuple(begun), []).append(last)
        self._begun = sorted({len(begun) for begun in self._last_of})

    def banned(self, sequence: Ints) -> Set[int]:
        """Tokens that may not follow `sequence` [L], the start token included."""
        generation, length = self._generation, len(sequence)
        now: list[int] = repeated_ngram_tokens(sequence, generation.no_repeat_ngram_size).tolist()
        if length <= generation.min_new_tokens:
            now += generation.eos_token_id
        if length == generation.begin_length:
            now += generation.begin_suppress_tokens
        for size in self._begun:
            if size <= length:
                now += self._last_of.get(tuple(sequence[length - size :].tolist()), ())
        return self._never.union(now) if now else self._never

    def process(self, scores: Float32s, sequence: Ints) -> None:
        """Apply the rules to the scores [vocab] of what follows `sequence` [L], in place."""
        if self.penalizes:
            scores[sequence] = self._penalized(scores[sequence])
        scores[list(self.banned(sequence))] = -np.inf

    def process_some(self, scores: Float32s, ids: Ints, sequence: Ints) -> None:
        """The same for the scores [n] of the tokens `ids` [n]."""
        if self.penalizes:
            said = _are_among(ids, set(sequence.tolist()))
            scores[said] = self._penalized(scores[said])
        banned = self.banned(sequence)
        if banned:
            scores[_are_among(ids, banned)] = -np.inf

    def _penalized(self, scores: Float32s) -> Float32s:
        weaker: Float32s = np.where(scores < 0, scores * self._penalty, scores / self._penalty)
        return weaker


def _are_among(ids: Ints, tokens: Set[int]) -> npt.NDArray[np.bool_]:
    return np.fromiter((token in tokens for token in ids.tolist()), np.bool_, len(ids))
