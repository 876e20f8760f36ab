"""Words on their way in and out: prompts as a batch of ids, answers as pieces of text."""

from collections.abc import Sequence

import numpy as np

from .answers.result import Result, read_answer
from .answers.scores import TokenPiece
from .contract import ModelSize
from .errors import RequestError
from .logits import Ints, forced_token
from .options import Generation
from .questions import Question
from .search import Hypothesis
from .text import Tokenizer
from .view import View


def batch_of_prompts(
    prompts: Sequence[str], tokenizer: Tokenizer, size: ModelSize, *, pad: int
) -> tuple[Ints, Ints]:
    """Prompts as ids [B, T], padded to the right, and the mask [B, image tokens + T].

    Raises:
        RequestError: a prompt is longer than the encoder has room for.
    """
    rows = [tokenizer.prompt_ids(prompt) for prompt in prompts]
    longest = max(map(len, rows))
    room = size.encoder_positions - size.image_tokens
    if longest > room:
        raise RequestError(
            f"The prompt has {longest} tokens, but beside the picture this model has room for "
            f"{room}. Shorten the text."
        )
    input_ids = np.full((len(rows), longest), pad, dtype=np.int64)
    mask = np.ones((len(rows), size.image_tokens + longest), dtype=np.int64)
    for row, ids in enumerate(rows):
        input_ids[row, : len(ids)] = ids
        mask[row, size.image_tokens + len(ids) :] = 0
    return input_ids, mask


def read_words(
    view: View,
    asked: Question,
    hypothesis: Hypothesis,
    tokenizer: Tokenizer,
    generation: Generation,
) -> Result:
    """What the tokens of an answer say about the view."""
    return read_answer(
        asked.task,
        _pieces(hypothesis, tokenizer, generation),
        image_size=view.size,
        text_input=asked.text,
        convention=view.convention,
        truncated=hypothesis.truncated,
    )


def _pieces(
    hypothesis: Hypothesis, tokenizer: Tokenizer, generation: Generation
) -> list[TokenPiece]:
    """The tokens of an answer with their texts; those that no search chose are marked forced."""
    ids = hypothesis.token_ids
    log_probs = (0.0, *hypothesis.log_probs)
    return [
        TokenPiece(
            token_id=token_id,
            text=text,
            log_prob=log_prob,
            forced=length == 0 or forced_token(length, generation) is not None,
        )
        for length, (token_id, text, log_prob) in enumerate(
            zip(ids, tokenizer.pieces(ids), log_probs, strict=True)
        )
    ]
