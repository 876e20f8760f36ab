"""The loop: the decoder scores, the searches choose, until every image has its answer."""

import math
import time
from collections.abc import Callable
from threading import Event

import numpy as np

from .backends.base import DecoderSession
from .errors import BackendError
from .options import GenerationConfig
from .search import Hypothesis, Ints, Scores, open_search

Stop = Callable[[], bool]
# Called after each step with the tokens [L] that an answer is certain to begin with, and at its end
# with all of them and True.
OnTokens = Callable[[Ints, bool], None]


def never() -> bool:
    """Let every answer come to its end."""
    return False


def stop_after(
    max_time: float | None,
    cancel: Event | None,
    *,
    clock: Callable[[], float] = time.monotonic,
) -> Stop:
    """Whether `max_time` seconds have passed since this call, or `cancel` is set.

    None for either means that it stops nothing.
    """
    deadline = math.inf if max_time is None else clock() + max_time
    return lambda: (cancel is not None and cancel.is_set()) or clock() > deadline


def generate(
    decoder: DecoderSession,
    config: GenerationConfig,
    *,
    images: int,
    stop: Stop = never,
    on_tokens: OnTokens | None = None,
) -> list[Hypothesis]:
    """Answers for a batch of `images`, one search each; an answer is what the image gets alone.

    The step after which `stop` says so is the last, and what an image has by then is its answer.
    `on_tokens` is for a single image.

    Raises:
        BackendError: a step failed, or gave scores that are not finite numbers.
    """
    searches = [open_search(config) for _ in range(images)]
    shape = (images, config.num_beams)
    tokens = np.full(shape, config.decoder_start_token_id, dtype=np.int64)
    parents = np.zeros(shape, dtype=np.int64)  # before the first step all rows are alike

    running = set(range(images))
    while running:
        scores = decoder.step(tokens, parents)
        last = stop()
        for image in sorted(running):
            _check_finite(scores[image])
            step = searches[image].advance(scores[image], last=last)
            tokens[image], parents[image] = step.tokens, step.parents
            if step.done:  # its rows idle along until the other images are done
                parents[image] = np.arange(config.num_beams)
                running.discard(image)
            if on_tokens is not None:
                on_tokens(searches[image].agreed(), step.done)
    return [search.best() for search in searches]


def _check_finite(scores: Scores) -> None:
    """Refuse what nothing can be chosen by: one NaN among a row's logits makes all of it NaN."""
    if not np.isfinite(scores.top_log_probs[:, 0]).all():
        raise BackendError(
            "The engine's scores are not finite numbers (NaN). In an fp16 or int8 bundle, values "
            "inside have left the range of float16: export the checkpoint with --precision fp32. "
            "With fp32, try device='cpu'; if that gives NaN, too, the checkpoint's weights do."
        )
