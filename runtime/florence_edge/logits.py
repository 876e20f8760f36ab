"""What a sequence forbids or forces at its next token: Hugging Face's logits processors.

They act on log-probabilities, after the log-softmax, in this order: repeated n-grams are
forbidden, then the first and the last token are forced.
"""

import numpy as np
import numpy.typing as npt

from .options import Generation

Ints = npt.NDArray[np.int64]


def repeated_ngram_tokens(sequence: Ints, size: int) -> Ints:
    """Tokens that would complete an n-gram of `size` tokens which `sequence` [L] already has."""
    if size == 0 or len(sequence) < size:
        return np.empty(0, dtype=np.int64)
    ngrams = np.lib.stride_tricks.sliding_window_view(sequence, size)
    begun = sequence[len(sequence) - size + 1 :]
    matches = (ngrams[:, :-1] == begun).all(axis=1)
    banned: Ints = ngrams[matches, -1]
    return banned


def forced_token(length: int, generation: Generation) -> int | None:
    """The only token allowed after `length` tokens (the start token counts), or None."""
    if length == generation.max_length - 1 and generation.forced_eos_token_id >= 0:
        return generation.forced_eos_token_id
    if length == 1 and generation.forced_bos_token_id >= 0:
        return generation.forced_bos_token_id
    return None
