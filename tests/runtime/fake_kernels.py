"""What kernels.cu does, in numpy: the same arguments, the same sums, with addresses checked.

`host_kernels.py` compiles kernels.cu itself for the host, and a test holds the two together.
"""

import ctypes
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from florence_edge import contract
from florence_edge.cuda.kernels import PRECISION_BITS, RULES, THREADS
from florence_edge.logits_process import repeated_ngram_tokens

View = Callable[[int, tuple[int, ...], Any], npt.NDArray[Any]]
Threads = tuple[int, int, int]

OUT = np.float32(-1e9)

_P, _I, _L = ctypes.c_void_p, ctypes.c_int, ctypes.c_longlong

SIGNATURES: Mapping[str, tuple[Any, ...]] = {
    "place_rows": (_P, _P, _P, _I, _I, _I, _I),
    "follow": (*[_P] * 5, *[_I] * 4),
    "advance_beams": (*[_P] * 21, *[_I] * 4),
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
    caches, parents, first, position, held, images, beams, capacity, words = arguments
    since, (now,) = view(first, (images,), np.int64), view(position, (1,), np.int64)
    if view(held, (1,), np.int64)[0]:
        return
    assert since.min() >= 0
    assert since.max() <= now <= capacity
    assert beams <= contract.MAX_BEAMS
    assert threads[0] >= (now - since.min()) * words
    heads, count = threads[1], threads[2] // images
    of_images = view(parents, (images, beams), np.int64)
    assert of_images.min() >= 0
    assert of_images.max() < beams
    rows = view(caches, (count, images, beams, heads, capacity, words), np.uint32)
    for image in range(images):
        part = slice(since[image], now)
        past = rows[:, image, of_images[image], :, part].copy()
        rows[:, image, :, :, part] = past


def advance_beams(view: View, threads: Threads, *arguments: int) -> None:
    *addresses, beams, top, length, slots = arguments
    images = threads[0] // THREADS
    assert threads[0] == images * THREADS
    assert beams * top <= THREADS
    of_rows, scored, one = (images, beams), (images, beams, top), (1,)
    kinds: list[tuple[tuple[int, ...], Any]] = [
        *((scored, np.float32), (scored, np.int64), (of_rows, np.float32)),
        ((images, RULES), np.int32),
        *((one, np.int64), (of_rows, np.int64), (one, np.int64)),
        *((shape, np.int64) for shape in (one, of_rows, of_rows, (images,), one)),
        *(((*of_rows, length), np.int32), (of_rows, np.float32), ((*of_rows, beams), np.int32)),
        *(((slots, *scored), np.float32), ((slots, *scored), np.int64)),
        ((slots, *of_rows), np.float32),
        *((shape, np.int64) for shape in ((slots, *of_rows), (slots, *of_rows), (slots, images))),
    ]
    arrays = [view(at, *kind) for at, kind in zip(addresses, kinds, strict=True)]
    logits, ids, sums, rules, position, tokens, held = arrays[:7]
    next_position, next_tokens, next_parents, next_first, next_held = arrays[7:12]
    history, totals, differ_from, *kept = arrays[12:]
    slot, now = position[0] % slots, int(position[0]) + 1
    for found, given in zip(kept[:3], (logits, ids, sums), strict=True):
        found[slot] = given
    if now == 1:
        history[:, :, 0], totals[:], differ_from[:] = tokens, OUT, 0
        totals[:, 0] = 0
    if held[0]:
        kept[5][slot] = 1
        return
    next_position[0] = now
    for image in range(images):
        going = _going_on(
            logits[image] - logits[image, :, :1] - sums[image, :, None],
            *(ids[image], history[image, :, :now], totals[image], rules[image], now == 1),
        )
        kept[5][slot, image] = going is None
        if going is None:
            next_held[0] = 1
            continue
        parents, chosen, totals[image] = going
        own, since = np.arange(beams), differ_from[image]
        moving = [since[n, parents[n]] for n in own if parents[n] != n]
        next_first[image] = min([now, *moving])
        same = parents[:, None] == parents
        differ_from[image] = np.where(same, now, since[np.ix_(parents, parents)])
        history[image, :, :now] = history[image, parents, :now]
        history[image, :, now] = chosen
        for found, given in ((next_tokens, chosen), (next_parents, parents)):
            found[image] = given
        kept[3][slot, image], kept[4][slot, image] = chosen, parents


def _going_on(
    log_probs: Any, ids: Any, histories: Any, totals: Any, rules: Any, begins: bool
) -> tuple[Any, Any, Any] | None:
    """Parents, tokens and totals of the beams that go on, or None if that is not certain."""
    beams = len(ids)
    ngram, forced, shortest, ends = (int(rule) for rule in rules[:4])
    of_end = rules[4 : 4 + ends]
    if begins and forced >= 0:
        return np.arange(beams), np.full(beams, forced), totals.copy()
    for row, past in enumerate(histories):
        log_probs[row, np.isin(ids[row], repeated_ngram_tokens(past, ngram))] = -np.inf
    if histories.shape[1] <= shortest:
        log_probs[np.isin(ids, of_end)] = -np.inf
    count = (1 + ends) * beams
    if np.isfinite(log_probs).sum(axis=1).min() < count:
        return None
    sums = (log_probs + totals[:, None]).reshape(-1)
    best = np.argsort(-sums, kind="stable")[:count]
    tokens, sums = ids.reshape(-1)[best], sums[best]
    sums = np.where(np.isin(tokens, of_end), sums + OUT, sums)
    going = np.argsort(-sums, kind="stable")[:beams]
    return best[going] // ids.shape[1], tokens[going], sums[going]


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
