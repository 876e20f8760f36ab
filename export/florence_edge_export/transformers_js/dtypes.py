"""The dtypes of transformers.js, as passes over float32 graphs; all keep float32 at their doors.

    fp16    float16 inside, with the float32 islands of the bundles (see fp16.py)
    q8, q4  weights alone in blocks of 8 or 4 bits: MatMulNBits (com.microsoft) for products, which
            runs on a CPU, in WASM and on WebGPU; the embedding has 8 bits and standard operators
    q4f16   both

Convolutions, norms and tables of positions stay float.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from florence_edge_calibration import Float32s
from florence_edge_calibration.fp16 import convert_to_float16, with_layers
from florence_edge_calibration.graph_edit import (
    Insertion,
    drop_unused,
    replace_node,
    weight_values,
)
from florence_edge_calibration.quantization.blockwise import (
    BlockFormat,
    BlockWeight,
    linear_weight,
    quantize_blocks,
    replace_with_matmul_nbits,
)
from florence_edge_calibration.quantization.gptq import quantize_by_inputs

_WEIGHT = ".weight"
_PLACES = {"MatMul": 1, "Gemm": 1, "Gather": 0}  # of the weight among a node's inputs
_CROSS = re.compile(r"^text_encoder/cross\.(\d+)/")


@dataclass(frozen=True, slots=True)
class Blocks:
    """How a graph's weights are stored: in `usual` blocks, but for some linears.

    `others` has by the checkpoint's name what differs: another format, or None for float.
    """

    usual: BlockFormat
    others: Mapping[str, BlockFormat | None] = field(default_factory=dict)

    def of(self, linear: str) -> BlockFormat | None:
        """How a linear is stored."""
        return self.others.get(linear, self.usual)


def to_float16(model: ir.Model, lifted: Collection[str] = ()) -> None:
    """Turn a graph into float16 between float32 doors, in place.

    Args:
        model: a float32 graph.
        lifted: operators of our own three graphs that float16 does not serve (see overflow.py).
    """
    here = {_CROSS.sub(r"decoder/layers.\1/encoder_attn/", name) for name in lifted}
    operators = with_layers(here, model.graph) if here else frozenset()
    convert_to_float16(model, frozenset(), lifted=operators, exchanged=True)


def to_blocks(
    model: ir.Model,
    blocks: Blocks,
    grams: Mapping[str, Float32s] | None = None,
    *,
    accuracy_level: int = 0,
) -> None:
    """Store the weights of a graph's products and its embedding in blocks, in place.

    Args:
        model: a float32 graph.
        blocks: which weights in which format.
        grams: Gram matrices of what linears read, by name, where it was observed: weights of 4 bits
            are rounded by them (gptq.py).
        accuracy_level: of MatMulNBits.
    """
    graph = model.graph
    for node, name in list(named_linears(graph)):
        form = blocks.of(name)
        if form is None:
            continue
        if node.op_type == "Gather":
            _gather_from_blocks(graph, node, form.size)
        else:
            weight = _in_blocks(linear_weight(node), form, (grams or {}).get(name))
            replace_with_matmul_nbits(graph, node, weight, accuracy_level=accuracy_level)
    drop_unused(graph)


def _in_blocks(values: Float32s, form: BlockFormat, gram: Float32s | None) -> BlockWeight:
    """A weight in blocks; in 8 bits nothing is left to gain from what it reads."""
    if gram is None or form.bits != 4:
        return quantize_blocks(values, form)
    return quantize_by_inputs(values, form, gram.astype(np.float64))


def named_linears(graph: ir.Graph) -> Iterator[tuple[ir.Node, str]]:
    """Products and lookups of words that read a weight of the checkpoint, with its name."""
    for node in graph:
        place = _PLACES.get(node.op_type)
        weight = None if place is None else node.inputs[place]
        if weight is None or not weight.is_initializer():
            continue
        name = str(weight.name)
        if name.endswith(_WEIGHT) and not name.endswith("positions.weight"):
            yield node, name.removesuffix(_WEIGHT)


def linear_size(node: ir.Node) -> int:
    """How many weights a product or lookup reads."""
    weight = node.inputs[_PLACES[node.op_type]]
    return 0 if weight is None or weight.const_value is None else weight.const_value.size


def _gather_from_blocks(graph: ir.Graph, node: ir.Node, size: int) -> None:
    """A lookup in int8 blocks in the place of one in [words, width], in place.

    By standard operators: onnxruntime-web's WASM has no GatherBlockQuantized. The table stays as it
    is where its width is not a number of whole blocks.
    """
    table, ids = node.inputs[:2]
    if table is None or ids is None:
        return
    values = weight_values(table)
    width = values.shape[1]
    if width % size:
        return
    form = BlockFormat(bits=8, size=size, negative_scales=True)
    weight = quantize_blocks(values.T, form)
    levels = (weight.levels.astype(np.int16) - form.middle).astype(np.int8)
    insertion = Insertion(graph, str(node.name).rpartition("/")[0], before=node)
    int8, floats = ir.DataType.INT8, ir.DataType.FLOAT
    words = insertion.op(
        "Gather", [insertion.constant(levels, "blocks"), ids], int8, name="GatherBlocks"
    )
    scales = insertion.op(
        "Gather",
        [insertion.constant(weight.scales[..., None], "block_scale"), ids],
        floats,
        name="GatherScales",
    )
    words = insertion.op("Cast", [words], floats, {"to": int(floats)})
    product = insertion.op("Mul", [words, scales], floats)
    shape = insertion.constant(np.array([0, 0, width], dtype=np.int64), "shape")
    output = insertion.op("Reshape", [product, shape], floats)
    output.shape = node.outputs[0].shape
    replace_node(graph, node, output)
