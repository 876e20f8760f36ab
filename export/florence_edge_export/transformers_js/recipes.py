"""How finely each graph's weights are stored in blocks: the rungs that the gate climbs.

Found on the miniature: in blocks of 32 with 8 bits it answers as in float32
(results/transformersjs/miniature.json). With 4 bits the projection from the vision encoder to the
text's width loses most of what that encoder loses, so it has 8 bits always; then come the table
of words that an answer's scores are products with, and attention: for their size, the decoder's
cross-attention loses most, feed-forward layers least, and of these the second linear more than the
first. The table that words are looked up in has 8 bits always, too (see dtypes.py).
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from florence_edge_calibration.quantization.blockwise import INT8_ACTIVATIONS, BlockFormat

from .dtypes import Blocks

Bits = Literal[4, 8]

EIGHT = BlockFormat(bits=8, size=32, negative_scales=True)
FOUR = BlockFormat(bits=4, size=16, symmetric=False)
# On a CPU MatMulNBits then rounds what it reads to int8, too: its only kernels for 8 bits that are
# faster than turning the weights back into floats, and the faster ones for 4. In float the
# miniature's q4 loses as much. WebAssembly computes in float whatever is asked.
ACCURACY_LEVEL = INT8_ACTIVATIONS

# What is stored more finely than the rest, in 8 bits instead of 4 or in float instead of 8, in this
# order: each rung has what the ones before it have, too.
_GROUPS = (
    ("the image projection", re.compile(r"image_projection$")),
    ("the table of words", re.compile(r"lm_head$|shared$")),
    ("cross-attention", re.compile(r"encoder_attn\.")),
    ("attention", re.compile(r"_attn\.|\.proj$")),
    ("the second feed-forward linear", re.compile(r"\.fc2$")),
)
_ALWAYS: dict[Bits, int] = {4: 1, 8: 0}  # the first so many are so on every rung
# Of a graph's weights, at least a third keeps the bits of its dtype: with fewer it would be that
# dtype by name only. So in base the decoder's attention has no rung beside its table of words.
_MIN_USUAL = 1 / 3


@dataclass(frozen=True, slots=True)
class Rung:
    """How a graph is stored, and that in words, e.g. `4 bits; 8 bits: the image projection`."""

    blocks: Blocks
    words: str


def ladder(bits: Bits, linears: Mapping[str, int]) -> tuple[Rung, ...]:
    """The rungs of a graph, from the coarsest; each stores something else than the one before.

    Args:
        bits: of the dtype.
        linears: how many weights each linear of the graph has, by its name.
    """
    return tuple(_rungs(bits, linears))


def _rungs(bits: Bits, linears: Mapping[str, int]) -> Iterator[Rung]:
    usual, other = (FOUR, EIGHT) if bits == 4 else (EIGHT, None)
    least = _MIN_USUAL * sum(linears.values())
    before: set[str] | None = None
    for count in range(_ALWAYS[bits], len(_GROUPS) + 1):
        groups = _GROUPS[:count]
        finer = {name for name in linears if any(each.search(name) for _, each in groups)}
        kept = sum(weights for name, weights in linears.items() if name not in finer)
        if before is not None and kept < least:
            return
        if finer != before:
            words = [words for words, each in groups if any(each.search(name) for name in linears)]
            yield Rung(Blocks(usual, dict.fromkeys(finer, other)), _said(bits, words))
        before = finer


def _said(bits: Bits, finer: list[str]) -> str:
    other = "8 bits" if bits == 4 else "float"
    return f"{bits} bits; {other}: {' and '.join(finer)}" if finer else f"{bits} bits"
