"""The loop: the decoder scores, the searches choose, until every image has its answer."""

import numpy as np

from .backends.base import Decoder
from .options import Generation
from .search import Hypothesis, open_search
from .stopping import Stop, never


def generate(
    decoder: Decoder, generation: Generation, *, images: int, stop: Stop = never
) -> list[Hypothesis]:
    """Answers for a batch of `images`, one search each; an answer is what the image gets alone.

    The step after which `stop` says so is the last, and what an image has by then is its answer.
    """
    searches = [open_search(generation) for _ in range(images)]
    shape = (images, generation.num_beams)
    tokens = np.full(shape, generation.decoder_start_token_id, dtype=np.int64)
    parents = np.zeros(shape, dtype=np.int64)  # before the first step all rows are alike

    running = set(range(images))
    while running:
        scores = decoder.step(tokens, parents)
        last = stop()
        for image in sorted(running):
            step = searches[image].advance(scores[image], last=last)
            tokens[image], parents[image] = step.tokens, step.parents
            if step.done:  # its rows idle along until the other images are done
                parents[image] = np.arange(generation.num_beams)
                running.discard(image)
    return [search.best() for search in searches]
