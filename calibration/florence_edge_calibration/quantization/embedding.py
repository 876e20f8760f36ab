"""The embedding and the position tables: int8, or for int4 the embedding in blocks of 4 bits.

The embedding is stored once, for lookup and for the scores of all words. As int8 it has a scale per
word: [vocabulary, width] behind DequantizeLinear, or [width, vocabulary] as ONNX Runtime's product
wants it, where lookup gathers columns. In blocks it is behind DequantizeLinear, too, or it is
MatMulNBits' weight, whose rows lookup gathers and unpacks. A head that is not the embedding is
treated as one.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from .. import Float32s
from ..graph_edit import Insertion, drop_unused, replace_node, weight_values
from .blockwise import (
    BLOCKS_OPSET,
    INT8_ACTIVATIONS,
    BlockFormat,
    BlockWeight,
    block_scales,
    quantize_blocks,
    replace_with_matmul_nbits,
)
from .recipe import Recipe, Target
from .scales import quantize_weight
from .weight_only import weight_constants, whole_blocks

_FLOAT, _INT8 = ir.DataType.FLOAT, ir.DataType.INT8
# The embedding, and the head where a checkpoint has one of its own; and the two parts that
# `split_embedding` makes of either.
_WORDS, _LOCATIONS = ".words", ".locations"
_EMBEDDINGS = tuple(
    f"{name}{part}.weight" for name in (".shared", ".lm_head") for part in ("", _WORDS, _LOCATIONS)
)
_POSITIONS = ".embed_positions.weight"
# Which input of these operators is the embedding: the lookup of words, and the scores of all words.
_EMBEDDING_INPUT = {"Gather": 0, "Gemm": 1}
_ROWS = 8  # TensorRT's products in float16 want their sides to be multiples of it
# In blocks: zero points would have to be unpacked, too, and half a level is had without them.
_PACKED = BlockFormat(size=32, negative_scales=True)
_BLOCKS: Mapping[Target, BlockFormat] = {
    "tensorrt": BlockFormat(size=64),
    "cpu": _PACKED,
    "portable": _PACKED,
}


def embedding_nodes(graph: ir.Graph) -> list[tuple[ir.Node, ir.Value]]:
    """Nodes that read the embedding, with it: the lookup of words, and the scores of all words."""
    found = []
    for node in graph:
        place = _EMBEDDING_INPUT.get(node.op_type)
        embedding = None if place is None else node.inputs[place]
        if embedding is not None and str(embedding.name).endswith(_EMBEDDINGS):
            found.append((node, embedding))
    return found


def embedding_names(graph: ir.Graph) -> list[str]:
    """Names of the embeddings that a graph reads: one, none, or two where the head is its own."""
    return list(dict.fromkeys(embedding_name(value) for _, value in embedding_nodes(graph)))


def embedding_name(embedding: ir.Value) -> str:
    """The checkpoint's name of an embedding or a position table, e.g. `decoder.shared`."""
    return str(embedding.name).removesuffix(".weight")


def _nodes_of(graph: ir.Graph, name: str) -> list[tuple[ir.Node, ir.Value]]:
    """`embedding_nodes` of the embedding that is called so."""
    return [found for found in embedding_nodes(graph) if embedding_name(found[1]) == name]


def quantize_embedding(graph: ir.Graph, name: str, recipe: Recipe) -> None:
    """Look words up in, and score with, what a recipe makes of the embedding, in place.

    Where blocks do not divide its width, it is int8 in place of 4 bits.
    """
    width = weight_values(_nodes_of(graph, name)[0][1]).shape[1]
    blocks, cpu = _BLOCKS[recipe.target], recipe.target == "cpu"
    size = whole_blocks(width, blocks.size) if recipe.bits_of(name) == blocks.bits else None
    in_8_bits = quantize_embedding_by_columns if cpu else quantize_embedding_by_rows
    if size is None:
        in_8_bits(graph, name)
        return
    words = (recipe.locations_from or 0) // _ROWS * _ROWS
    if words:
        split_embedding(graph, name, words)
        in_8_bits(graph, f"{name}{_LOCATIONS}")
        name = f"{name}{_WORDS}"
    if recipe.target == "tensorrt":
        quantize_embedding_by_rows(graph, name, replace(blocks, size=size))
    else:
        quantize_embedding_in_blocks(graph, name, replace(blocks, size=size), for_cpu=cpu)


def split_embedding(graph: ir.Graph, name: str, first: int) -> None:
    """Look words up in, and score with, two embeddings, in place: rows before `first`, and others.

    They are called `<name>.words` and `<name>.locations`.
    """
    for node, embedding in _nodes_of(graph, name):
        values = weight_values(embedding)
        insertion = Insertion(graph, name, before=node)
        words = insertion.constant(values[:first], f"{_WORDS[1:]}.weight")
        locations = insertion.constant(values[first:], f"{_LOCATIONS[1:]}.weight")
        if node.op_type == "Gather":
            found = _look_up_in_two(insertion, node, (words, locations), first)
        else:
            found = _score_in_two(graph, node, (words, locations), first)
        found.shape = node.outputs[0].shape
        replace_node(graph, node, found)
    drop_unused(graph)


def _look_up_in_two(
    insertion: Insertion, node: ir.Node, tables: tuple[ir.Value, ir.Value], first: int
) -> ir.Value:
    """Each token's row, [B, L, width], of the table that has it."""
    ids, integers = node.inputs[1], ir.DataType.INT64
    limit, last_word, zero = (
        insertion.constant(np.int64(each), f"id{each}") for each in (first, first - 1, 0)
    )
    behind = insertion.op("Sub", [ids, limit], integers)
    places = (
        insertion.op("Min", [ids, last_word], integers, name="WordIds"),
        insertion.op("Max", [behind, zero], integers, name="LocationIds"),
    )
    rows = [
        insertion.op("Gather", [table, place], _FLOAT, name=f"Gather{number}")
        for number, (table, place) in enumerate(zip(tables, places, strict=True))
    ]
    are_words = insertion.op("Less", [ids, limit], ir.DataType.BOOL)
    axis = insertion.constant([-1], "last")
    chosen = insertion.op("Unsqueeze", [are_words, axis], ir.DataType.BOOL)
    return insertion.op("Where", [chosen, *rows], _FLOAT)


def _score_in_two(
    graph: ir.Graph, node: ir.Node, tables: tuple[ir.Value, ir.Value], first: int
) -> ir.Value:
    """The scores of all tokens, [N, vocabulary]."""
    scope, bias = str(node.name).rpartition("/")[0], node.inputs[2]
    if bias is None:
        raise ValueError(f"{node.name} has no bias, expected the logits' own")
    biases = np.split(weight_values(bias), [first])
    scores = []
    for table, values, part in zip(tables, biases, (_WORDS, _LOCATIONS), strict=True):
        insertion = Insertion(graph, f"{scope}/{part[1:]}", before=node)
        inputs = [node.inputs[0], table, insertion.constant(values, "bias")]
        product = insertion.op("Gemm", inputs, _FLOAT, {"transB": 1})
        product.name = f"{product.name}.scores"  # what replaces a product is called after its node
        scores.append(product)
    insertion = Insertion(graph, scope, before=node)
    return insertion.op("Concat", scores, _FLOAT, {"axis": 1})


def quantize_embedding_by_rows(
    graph: ir.Graph, name: str, blocks: BlockFormat | None = None
) -> None:
    """Look words up in, and score with, int8 or int4 [vocabulary, width], in place.

    The whole embedding stands behind DequantizeLinear, also for lookup: TensorRT takes no int8
    constant elsewhere, not even in a Gather. It makes one kernel of the two, which reads the rows
    that are looked up and writes nothing else; ONNX Runtime folds them on a GPU (backends/ort.py).
    The table gets rows of zeros up to a multiple of `_ROWS`, and their scores are cut off: with
    Florence-2's 51,289 words TensorRT would write the whole of it out in float16 at each step, to
    pad it (results/tensorrt/int8_plans.json).

    Args:
        graph: a float32 graph, which becomes opset 21 for blocks.
        name: of the embedding.
        blocks: symmetric ones of 4 bits that its width consists of; None is int8, with a scale a
            word.
    """
    nodes = _nodes_of(graph, name)
    values = weight_values(nodes[0][1])
    padding = -len(values) % _ROWS
    constants, attributes = _rows(np.pad(values, ((0, padding), (0, 0))), blocks)
    for node, _ in nodes:
        # Lookup and scores each have constants of their own; a bundle stores equal ones once.
        scope = f"{name}/{node.op_type.lower()}"
        insertion = Insertion(graph, scope, before=node)
        inputs = [insertion.constant(array, label) for label, array in constants.items()]
        words = insertion.op("DequantizeLinear", inputs, _FLOAT, attributes)
        node.replace_input_with(_EMBEDDING_INPUT[node.op_type], words)
        if padding and node.op_type == "Gemm":
            _cut_off(graph, node, scope, len(values), padding)
    if blocks is not None:
        graph.opset_imports[""] = max(graph.opset_imports.get("", 0), BLOCKS_OPSET)


def _rows(
    values: Float32s, blocks: BlockFormat | None
) -> tuple[dict[str, npt.NDArray[Any]], dict[str, int]]:
    """What DequantizeLinear reads by name, and its attributes."""
    if blocks is None:
        weight = quantize_weight(values, out_axis=0)
        return {"int8": weight.values, "int8_scale": weight.scales}, {"axis": 0}
    rounded = quantize_blocks(values.T, blocks)
    levels = rounded.levels.reshape(len(values), -1).astype(np.int8) - blocks.middle
    constants = {"int4": levels.astype(ml_dtypes.int4), "block_scale": rounded.scales}
    return constants, {"axis": 1, "block_size": blocks.size}


def _cut_off(graph: ir.Graph, scores: ir.Node, scope: str, words: int, padding: int) -> None:
    """Let a product with padded rows give the scores of words alone, [N, words]."""
    nodes = list(graph)
    insertion = Insertion(graph, scope, before=nodes[nodes.index(scores) + 1])
    bias = scores.inputs[2]
    if bias is not None:
        longer = insertion.constant(np.pad(weight_values(bias), (0, padding)), "padded_bias")
        scores.replace_input_with(2, longer)
    padded = scores.outputs[0]
    readers = list(padded.uses())
    limits = [insertion.constant([each], name) for each, name in ((0, "first"), (words, "words"))]
    axis = insertion.constant([1], "axis")
    cut = insertion.op("Slice", [padded, *limits, axis], _FLOAT)
    cut.shape, padded.shape = padded.shape, None
    for reader, index in readers:
        reader.replace_input_with(index, cut)
    if padded.is_graph_output():
        graph.outputs[graph.outputs.index(padded)] = cut
        cut.name, padded.name = padded.name, f"{padded.name}.padded"


def position_nodes(graph: ir.Graph) -> list[tuple[ir.Node, ir.Value]]:
    """Nodes that look positions up, with the table."""
    found = []
    for node in graph:
        table = node.inputs[0] if node.op_type == "Gather" else None
        if table is not None and str(table.name).endswith(_POSITIONS):
            found.append((node, table))
    return found


def quantize_positions(graph: ir.Graph, recipe: Recipe) -> None:
    """Look positions up in int8 [positions, width] with a scale each, in place.

    A table that the recipe keeps in float stays as it is.
    """
    for node, table in position_nodes(graph):
        if recipe.kept_as(embedding_name(table)) is not None:
            continue
        insertion = Insertion(graph, embedding_name(table), before=node)
        constants = weight_constants(insertion, quantize_weight(weight_values(table), out_axis=0))
        rows = insertion.op("DequantizeLinear", constants, _FLOAT, {"axis": 0})
        node.replace_input_with(0, rows)
    drop_unused(graph)


def quantize_embedding_by_columns(graph: ir.Graph, name: str) -> None:
    """Look words up in, and score with, int8 [width, vocabulary], in place."""
    for node, embedding in _nodes_of(graph, name):
        weight = quantize_weight(weight_values(embedding), out_axis=0, multiplied_along=1)
        insertion = Insertion(graph, embedding_name(embedding), before=node)
        columns = insertion.constant(weight.values.T.copy(), "columns")
        scales = insertion.constant(weight.scales, "scales")
        if node.op_type == "Gather":
            _look_up(graph, node, insertion, columns, scales)
        else:
            inputs = [node.inputs[0], columns, scales, None, node.inputs[2]]
            product = insertion.op("DynamicQuantizeMatMul", inputs, _FLOAT)
            product.shape = node.outputs[0].shape
            replace_node(graph, node, product)


def _look_up(
    graph: ir.Graph, node: ir.Node, insertion: Insertion, columns: ir.Value, scales: ir.Value
) -> None:
    """Columns of tokens [B, L], scaled: [B, L, width]."""
    ids = node.inputs[1]
    found = insertion.op("Gather", [columns, ids], _INT8, {"axis": 1})
    rows = insertion.op("Transpose", [found], _INT8, {"perm": [1, 2, 0]})
    steps = insertion.op("Cast", [rows], _FLOAT, {"to": _FLOAT})
    scale = insertion.op("Gather", [scales, ids], _FLOAT, name="GatherScale")
    last = insertion.constant([-1], "last")
    column = insertion.op("Unsqueeze", [scale, last], _FLOAT)
    replace_node(graph, node, insertion.op("Mul", [steps, column], _FLOAT))


def quantize_embedding_in_blocks(
    graph: ir.Graph, name: str, blocks: BlockFormat, *, for_cpu: bool
) -> None:
    """Look words up in, and score with, MatMulNBits' blocks [vocabulary, blocks, bytes], in place.

    Args:
        graph: a float32 graph.
        name: of the embedding.
        blocks: symmetric ones of 4 bits that its width consists of.
        for_cpu: whether it is for ONNX Runtime's CPU alone: its scales are stored as float16,
            and the rows that it scores are rounded to int8.
    """
    nodes = _nodes_of(graph, name)
    weight = quantize_blocks(weight_values(nodes[0][1]).T, blocks)
    for node, _ in nodes:
        if node.op_type == "Gather":
            _look_up_blocks(graph, node, name, weight, for_cpu=for_cpu)
        else:
            level = INT8_ACTIVATIONS if for_cpu else 0
            replace_with_matmul_nbits(
                graph, node, weight, accuracy_level=level, half_scales=for_cpu
            )
    drop_unused(graph)


def _look_up_blocks(
    graph: ir.Graph, node: ir.Node, name: str, weight: BlockWeight, *, for_cpu: bool
) -> None:
    """The rows of tokens [B, L], unpacked and scaled: [B, L, width].

    A table has both levels of each byte, so that operators suffice which every engine has. Blocks
    and scales have the bytes of MatMulNBits' own, which a bundle stores once.
    """
    insertion = Insertion(graph, name, before=node)
    middle, ids = weight.format.middle, node.inputs[1]
    levels = np.arange(256)[:, None] // np.array([1, 16]) % 16 - middle
    pairs = insertion.constant(levels.astype(np.float32), "pairs")
    packed = insertion.constant(weight.packed(), "blocks")
    scales = block_scales(insertion, weight.scales[..., None, None], as_half=for_cpu)
    found = insertion.op("Gather", [packed, ids], ir.DataType.UINT8, name="GatherBlocks")
    places = insertion.op("Cast", [found], ir.DataType.INT32, {"to": ir.DataType.INT32})
    steps = insertion.op("Gather", [pairs, places], _FLOAT, name="GatherPairs")
    scale = insertion.op("Gather", [scales, ids], _FLOAT, name="GatherScales")
    rows = insertion.op("Mul", [steps, scale], _FLOAT)
    shape = insertion.constant(np.array([0, 0, weight.inputs]), "shape")
    replace_node(graph, node, insertion.op("Reshape", [rows, shape], _FLOAT))
