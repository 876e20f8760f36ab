"""Checkpoint tensors as the graphs want them.

Six things differ from the checkpoint: linears are transposed to [in, out]; the vision encoder's
`qkv` is three linears; the factor of attention queries is folded into their projections; the
depthwise convolutions have the residual around them in the middle of their kernels; the learned
positions of the image grid become one table; and the image processor's normalization becomes a
scale and a shift.

Tensors are looked through for NaN and infinities when they are read, which they are once anyway.
"""

import math
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from florence_edge.errors import BundleError

from ..checkpoint.config import TextConfig, VisionConfig
from ..checkpoint.embeddings import DECODER, HEAD, SHARED
from ..checkpoint.loader import BIAS, Checkpoint
from ..checkpoint.tensors import FloatArray, StoredTensor

_LINEAR = re.compile(r"\.(proj|fc1|fc2|[qkv]_proj|out_proj|image_projection)\.weight$")
_VISION_QKV = re.compile(
    r"^vision_encoder\.blocks\.(?P<stage>\d+)\.\d+"
    r"\.(?P<kind>spatial|channel)_block\.\w+\.(?P<part>[qkv])_proj\."
)
_RESIDUAL_CONV = re.compile(r"^vision_encoder\.blocks\..*_block\.conv[12]\.weight$")
_TEXT_QUERY = re.compile(r"^(text_encoder|decoder)\..*\.q_proj\.")

# Where a graph's parameters lie in the checkpoint; the first prefix that fits.
_SOURCES = (
    ("vision_encoder.projector.", "multi_modal_projector."),
    ("vision_encoder.", "vision_tower."),
    ("text_encoder.shared.", "language_model.shared."),
    ("text_encoder.", "language_model.encoder."),
    ("decoder.shared.", "language_model.shared."),
    ("decoder.lm_head.", "lm_head."),
    ("decoder.", "language_model.decoder."),
)
_POSITIONS = "multi_modal_projector.image_position_embed.{}_embeddings.weight"
_TEMPORAL = "multi_modal_projector.visual_temporal_embed.pos_idx_to_embed"
# What parameters are computed from (see `GraphWeights._computed`).
_COMPUTED_FROM = {
    "vision_encoder.normalize.scale": (),
    "vision_encoder.normalize.shift": (),
    "vision_encoder.projector.position_embed": (
        _POSITIONS.format("row"),
        _POSITIONS.format("column"),
        _TEMPORAL,
    ),
    "decoder.final_logits_bias": (BIAS,),
}
_CROSS = re.compile(r"^text_encoder\.cross\.(\d+)\.")


@dataclass(frozen=True, slots=True)
class GraphWeights:
    """The initializers of the three graphs by name, computed when they are read."""

    checkpoint: Checkpoint
    image_size: int
    image_mean: Sequence[float]
    image_std: Sequence[float]

    @property
    def own_head(self) -> bool:
        """Whether the scores are not those of the decoder's embedding."""
        return HEAD in self.checkpoint.tensors

    def get(self, name: str) -> ir.TensorProtocol | None:
        """The float32 tensor of the graph parameter `name`; None if the checkpoint lacks it.

        Reading the tensor raises BundleError where the checkpoint's numbers are not finite.
        """
        stored = self._computed(name) or self._stored(self._source(name))
        if stored is None:
            return None
        if match := _VISION_QKV.match(name):
            stored = _third(stored, "qkv".index(match["part"]))
        linear = _is_linear(name, len(stored.shape))
        shape = stored.shape[::-1] if linear else stored.shape

        def load() -> ir.TensorProtocol:
            values = stored.load()
            if linear:
                values = values.T
            values = _add_identity(name, self._scale_query(name, values))
            return ir.tensor(np.ascontiguousarray(values), name=name)

        return ir.LazyTensor(load, dtype=ir.DataType.FLOAT, shape=ir.Shape(shape), name=name)

    def _computed(self, name: str) -> StoredTensor | None:
        vision, text = self.checkpoint.config.vision, self.checkpoint.config.text
        std = np.asarray(self.image_std, dtype=np.float64)
        match name:
            case "vision_encoder.normalize.scale":
                return _constant(1 / (255 * std))
            case "vision_encoder.normalize.shift":
                return _constant(np.asarray(self.image_mean, dtype=np.float64) / std)
            case "vision_encoder.projector.position_embed":
                return self._position_table(vision.grid(self.image_size))
            case "decoder.final_logits_bias":
                # transformers' native class has no place for it; Microsoft publishes zeros.
                bias = self._stored(BIAS)
                return _constant(bias.load().reshape(-1) if bias else np.zeros(text.vocab_size))
        return None

    def _source(self, name: str) -> str:
        """Where this checkpoint keeps a parameter: the embeddings are tied, or not."""
        if name == "decoder.shared.weight" and DECODER in self.checkpoint.tensors:
            return DECODER
        return checkpoint_name(name)

    def _stored(self, source: str) -> StoredTensor | None:
        """A tensor of the checkpoint, refused when it is read where it is not finite."""
        stored = self.checkpoint.tensors.get(source)
        if stored is None:
            return None
        return StoredTensor(stored.shape, lambda: _finite(source, stored.load()))

    def _position_table(self, grid: int) -> StoredTensor | None:
        row, column = (self._stored(_POSITIONS.format(part)) for part in ("row", "column"))
        if row is None or column is None:
            return None
        rows = self.checkpoint.config.vision.position_embeddings
        if {row.shape[0], column.shape[0]} != {rows}:
            raise BundleError(
                f"The table of image positions has {row.shape[0]} rows and {column.shape[0]} "
                f"columns, but config.json asks for {rows}. Weights and config.json do not belong "
                "together."
            )
        width = row.shape[1] + column.shape[1]
        temporal = self._stored(_TEMPORAL)
        if temporal is not None and (len(temporal.shape) != 2 or temporal.shape[1] != width):
            raise BundleError(
                f"{_TEMPORAL} is {list(temporal.shape)}, but pictures are {width} wide. Weights "
                "and config.json do not belong together."
            )
        first = first_temporal_row(width) if temporal is None else temporal.load()[0]
        return _constant(position_table(row.load(), column.load(), first, grid))

    def some_names(self) -> str:
        """How many tensors the checkpoint has, and the names of two, for a message."""
        names = sorted(self.checkpoint.tensors)
        return f"{len(names)} tensors such as {' and '.join(names[:: max(1, len(names) - 1)])}"

    def unused(self, parameters: Collection[str]) -> list[str]:
        """Names of the checkpoint's tensors that none of the graph parameters is made from."""
        used = {SHARED}
        for name in parameters:
            used.update(_COMPUTED_FROM.get(name) or (self._source(name),))
        return sorted(self.checkpoint.tensors.keys() - used)

    def _scale_query(self, name: str, values: FloatArray) -> FloatArray:
        """Multiply the query's outputs by the factor that attention would apply to them."""
        config = self.checkpoint.config
        if _TEXT_QUERY.match(name):
            return values * np.float32(_head_dim(config.text, name) ** -0.5)
        factor = _vision_query_factor(config.vision, self.image_size, name)
        return values if factor is None else values * np.float32(factor)


def checkpoint_shape(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that the graph parameter `name` of `shape` has where the checkpoint keeps it."""
    if _is_linear(name, len(shape)):
        shape = shape[::-1]
    return (3 * shape[0], *shape[1:]) if _VISION_QKV.match(name) else shape


def checkpoint_name(name: str) -> str:
    """Where the checkpoint keeps the graph parameter `name`."""
    cross = _CROSS.match(name)
    if cross:
        return f"language_model.decoder.layers.{cross[1]}.encoder_attn.{name[cross.end() :]}"
    if match := _VISION_QKV.match(name):
        name = name.replace(f".{match['part']}_proj.", ".qkv.")
    for prefix, source in _SOURCES:
        if name.startswith(prefix):
            return source + name.removeprefix(prefix)
    return name


def _is_linear(name: str, dimensions: int) -> bool:
    """Whether a parameter is a matrix that the checkpoint stores as [out, in]."""
    return dimensions == 2 and _LINEAR.search(name) is not None


def _add_identity(name: str, values: FloatArray) -> FloatArray:
    """Let a depthwise convolution of a residual block, [C, 1, 3, 3], give x + conv(x)."""
    if not _RESIDUAL_CONV.match(name):
        return values
    values = values.copy()
    values[:, :, values.shape[2] // 2, values.shape[3] // 2] += 1
    return values


def _third(stored: StoredTensor, index: int) -> StoredTensor:
    """Rows of the query, the key or the value in a checkpoint's `qkv`."""
    rows = stored.shape[0] // 3
    part = slice(index * rows, (index + 1) * rows)
    return StoredTensor((rows, *stored.shape[1:]), lambda: stored.load()[part])


def position_table(
    row: FloatArray, column: FloatArray, temporal: FloatArray, grid: int
) -> FloatArray:
    """[grid, grid, width]: column embedding, then row embedding, plus the first temporal row."""
    width = row.shape[1] + column.shape[1]
    table = np.empty((grid, grid, width), dtype=np.float32)
    table[..., : column.shape[1]] = column[None, :grid]
    table[..., column.shape[1] :] = row[:grid, None]
    return table + temporal


def first_temporal_row(width: int) -> FloatArray:
    """Row 0 of the cosine table, [width]: sin(0), cos(0), sin(0), ... are 0 and 1 in turn."""
    row = np.zeros(width, dtype=np.float32)
    row[1::2] = 1
    return row


def _finite(name: str, values: FloatArray) -> FloatArray:
    # A sum in float64 cannot overflow, and needs no array beside the values.
    if not math.isfinite(values.sum(dtype=np.float64)):
        bad = values.size - int(np.isfinite(values).sum())
        raise BundleError(
            f"{name} has {bad} values of {values.size} that are infinite or not numbers: every "
            "answer would be wrong. Was the training stable? Take an earlier checkpoint."
        )
    return values


def _constant(values: npt.ArrayLike) -> StoredTensor:
    array = np.asarray(values, dtype=np.float32)
    return StoredTensor(array.shape, lambda: array)


def _head_dim(text: TextConfig, name: str) -> int:
    heads = text.encoder_heads if name.startswith("text_encoder.") else text.decoder_heads
    return text.d_model // heads


def _vision_query_factor(vision: VisionConfig, image_size: int, name: str) -> float | None:
    """head_dim ** -0.5 in windows, tokens ** -0.5 over channels; None for others."""
    match = _VISION_QKV.match(name)
    if match is None or match["part"] != "q":
        return None
    stage = int(match["stage"])
    if match["kind"] == "spatial":
        return float((vision.dims[stage] // vision.heads[stage]) ** -0.5)
    return float((vision.sides(image_size)[stage] ** 2) ** -0.5)
