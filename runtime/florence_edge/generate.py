"""The loop: the decoder scores, the searches choose, until every image has its answer."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Event
from typing import TypeAlias, TypeGuard

import numpy as np

from .backends.base import AheadDecoder, DecoderSession
from .errors import BackendError
from .options import GenerationConfig
from .search import CutOff, Hypothesis, Ints, Scores, Search, open_search

Stop = Callable[[], CutOff | None]
# Called after each step with the tokens [L] that an answer is certain to begin with, and at its end
# with all of them and True.
OnTokens = Callable[[Ints, bool], None]
Outcome: TypeAlias = Hypothesis | BackendError
"""What becomes of one image of a batch; the error says that its scores were not numbers."""


def never() -> None:
    """Let every answer come to its end."""


def stop_after(
    max_time: float | None,
    cancel: Event | None,
    *,
    clock: Callable[[], float] = time.monotonic,
) -> Stop:
    """Whether `cancel` is set, or `max_time` seconds have passed since this call, and which.

    None for either means that it stops nothing.
    """
    deadline = math.inf if max_time is None else clock() + max_time

    def stop() -> CutOff | None:
        if cancel is not None and cancel.is_set():
            return "cancel"
        return "time" if clock() > deadline else None

    return stop


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """How one image of a batch is answered; its neighbours may have other settings."""

    config: GenerationConfig
    """All images of a batch have the same `num_beams`."""
    stop: Stop = never
    """The step after which it says why is this image's last, and what there is its answer."""
    on_tokens: OnTokens | None = None
    on_done: Callable[[Outcome], None] | None = None
    """Called with the answer as soon as it is complete, while others are still at work."""


def generate(
    decoder: DecoderSession,
    config: GenerationConfig,
    *,
    images: int,
    stop: Stop = never,
    on_tokens: OnTokens | None = None,
) -> list[Hypothesis]:
    """Answers for a batch of `images`, one search each; an answer is what the image gets alone.

    The step after which `stop` says why is the last, and what an image has by then is its answer.
    `on_tokens` is for a single image.

    Raises:
        BackendError: a step failed, or gave scores that are not finite numbers.
    """
    asked = Asked(config=config, stop=stop, on_tokens=on_tokens, on_done=_raise_error)
    return [each for each in generate_each(decoder, [asked] * images) if _is_answer(each)]


def generate_each(decoder: DecoderSession, asked: Sequence[Asked]) -> list[Outcome]:
    """The answers of a batch whose images have settings, ends and errors of their own.

    Each is what the image gets alone, whatever becomes of its neighbours. What the callbacks of
    `asked` raise ends the batch.

    Raises:
        BackendError: a step failed, for all of them.
    """
    if not asked:
        return []
    beams = asked[0].config.num_beams
    searches = [open_search(each.config) for each in asked]
    tokens = np.empty((len(asked), beams), dtype=np.int64)
    tokens[:] = [[each.config.decoder_start_token_id] for each in asked]
    parents = np.zeros(tokens.shape, dtype=np.int64)  # before the first step all rows are alike

    ahead = decoder if isinstance(decoder, AheadDecoder) else None
    if ahead is not None:
        ahead.expect([each.config for each in asked])
    outcomes: dict[int, Outcome] = {}
    while len(outcomes) < len(asked):
        scores = decoder.step(tokens, parents)
        running = [image for image in range(len(asked)) if image not in outcomes]
        # A condition that several share is asked once a step.
        stopped = {stop: stop() for stop in dict.fromkeys(asked[i].stop for i in running)}
        for image in running:
            each, search = asked[image], searches[image]
            outcome = _advance(
                search, scores[image], tokens[image], parents[image], last=stopped[each.stop]
            )
            if each.on_tokens is not None and not isinstance(outcome, BackendError):
                each.on_tokens(search.agreed(), outcome is not None)
            if outcome is None:
                continue
            outcomes[image] = outcome
            parents[image] = np.arange(beams)  # its rows idle along until the others are done
            if ahead is not None:
                ahead.leave(image)
            if each.on_done is not None:
                each.on_done(outcome)
    return [outcomes[image] for image in range(len(asked))]


def _advance(
    search: Search, scores: Scores, tokens: Ints, parents: Ints, *, last: CutOff | None
) -> Outcome | None:
    """One step of an image's search, into its rows of `tokens` and `parents`.

    Returns:
        Its answer, or why there is none; None while it goes on.
    """
    error = _not_finite(scores)
    if error is not None:
        return error
    step = search.advance(scores, last=last)
    tokens[:], parents[:] = step.tokens, step.parents
    return search.best() if step.done else None


def _not_finite(scores: Scores) -> BackendError | None:
    """Why nothing can be chosen by these: one NaN among a row's logits makes all of it NaN."""
    if np.isfinite(scores.top_logits[:, 0]).all() and np.isfinite(scores.log_sum_exp).all():
        return None
    return BackendError(
        "The engine's scores are not finite numbers (NaN). In a bundle of fp16, int8 or int4 "
        "values inside have left the range of float16: export the checkpoint with --precision "
        "fp32. With fp32, try device='cpu'; if that gives NaN, too, the checkpoint's weights do."
    )


def _raise_error(outcome: Outcome) -> None:
    if isinstance(outcome, BackendError):
        raise outcome


def _is_answer(outcome: Outcome) -> TypeGuard[Hypothesis]:
    return not isinstance(outcome, BackendError)
