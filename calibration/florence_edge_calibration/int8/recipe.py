"""The recipe of an int8 bundle: its target, how ranges are selected, what stays float.

Needs no package for graphs, so that commands can offer its choices and refuse wrong ones.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Literal

from .range_selection import DEFAULT_METHOD

Target = Literal["tensorrt", "cpu"]
FloatPrecision = Literal["fp16", "fp32"]

TARGETS: tuple[Target, ...] = ("tensorrt", "cpu")

_EMBEDDING = ".shared"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How to quantize.

    Args:
        target: "tensorrt" is portable: static QDQ, float16 elsewhere; "cpu" is for ONNX Runtime's
            CPU alone: its integer products, float32 elsewhere.
        method: how clipping limits are chosen (see range_selection.py).
        kept: patterns over names of linears, and the float type those stay in; of several that
            match, the first counts.
        equalize: whether outlier channels are evened out.
        float16: whether the portable target is float16 elsewhere; float32 is for comparing blocks.
    """

    target: Target
    method: str = DEFAULT_METHOD
    kept: Mapping[str, FloatPrecision] = field(default_factory=dict)
    equalize: bool = True
    float16: bool = True

    def kept_as(self, name: str) -> FloatPrecision | None:
        """The float type that a linear or an embedding stays in; None if it is quantized."""
        for pattern, precision in self.kept.items():
            if fnmatchcase(name, pattern):
                return precision
        return None


def block_of(name: str) -> str:
    """The block that a linear is kept in float with, e.g. `text_encoder.layers.0.self_attn`.

    BART's fc1 and fc2 have no module of their own; their block is `text_encoder.layers.0.fc`. An
    embedding is a block.
    """
    if name.endswith(_EMBEDDING):
        return name
    parent, _, last = name.rpartition(".")
    return f"{parent}.fc" if last.startswith("fc") and parent[-1].isdigit() else parent


def pattern_of(block: str) -> str:
    """The pattern that matches the layers of a block, and no others."""
    if block.endswith(_EMBEDDING):
        return block
    return f"{block}?" if block.endswith(".fc") else f"{block}.*"
