"""Checkpoint tensors as the graphs want them.

Five things differ from the checkpoint: linears are transposed to [in, out]; the vision encoder's
`qkv` is three linears; the factor of attention queries is folded into their projections; the
learned positions of the image grid become one table; and the image processor's normalization
becomes a scale and a shift.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from florence_edge.errors import BundleError

from ..checkpoint.config import TextConfig, VisionConfig
from ..checkpoint.loader import Checkpoint
from ..checkpoint.tensors import FloatArray, StoredTensor

_LINEAR = re.compile(r"\.(proj|fc1|fc2|[qkv]_proj|out_proj|image_projection)\.weight$")
_VISION_QKV = re.compile(
    r"^vision_encoder\.blocks\.(?P<stage>\d+)\.\d+"
    r"\.(?P<kind>spatial|channel)_block\.\w+\.(?P<part>[qkv])_proj\."
)
_TEXT_QUERY = re.compile(r"^(text_encoder|decoder)\..*\.q_proj\.")

# Where a graph's parameters lie in the checkpoint; the first prefix that fits.
_SOURCES = (
    ("vision_encoder.projector.", "multi_modal_projector."),
    ("vision_encoder.", "vision_tower."),
    ("text_encoder.shared.", "language_model.shared."),
    ("text_encoder.", "language_model.encoder."),
    ("decoder.shared.", "language_model.shared."),
    ("decoder.", "language_model.decoder."),
)
_CROSS = re.compile(r"^text_encoder\.cross\.(\d+)\.")


@dataclass(frozen=True, slots=True)
class GraphWeights:
    """The initializers of the three graphs by name, computed when they are read."""

    checkpoint: Checkpoint
    image_size: int
    image_mean: Sequence[float]
    image_std: Sequence[float]

    def get(self, name: str) -> ir.TensorProtocol | None:
        """The float32 tensor of the graph parameter `name`; None if the checkpoint lacks it."""
        stored = self._computed(name) or self.checkpoint.tensors.get(checkpoint_name(name))
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
            return ir.tensor(np.ascontiguousarray(self._scale_query(name, values)), name=name)

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
                grid, tensors = vision.grid(self.image_size), self.checkpoint.tensors
                table = "multi_modal_projector.image_position_embed.{}_embeddings.weight"
                row, column = tensors.get(table.format("row")), tensors.get(table.format("column"))
                if row is None or column is None:
                    return None
                if {row.shape[0], column.shape[0]} != {vision.position_embeddings}:
                    raise BundleError(
                        f"The table of image positions has {row.shape[0]} rows and "
                        f"{column.shape[0]} columns, but config.json asks for "
                        f"{vision.position_embeddings}. Weights and config.json do not belong "
                        "together."
                    )
                return _constant(position_table(row.load(), column.load(), grid))
            case "decoder.final_logits_bias":
                # transformers' native class has no place for it; Microsoft publishes zeros.
                bias = self.checkpoint.tensors.get("final_logits_bias")
                return _constant(bias.load().reshape(-1) if bias else np.zeros(text.vocab_size))
        return None

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


def _third(stored: StoredTensor, index: int) -> StoredTensor:
    """Rows of the query, the key or the value in a checkpoint's `qkv`."""
    rows = stored.shape[0] // 3
    part = slice(index * rows, (index + 1) * rows)
    return StoredTensor((rows, *stored.shape[1:]), lambda: stored.load()[part])


def position_table(row: FloatArray, column: FloatArray, grid: int) -> FloatArray:
    """[grid, grid, width]: column embedding, then row embedding, plus the temporal row 0.

    Row 0 of the cosine table is sin(0), cos(0), sin(0), ...: 0 and 1 in turn.
    """
    width = row.shape[1] + column.shape[1]
    table = np.empty((grid, grid, width), dtype=np.float32)
    table[..., : column.shape[1]] = column[None, :grid]
    table[..., column.shape[1] :] = row[:grid, None]
    table[..., 1::2] += 1
    return table


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
