"""What kernels.cu does, in numpy: the same arguments, the same sums, with addresses checked.

`host_kernels.py` compiles kernels.cu itself for the host, and a test holds the two together.
"""

import ctypes
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from florence_edge import contract
from florence_edge.cuda.kernels import PRECISION_BITS
from florence_edge.logits_process import repeated_ngram_tokens

View = Callable[[int, tuple[int, ...], Any], npt.NDArray[Any]]
Threads = tuple[int, int, int]

_P, _I, _L = ctypes.c_void_p, ctypes.c_int, ctypes.c_longlong

SIGNATURES: Mapping[str, tuple[Any, ...]] = {
    "place_rows": (_P, _P, _P, _I, _I, _I, _I),
    "follow": (_P, _P, _P, _P, _I, _I, _I, _I),
    "feed_best": (*[_P] * 8, _I, _I),
    "resample": (_P, _L, _L, _P, _L, _L, _P, _P, _P, _I, _I, _I, _I),
}


def place_rows(view: View, threads: Threads, *arguments: int) -> None:
    caches, rows, position, per_cache, words, capacity, stride = arguments
    assert threads[0] >= per_cache * words
    (at,) = view(position, (1,), np.int64)
    assert 0 <= at < capacity
    placed = view(caches, (threads[1], per_cache, capacity, words), np.uint32)
    for cache in range(threads[1]):
        placed[cache, :, at] = view(rows + cache * stride * 4, (per_cache, words), np.uint32)


def follow(view: View, threads: Threads, *arguments: int) -> None:
    caches, parents, first, position, images, beams, capacity, words = arguments
    (since,), (now,) = view(first, (1,), np.int64), view(position, (1,), np.int64)
    assert 0 <= since <= now <= capacity
    assert beams <= contract.MAX_BEAMS
    assert threads[0] >= (now - since) * words
    heads, count = threads[1], threads[2] // images
    of_images = view(parents, (images, beams), np.int64)
    assert of_images.min() >= 0
    assert of_images.max() < beams
    rows = view(caches, (count, images, beams, heads, capacity, words), np.uint32)
    for image in range(images):
        past = rows[:, image, of_images[image], :, since:now].copy()
        rows[:, image, :, :, since:now] = past


def feed_best(view: View, threads: Threads, *arguments: int) -> None:
    log_probs, ids, kept_log_probs, kept_ids, kept_token, history, token_id, position = arguments[
        :8
    ]
    top, ngram = arguments[8:]
    assert threads[0] >= top
    assert top <= 64
    view(kept_log_probs, (top,), np.uint32)[:] = view(log_probs, (top,), np.uint32)
    candidates = view(ids, (top,), np.int64)
    view(kept_ids, (top,), np.int64)[:] = candidates
    now = view(position, (1,), np.int64)
    tokens = view(history, (now[0] + 2,), np.int64)
    banned = repeated_ngram_tokens(tokens[:-1], ngram)
    allowed = candidates[~np.isin(candidates, banned)]
    best = allowed[0] if len(allowed) else candidates[-1]
    for address in (kept_token, token_id):
        view(address, (1,), np.int64)[0] = best
    tokens[-1] = best
    now += 1


def resample(view: View, threads: Threads, *arguments: int) -> None:
    source, source_line, source_step, target, target_line, target_step, *rest = arguments
    first, count, weights, max_taps, outputs, lines, lines_first = rest
    assert threads[0] >= (lines if lines_first else outputs)
    assert threads[1] == (outputs if lines_first else lines)
    firsts, counts = view(first, (outputs,), np.int32), view(count, (outputs,), np.int32)
    table = view(weights, (outputs, max_taps), np.int32).astype(np.int64)
    for output in range(outputs):
        taps = firsts[output] + np.arange(counts[output])
        # [lines, taps, 3]: the last byte that is read must be in the same allocation.
        last = (lines - 1) * source_line + int(taps[-1]) * source_step + 3
        flat = view(source, (last,), np.uint8)
        at = np.arange(lines)[:, None] * source_line + taps * source_step
        pixels = flat[at[..., None] + np.arange(3)].astype(np.int64)
        sums = (pixels * table[output, : counts[output], None]).sum(axis=1)
        sums += 1 << (PRECISION_BITS - 1)
        assert np.abs(sums).max() < 2**31
        end = (lines - 1) * target_line + output * target_step + 3
        written = view(target, (end,), np.uint8)
        to = np.arange(lines) * target_line + output * target_step
        written[to[:, None] + np.arange(3)] = np.clip(sums >> PRECISION_BITS, 0, 255)
