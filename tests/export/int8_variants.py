"""What int8 for TensorRT was chosen from: ways to quantize each graph, as changes of a model.

Scales are one number everywhere: what is moved does not hang on them.
"""

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import onnx_ir as ir

from florence_edge import contract
from florence_edge_calibration.fp16 import KEPT_IN_FLOAT32, SCORES, convert_to_float16
from florence_edge_calibration.graph_edit import (
    Insertion,
    LinearNode,
    by_activation,
    drop_unused,
    find_linears,
)
from florence_edge_calibration.quantization.calibration_table import CalibrationTable
from florence_edge_calibration.quantization.embedding import (
    embedding_names,
    quantize_embedding_by_rows,
)
from florence_edge_calibration.quantization.equalize import Choice, FoldTarget
from florence_edge_calibration.quantization.histogram import BINS, ChannelHistogram
from florence_edge_calibration.quantization.quantize import quantize_graph, quantize_qdq
from florence_edge_calibration.quantization.recipe import Recipe
from florence_edge_calibration.quantization.scales import quantize_weight
from florence_edge_calibration.quantization.weight_only import quantize_weights

Change = Callable[[str, ir.Model], None]
Chosen = Callable[[LinearNode], bool]
_FLOAT, _INT8 = ir.DataType.FLOAT, ir.DataType.INT8
_ATTENTION = ("q_proj", "k_proj", "v_proj", "proj", "out_proj")


def _all(linear: LinearNode) -> bool:
    return True


def _of_attention(linear: LinearNode) -> bool:
    return linear.name.rpartition(".")[2] in _ATTENTION


def half(name: str, model: ir.Model) -> None:
    """float16."""
    convert_to_float16(model, SCORES)


def for_gpus(name: str, model: ir.Model) -> None:
    """`--target tensorrt`."""
    table = CalibrationTable(
        model="", checkpoint="", image_size=0, pictures=0, prompts=0, activations={}
    )
    quantize_graph(name, model, table, Recipe(target="tensorrt"))


def qdq(name: str, model: ir.Model, *, islands: bool) -> None:
    """A pair for each linear, as for `--target portable`: with its float32 islands, or without."""
    kept = quantize_qdq(model.graph, _choices(model.graph, _all)) if islands else ()
    if not islands:
        quantize_qdq(model.graph, _choices(model.graph, _all))
    for embedding in embedding_names(model.graph):
        quantize_embedding_by_rows(model.graph, embedding)
    convert_to_float16(model, SCORES, kept=(*KEPT_IN_FLOAT32, *kept))


def shared(name: str, model: ir.Model, *, chosen: Chosen, both_sides: bool) -> None:
    """One pair for all linears that read a tensor; with `both_sides`, what they give is int8, too.

    For that the product has one scale, which its kernel applies, and those of the weight's channels
    are a Mul behind it.
    """
    graph = model.graph
    for choice in _choices(graph, chosen):
        first = choice.linears[0]
        insertion = Insertion(graph, first.scope, before=first.node)
        zero = insertion.constant(np.int8(0), "zero")
        scale = insertion.constant(np.float32(0.03), "scale")
        rounded = insertion.op(
            "QuantizeLinear", [first.activation, scale, zero], _INT8, name="RoundRead"
        )
        back = insertion.op("DequantizeLinear", [rounded, scale, zero], _FLOAT, name="Read")
        for linear in choice.linears:
            _product(graph, linear, back, zero, both_sides=both_sides)
    drop_unused(graph)
    convert_to_float16(model, SCORES)


def weights_alone(name: str, model: ir.Model) -> None:
    """int8 weights, float16 activations."""
    quantize_weights(model.graph)
    convert_to_float16(model, SCORES)


def _product(
    graph: ir.Graph, linear: LinearNode, back: ir.Value, zero: ir.Value, *, both_sides: bool
) -> None:
    weight = quantize_weight(linear.weight_values(), linear.out_axis)
    insertion = Insertion(graph, linear.scope, before=linear.node)
    values = insertion.constant(weight.values, "int8")
    scales = weight.scales if not both_sides else np.float32(0.01)
    axis = {} if both_sides else {"axis": linear.out_axis}
    inputs = [values, insertion.constant(scales, "int8_scale")]
    linear.node.replace_input_with(0, back)
    linear.node.replace_input_with(1, insertion.op("DequantizeLinear", inputs, _FLOAT, axis))
    if not both_sides:
        return
    given = linear.node.outputs[0]
    readers, nodes = list(given.uses()), list(graph)
    behind = Insertion(graph, linear.scope, before=nodes[nodes.index(linear.node) + 1])
    scale = behind.constant(np.float32(0.05), "given_scale")
    rounded = behind.op("QuantizeLinear", [given, scale, zero], _INT8, name="RoundGiven")
    found = behind.op("DequantizeLinear", [rounded, scale, zero], _FLOAT, name="Given")
    channels = behind.constant(weight.scales / np.float32(0.01), "channels")
    scaled = behind.op("Mul", [found, channels], _FLOAT, name="ScaleChannels")
    for reader, index in readers:
        reader.replace_input_with(index, scaled)


def _choices(graph: ir.Graph, chosen: Chosen) -> list[Choice]:
    groups = [list(filter(chosen, group)) for group in by_activation(find_linears(graph)).values()]
    return [
        Choice(
            linears=tuple(group),
            fold_target=FoldTarget.NOWHERE,
            shifts=np.zeros(group[0].channels, dtype=np.int64),
            limit=4.0,
            histogram=_EMPTY,
            error=0.0,
            plain_error=0.0,
        )
        for group in groups
        if group
    ]


_EMPTY = ChannelHistogram(
    min_values=np.zeros(1, np.float32),
    max_values=np.zeros(1, np.float32),
    counts=np.zeros((1, BINS), np.int64),
)
_COMMON: Mapping[str, Change] = {"fp16": half, "int8, target tensorrt": for_gpus}
_ENCODERS: Mapping[str, Change] = {
    **_COMMON,
    "int8, target portable": partial(qdq, islands=True),
    "every linear, no islands": partial(qdq, islands=False),
    "int8 weights alone": weights_alone,
}
VARIANTS: Mapping[str, Mapping[str, Change]] = {
    contract.VISION_ENCODER: {
        **_ENCODERS,
        "attention's linears, shared Q": partial(shared, chosen=_of_attention, both_sides=False),
        "attention's linears, int8 on both sides": partial(
            shared, chosen=_of_attention, both_sides=True
        ),
    },
    contract.TEXT_ENCODER: _ENCODERS,
    contract.DECODER: _COMMON,
}
