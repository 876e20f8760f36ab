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
    count = len(sequence) - size + 1
    if size == 0 or count < 1:
        return np.empty(0, dtype=np.int64)
    matches = np.ones(count, dtype=np.bool_)
    for i, begun in enumerate(sequence[count:]):
        matches &= sequence[i : i + count] == begun
    banned: Ints = sequence[size - 1 :][matches]
    return banned


def forced_token(length: int, generation: Generation) -> int | None:
    """The only token allowed after `length` tokens (the start token counts), or None."""
    if length == generation.max_length - 1 and generation.forced_eos_token_id >= 0:
        return generation.forced_eos_token_id
    if length == 1 and generation.forced_bos_token_id >= 0:
        return generation.forced_bos_token_id
    return None
