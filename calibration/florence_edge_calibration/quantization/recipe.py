"""The recipe of an int8 or int4 bundle: its target, how ranges are selected, what stays float.

Needs no package for graphs, so that commands can offer its choices and refuse wrong ones.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Literal, TypeGuard

from tokenizers import Tokenizer as TokenizerFile

from florence_edge.regions import LOCATION_BINS

from .range_selection import DEFAULT_METHOD

Target = Literal["tensorrt", "cpu", "portable"]
FloatPrecision = Literal["fp16", "fp32"]
IntegerPrecision = Literal["int8", "int4"]
KeptPrecision = Literal["fp16", "fp32", "int8"]

TARGETS: tuple[Target, ...] = ("tensorrt", "cpu", "portable")
INTEGER_PRECISIONS: tuple[IntegerPrecision, ...] = ("int8", "int4")

# What stays float16 for a GPU, by bytes and launches of built plans (results/tensorrt/
# int8_plans.json). TensorRT scales and rounds an int8 product in kernels of their own, where a
# float16 one does bias, GELU and residual in itself. With every linear in int8 the vision encoder
# moves more bytes, and with attention's alone, rounded on both sides, no fewer
# (results/tensorrt/vision_plans.json), when int8 weights halve the decoder's.
_FLOAT_FOR_GPUS = (
    "vision_encoder.*",
    "text_encoder.layers.*",
    "text_encoder.cross.*",
)

SHARED = ".shared"  # the embedding's module, in each graph that reads it
_EMBEDDINGS = ("text_encoder.shared", "decoder.shared")  # one table
_POSITIONS = ".embed_positions"  # the position tables, which int4 bundles have in int8
# The embedding, the head where that is not the embedding, and the position tables.
_TABLES = (SHARED, ".lm_head", _POSITIONS)
_MOST_BEHIND = 64  # tokens behind the locations, such as Florence-2's <cap> and <poly>: 21


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How to quantize.

    Args:
        target: "tensorrt" is for GPUs: int8 weights in the decoder and the embedding, which win
            there, float16 elsewhere. "cpu" is for ONNX Runtime's CPU alone: its integer products,
            float32 elsewhere. "portable" is static QDQ in the encoders, int8 weights in the decoder
            and float16 elsewhere, for OpenVINO and ONNX Runtime's CPU.
        precision: "int4" has weights of 4 bits, in blocks, in the text encoder and the decoder,
            whose activations stay float, and in the embedding; vision is int8 then, for all
            targets. "portable" is then for all engines but TensorRT.
        method: how clipping limits are chosen (see range_selection.py).
        kept: patterns over names of linears and tables, and the float type those stay in, or in an
            int4 bundle "int8" for 8 bits; of several that match, the first counts.
        finer: patterns of what is a step finer than `kept` and target make it: 8 bits where it has
            4, else float. What is float there stays as it is.
        equalize: whether outlier channels are evened out.
        float16: whether targets but "cpu" are float16 elsewhere; float32 is for comparing blocks.
        locations_from: the first location token. In int4 rows of the embedding from there on have 8
            bits: 4 would exchange a location's row for its neighbour's. None has no such rows.
        lifted: operators (see fp16.py) that stay float32 there, because float16 does not hold what
            they compute; and `exchanged`, whether the features and caches do.
    """

    target: Target
    precision: IntegerPrecision = "int8"
    method: str = DEFAULT_METHOD
    kept: Mapping[str, KeptPrecision] = field(default_factory=dict)
    finer: frozenset[str] = frozenset()
    equalize: bool = True
    float16: bool = True
    locations_from: int | None = None
    lifted: frozenset[str] = frozenset()
    exchanged: bool = False

    @property
    def for_tensorrt(self) -> bool:
        """Whether TensorRT reads the graphs: none with operators of ONNX Runtime's own."""
        return self.target == "tensorrt" or (self.target == "portable" and self.precision == "int8")

    @property
    def rounds_activations(self) -> bool:
        """Whether it needs a calibration table: int8 weights alone do not."""
        return self.target != "tensorrt" or self.precision == "int4"

    def kept_as(self, name: str) -> FloatPrecision | None:
        """The float type that a linear or a table stays in; None if it is quantized."""
        kept = self._kept(name)
        if kept is not None:
            return None if kept == "int8" else kept
        if self.precision == "int8" and name.endswith(_POSITIONS):
            return self._float
        if self.rounds_activations:
            return None
        for_gpus = any(fnmatchcase(name, pattern) for pattern in _FLOAT_FOR_GPUS)
        return "fp16" if for_gpus else None

    def bits_of(self, name: str) -> int:
        """Bits of a weight of the text models that is quantized: 4 or 8."""
        return 8 if self.precision == "int8" or self._kept(name) == "int8" else 4

    def lifted_to(self, name: str) -> KeptPrecision:
        """What a layer returns to where its rounding costs too much: the next finer there is.

        The embedding is one table, which goes to the same in both text models.
        """
        same = _EMBEDDINGS if name in _EMBEDDINGS else (name,)
        text = name.startswith(("text_encoder.", "decoder.")) and not name.endswith(_POSITIONS)
        if self.precision == "int4" and text and any(self._asked(each) is None for each in same):
            return "int8"
        return self._float

    @property
    def _float(self) -> FloatPrecision:
        """What all is that is not quantized."""
        return "fp32" if self.target == "cpu" else "fp16"

    def _kept(self, name: str) -> KeptPrecision | None:
        asked = self._asked(name)
        if asked in (None, "int8") and any(fnmatchcase(name, each) for each in self.finer):
            return self.lifted_to(name)
        return asked

    def _asked(self, name: str) -> KeptPrecision | None:
        matching = (kept for pattern, kept in self.kept.items() if fnmatchcase(name, pattern))
        return next(matching, None)


def locations_from(tokenizer: TokenizerFile, words: int) -> int | None:
    """The first location token of a vocabulary that ends with them, as Florence-2's does.

    None where it does not: then no rows of the embedding stand out.
    """
    first, last = (tokenizer.token_to_id(f"<loc_{each}>") for each in (0, LOCATION_BINS - 1))
    return first if last is not None and words - last <= _MOST_BEHIND else None


def is_integer(precision: str) -> TypeGuard[IntegerPrecision]:
    """Whether a bundle's precision is made by a recipe."""
    return precision in INTEGER_PRECISIONS


def may_be_kept(precision: str) -> TypeGuard[KeptPrecision]:
    """Whether layers can be kept in this precision."""
    return precision in ("fp16", "fp32", "int8")


def block_of(name: str) -> str:
    """The block that a linear is kept in float with, e.g. `text_encoder.layers.0.self_attn`.

    BART's fc1 and fc2 have no module of their own; their block is `text_encoder.layers.0.fc`. An
    embedding is a block, and so are a head that is not the embedding, and each position table.
    """
    if name.endswith(_TABLES):
        return name
    parent, _, last = name.rpartition(".")
    return f"{parent}.fc" if last.startswith("fc") and parent[-1].isdigit() else parent


def pattern_of(block: str) -> str:
    """The pattern that matches the layers of a block, and no others."""
    if block.endswith(_TABLES):
        return block
    return f"{block}?" if block.endswith(".fc") else f"{block}.*"
