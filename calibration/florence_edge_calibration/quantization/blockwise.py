"""Weights in blocks of 4 or 8 bits: some neighbouring inputs of an output share a scale.

Two forms compute with them. MatMulNBits (com.microsoft) is ONNX Runtime's own product, on the CPU,
CUDA and WebGPU. DequantizeLinear in blocks (opset 21) in front of a plain product is what TensorRT
reads; it takes no zero points. Level `l` of a block stands for scale * (l - zero point), and zero
points are the middle level where blocks are symmetric.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from .. import Float32s
from ..fp16 import fits_half
from ..graph_edit import Insertion, replace_node, weight_values

Levels = npt.NDArray[np.uint8]

BLOCK_SIZES = (16, 32, 64, 128)
BITS = (4, 8)
INT8_ACTIVATIONS = 4  # MatMulNBits' accuracy_level: rows of the input are rounded to int8, too

# What is tried as the level of a block's largest magnitude, as a share of the highest level: below
# 1 all levels are finer than the weights need, above it the largest weights are clipped.
_SHARES = (0.8, 0.86, 0.9, 0.93, 0.96, 1.0, 1.04, 1.08, 1.12, 1.16, 1.21, 1.27, 1.35)
_MIN_HALF = np.float32(2.0**-24)  # float16's smallest number
_CHUNK = 1 << 18  # weights at a time: what a core's cache holds
BLOCKS_OPSET = 21  # the first whose DequantizeLinear has blocks


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockFormat:
    """How weights are stored.

    Args:
        bits: of a weight: 4 or 8.
        size: how many inputs share a scale: one of BLOCK_SIZES.
        symmetric: whether the middle level is zero in each block; otherwise blocks have zero
            points. TensorRT takes symmetric ones alone.
        negative_scales: whether the largest weight of a block may be the lowest level, whatever its
            sign: half a level more for nothing. For MatMulNBits; TensorRT's scales are positive.

    Raises:
        ValueError: there are no such blocks.
    """

    bits: int = 4
    size: int = 32
    symmetric: bool = True
    negative_scales: bool = False

    def __post_init__(self) -> None:
        if self.bits not in BITS or self.size not in BLOCK_SIZES:
            raise ValueError(
                f"blocks of {self.size} weights with {self.bits} bits, expected one of "
                f"{BLOCK_SIZES} with {BITS}"
            )

    @property
    def middle(self) -> int:
        """The level that is zero in symmetric blocks."""
        return 1 << (self.bits - 1)

    @property
    def highest(self) -> int:
        """The highest level."""
        return (1 << self.bits) - 1


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class BlockWeight:
    """A weight [inputs, outputs] in blocks along its inputs, the last one filled with zeros.

    `levels` are [outputs, blocks, size], `scales` float32 [outputs, blocks] that float16 holds,
    too (unless they are too small), and `zero_points` [outputs, blocks].
    """

    format: BlockFormat
    inputs: int
    levels: Levels
    scales: Float32s
    zero_points: Levels

    @property
    def outputs(self) -> int:
        """How many outputs it has."""
        return len(self.levels)

    def dequantized(self) -> Float32s:
        """What it stands for, float32 [inputs, outputs]."""
        centered = self.levels.astype(np.float32) - self.zero_points[..., None]
        rows = (centered * self.scales[..., None]).reshape(self.outputs, -1)
        return np.ascontiguousarray(rows[:, : self.inputs].T)

    def packed(self) -> Levels:
        """As MatMulNBits reads it: [outputs, blocks, bytes], the first of two in the low half."""
        return _packed(self.levels, self.format.bits)

    def packed_zero_points(self) -> Levels:
        """As MatMulNBits reads them: [outputs, bytes]; symmetric blocks need none."""
        return _packed(self.zero_points, self.format.bits)

    def nbytes(self) -> int:
        """Bytes on disk with float32 scales."""
        zero_points = 0 if self.format.symmetric else self.packed_zero_points().nbytes
        return self.packed().nbytes + self.scales.nbytes + zero_points


def _packed(levels: Levels, bits: int) -> Levels:
    """Levels of 4 bits two in a byte along the last axis, which is filled up with zeros."""
    if bits != 4:
        return levels
    even = np.pad(levels, [(0, 0)] * (levels.ndim - 1) + [(0, levels.shape[-1] % 2)])
    packed: Levels = (even[..., 0::2] + 16 * even[..., 1::2]).astype(np.uint8)
    return packed


def quantize_blocks(
    weight: Float32s, blocks: BlockFormat, importance: npt.ArrayLike | None = None
) -> BlockWeight:
    """Round a weight [inputs, outputs] in blocks, with the scales that lose least.

    For some candidates the scale is found that fits the rounded weights best (least squares), and
    of those the one with the least squared error counts, as llama.cpp does for its k-quants.

    Args:
        weight: float weights, finite.
        blocks: bits, size and symmetry.
        importance: what an input's errors count, [inputs], such as the mean square of what it
            reads; None counts all alike.

    Raises:
        ValueError: the weight is not a matrix.
    """
    if weight.ndim != 2:
        raise ValueError(f"a weight of shape {weight.shape}, expected [inputs, outputs]")
    inputs, outputs = weight.shape
    filled = -(-inputs // blocks.size) * blocks.size
    rows = np.zeros((outputs, filled), dtype=np.float32)
    rows[:, :inputs] = weight.T
    counts = np.ones(filled, dtype=np.float32)
    if importance is not None:
        given = np.asarray(importance, dtype=np.float32)
        counts[:inputs] = given / max(float(given.mean()), 1e-30)
        counts = np.maximum(counts, 1e-6)  # an input that was never seen is no reason for any scale
    parts = rows.reshape(outputs, -1, blocks.size)
    of_parts = counts.reshape(-1, blocks.size)
    levels = np.empty(parts.shape, dtype=np.uint8)
    scales = np.empty(parts.shape[:2], dtype=np.float32)
    zero_points = np.empty(parts.shape[:2], dtype=np.uint8)
    step = max(1, _CHUNK // max(1, filled))
    for start in range(0, outputs, step):
        some = slice(start, start + step)
        levels[some], scales[some], zero_points[some] = _quantized(parts[some], of_parts, blocks)
    return BlockWeight(
        format=blocks, inputs=inputs, levels=levels, scales=scales, zero_points=zero_points
    )


def _quantized(
    parts: Float32s, importance: Float32s, blocks: BlockFormat
) -> tuple[Levels, Float32s, Levels]:
    """Levels, scales and zero points of blocks [outputs, blocks, size]."""
    best = np.full(parts.shape[:2], -np.inf, dtype=np.float32)
    scales = np.ones(parts.shape[:2], dtype=np.float32)
    zero_points = np.full(parts.shape[:2], blocks.middle, dtype=np.float32)
    for scale, zero in _candidates(parts, blocks):
        steps = _steps(parts, scale, zero, blocks)
        weighted = steps * importance
        products = np.einsum("obk,obk->ob", weighted, parts)
        squares = np.einsum("obk,obk->ob", weighted, steps)
        # With its best scale, products / squares, a block's error is smaller by this than its
        # power.
        gain = products * products / np.maximum(squares, 1e-30)
        fits = (gain > best) & (squares > 0) & (blocks.negative_scales | (products > 0))
        best = np.where(fits, gain, best)
        scales = np.where(fits, products / np.maximum(squares, 1e-30), scales)
        zero_points = np.where(fits, zero, zero_points)
    scales = as_half_holds(scales)
    levels = _steps(parts, scales, zero_points, blocks) + zero_points[..., None]
    return levels.astype(np.uint8), scales, zero_points.astype(np.uint8)


def _candidates(parts: Float32s, blocks: BlockFormat) -> Iterator[tuple[Float32s, Float32s]]:
    """Scales and zero points [outputs, blocks] that are tried."""
    low, high = parts.min(axis=-1), parts.max(axis=-1)
    if blocks.symmetric:
        largest = np.where(high >= -low, high, low)
        middle = np.full(largest.shape, blocks.middle, dtype=np.float32)
        for share in _SHARES:
            # The lowest level has no counterpart: the largest weight may be that one.
            yield _nonzero(np.abs(largest) / (share * (blocks.middle - 1))), middle
            if blocks.negative_scales:
                yield _nonzero(-largest / (share * blocks.middle)), middle
        return
    low, high = np.minimum(low, 0), np.maximum(high, 0)
    for share in _SHARES:
        scale = _nonzero((high - low) / (share * blocks.highest))
        exact = blocks.highest / 2 - (high + low) / 2 / scale
        yield scale, np.rint(exact).clip(0, blocks.highest).astype(np.float32)


def _nonzero(scales: Float32s) -> Float32s:
    tiny = np.float32(np.finfo(np.float32).tiny)
    return np.where(np.abs(scales) < tiny, np.float32(1), scales).astype(np.float32)


def _steps(parts: Float32s, scales: Float32s, zeros: Float32s, blocks: BlockFormat) -> Float32s:
    """Levels less the zero point, as floats."""
    steps = parts * np.reciprocal(scales)[..., None]
    np.rint(steps, out=steps)
    zeros = zeros[..., None]
    np.clip(steps, -zeros, blocks.highest - zeros, out=steps)
    return steps


def as_half_holds(scales: Float32s) -> Float32s:
    """The nearest numbers that float16 holds, none of them zero, where it serves them at all."""
    if not fits_half(scales):
        return scales
    nearest = scales.astype(np.float16).astype(np.float32)
    return np.where(nearest == 0, np.copysign(_MIN_HALF, scales), nearest).astype(np.float32)


def linear_weight(node: ir.Node) -> Float32s:
    """The constant weight of a MatMul, or of a Gemm without factors, as [inputs, outputs].

    Raises:
        ValueError: the node is another one.
    """
    weight = node.inputs[1] if len(node.inputs) > 1 else None
    if node.op_type not in ("MatMul", "Gemm") or weight is None:
        raise ValueError(f"{node.name} is a {node.op_type}, expected a MatMul or Gemm of a weight")
    values = weight_values(weight)
    if node.op_type == "MatMul":
        return values
    factors = [node.attributes.get_float(name, 1.0) for name in ("alpha", "beta")]
    if factors != [1.0, 1.0] or node.attributes.get_int("transA", 0) != 0:
        raise ValueError(f"{node.name} scales or transposes, expected a plain Gemm")
    return values.T if node.attributes.get_int("transB", 0) != 0 else values


def replace_with_matmul_nbits(
    graph: ir.Graph,
    node: ir.Node,
    weight: BlockWeight,
    *,
    accuracy_level: int = 0,
    half_scales: bool = False,
) -> ir.Value:
    """Put MatMulNBits in the place of a MatMul or Gemm, in place; a Gemm's bias is added behind.

    Its weight becomes unused: call `drop_unused` in the end.

    Args:
        graph: a graph whose products are float32; a pass to float16 may follow.
        node: the product, with the weight that `linear_weight` gave.
        weight: the same in blocks.
        accuracy_level: 0 is ONNX Runtime's choice; INT8_ACTIVATIONS is the fastest on a CPU.
        half_scales: whether scales are stored as float16, where they fit (see `block_scales`).

    Returns:
        The product, which has the name of what it replaces.
    """
    insertion = Insertion(graph, _scope(node), before=node)
    inputs = [
        node.inputs[0],
        insertion.constant(weight.packed(), "blocks"),
        block_scales(insertion, weight.scales, as_half=half_scales),
    ]
    if not weight.format.symmetric:
        inputs.append(insertion.constant(weight.packed_zero_points(), "block_zero"))
    attributes = {
        "K": weight.inputs,
        "N": weight.outputs,
        "bits": weight.format.bits,
        "block_size": weight.format.size,
        **({"accuracy_level": accuracy_level} if accuracy_level else {}),
    }
    output = node.outputs[0]
    dtype = output.dtype or ir.DataType.FLOAT
    # Passes that follow know operators by their layer's name.
    name = str(node.name).rpartition("/")[2]
    product = insertion.op("MatMulNBits", inputs, dtype, attributes, name=name)
    product.shape = output.shape
    if node.op_type == "Gemm" and len(node.inputs) > 2 and node.inputs[2] is not None:
        product = insertion.op("Add", [product, node.inputs[2]], dtype)
        product.shape = output.shape
    replace_node(graph, node, product)
    return product


def block_scales(insertion: Insertion, scales: Float32s, *, as_half: bool) -> ir.Value:
    """Scales as a float32 constant; if `as_half`, and float16 holds them, behind a Cast from it.

    ONNX Runtime computes that once, when it loads the graph: half the bytes, the same numbers.
    """
    if not as_half or not fits_half(scales):
        return insertion.constant(scales, "block_scale")
    stored = insertion.constant(scales.astype(np.float16), "block_scale")
    floats = ir.DataType.FLOAT
    return insertion.op("Cast", [stored], floats, {"to": floats}, name="CastScale")


def dequantize_in_blocks(graph: ir.Graph, node: ir.Node, weight: BlockWeight) -> ir.Value:
    """Put a weight in blocks, behind DequantizeLinear, into a MatMul or Gemm, in place.

    The graph becomes opset 21. A Gemm that transposes its weight does so no more.

    Returns:
        What the product now reads as its weight, [inputs, outputs].

    Raises:
        ValueError: its inputs are not whole blocks, as TensorRT wants them.
    """
    blocks = weight.format
    if weight.inputs % blocks.size:
        raise ValueError(f"{weight.inputs} inputs in blocks of {blocks.size}: one is not whole")
    rows = weight.levels.reshape(weight.outputs, -1).T
    middle = blocks.middle if blocks.symmetric else 0
    dtypes = {4: (ml_dtypes.int4, ml_dtypes.uint4), 8: (np.int8, np.uint8)}
    dtype = dtypes[blocks.bits][not blocks.symmetric]
    levels = np.ascontiguousarray((rows.astype(np.int16) - middle).astype(dtype))
    insertion = Insertion(graph, _scope(node), before=node)
    inputs = [
        insertion.constant(levels, f"int{blocks.bits}"),
        insertion.constant(np.ascontiguousarray(weight.scales.T), "block_scale"),
    ]
    if not blocks.symmetric:
        zero_points = np.ascontiguousarray(weight.zero_points.T.astype(dtype))
        inputs.append(insertion.constant(zero_points, "block_zero"))
    attributes = {"axis": 0, "block_size": blocks.size}
    floats = node.outputs[0].dtype or ir.DataType.FLOAT
    value = insertion.op("DequantizeLinear", inputs, floats, attributes)
    node.replace_input_with(1, value)
    if node.op_type == "Gemm":
        node.attributes["transB"] = ir.AttrInt64("transB", 0)
    graph.opset_imports[""] = max(graph.opset_imports.get("", 0), BLOCKS_OPSET)
    return value


def _scope(node: ir.Node) -> str:
    return str(node.name).rpartition("/")[0] or str(node.name)
