"""Quantized graphs from a float bundle's, as a recipe says; the encoders' QDQ and integer products.

Activations of the encoders are quantized by the calibration table's choices (equalize.py), in one
of two forms. QDQ, pairs of QuantizeLinear and DequantizeLinear, is portable (OpenVINO, ONNX
Runtime, TensorRT): symmetric, zero point 0, weights per output channel, biases float. QOperator, in
ONNX Runtime's words, is for its CPU alone: its own integer product, with unsigned activations whose
range need not be symmetric, which x86 multiplies fastest. The target tensorrt has neither: there,
float16 encoders move fewer bytes (recipe.py). The decoder is weight_only.py's, and so are both text
models in int4.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np
import onnx_ir as ir

from florence_edge import contract
from florence_edge.bundle import Bundle
from florence_edge.errors import RequestError

from ..fp16 import KEPT_IN_FLOAT32, SCORES, convert_to_float16
from ..graph_edit import (
    Insertion,
    LinearNode,
    by_activation,
    drop_unused,
    find_linears,
    replace_node,
    scopes,
)
from .calibration_table import CalibrationTable
from .embedding import (
    embedding_name,
    embedding_names,
    embedding_nodes,
    position_nodes,
    quantize_embedding,
    quantize_positions,
)
from .equalize import Choice, FoldTarget, choose, fold
from .histogram import mean_squares
from .range_selection import LEVELS, METHODS
from .recipe import Recipe
from .scales import QuantizedWeight, quantize_weight, representable
from .weight_only import quantize_dynamically, quantize_in_blocks, quantize_weights

_INT4_IR_VERSION = 10  # of ONNX 1.16, the first with 4 bits

_FLOAT, _INT8, _UINT8 = ir.DataType.FLOAT, ir.DataType.INT8, ir.DataType.UINT8


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantization:
    """The graphs of an int8 or int4 bundle, and what was chosen for the encoders' activations."""

    graphs: Mapping[str, ir.Model]
    choices: tuple[Choice, ...]


def quantize(bundle: Bundle, table: CalibrationTable, recipe: Recipe) -> Quantization:
    """Quantize a float bundle.

    Raises:
        RequestError: the table is another model's, or a pattern matches no linear.
    """
    table.check(bundle)
    check_patterns(bundle, recipe)
    graphs = {name: ir.load(bundle.graph_file(name)) for name in contract.GRAPHS}
    choices: list[Choice] = []
    for name, model in graphs.items():
        choices += quantize_graph(name, model, table, recipe)
    return Quantization(graphs=graphs, choices=tuple(choices))


def check_patterns(bundle: Bundle, recipe: Recipe) -> None:
    """Refuse a recipe that keeps what is not there.

    Raises:
        RequestError: a pattern matches no linear and no table of the float bundle.
    """
    models = (ir.load(bundle.graph_file(name)) for name in contract.GRAPHS)
    names = [name for model in models for name in layer_names(model.graph)]
    for pattern in recipe.kept:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise RequestError(
                f"--keep {pattern} matches no layer. Layers are called like {names[0]}, and all of "
                f"a block is matched by '{names[0].rpartition('.')[0]}.*'."
            )


def quantize_graph(
    name: str, model: ir.Model, table: CalibrationTable, recipe: Recipe
) -> list[Choice]:
    """Quantize one graph of a float bundle, in place.

    Returns:
        What was chosen for each activation; nothing where weights alone are rounded.
    """
    linears = find_linears(model.graph)
    exact = [linear for linear in linears if recipe.kept_as(linear.name) == "fp32"]
    kept = frozenset(each.name for each in linears if recipe.kept_as(each.name) is not None)
    islands = (*KEPT_IN_FLOAT32, *scopes(exact), *_float32_lookups(model.graph, recipe))
    rounded = name == contract.VISION_ENCODER or (
        name == contract.TEXT_ENCODER and recipe.precision == "int8"
    )
    choices = _choose(linears, table, recipe) if rounded else []
    cpu = recipe.target == "cpu"
    for embedding in embedding_names(model.graph):
        if recipe.kept_as(embedding) is None:
            quantize_embedding(model.graph, embedding, recipe)
    quantize_positions(model.graph, recipe)
    if not rounded:
        _quantize_weights(model, table, recipe, kept)
    elif cpu:
        quantize_qoperator(model.graph, choices)
        if recipe.precision == "int4":
            quantize_weights(model.graph, kept)  # the convolutions
    else:
        islands += quantize_qdq(model.graph, choices)
    if not cpu and recipe.float16:
        convert_to_float16(
            model, SCORES, kept=islands, lifted=recipe.lifted, exchanged=recipe.exchanged
        )
    return choices


def _quantize_weights(
    model: ir.Model, table: CalibrationTable, recipe: Recipe, kept: frozenset[str]
) -> None:
    """Round the weights of the linears that are not kept, and no activation, in place."""
    graph = model.graph
    if recipe.precision == "int4":
        importance = {
            linear.name: mean_squares(table.activations[name])
            for name, group in by_activation(find_linears(graph)).items()
            if name in table.activations  # the decoder's are not observed
            for linear in group
        }
        quantize_in_blocks(graph, recipe, importance, kept)
        model.ir_version = max(model.ir_version, _INT4_IR_VERSION)
    elif recipe.target == "cpu":
        quantize_dynamically(graph, kept)
    else:
        quantize_weights(graph, kept)


def _choose(linears: Sequence[LinearNode], table: CalibrationTable, recipe: Recipe) -> list[Choice]:
    """For each activation, how the linears that read it and are not kept are quantized."""
    groups = {
        name: [linear for linear in group if recipe.kept_as(linear.name) is None]
        for name, group in by_activation(linears).items()
    }
    find_limit = METHODS[recipe.method]
    return [
        choose(group, table.activations[name], find_limit, equalize=recipe.equalize)
        for name, group in groups.items()
        if group
    ]


def _float32_lookups(graph: ir.Graph, recipe: Recipe) -> tuple[str, ...]:
    """Names of the nodes that read a table which stays float32."""
    return tuple(
        str(node.name)
        for node, table in [*embedding_nodes(graph), *position_nodes(graph)]
        if recipe.kept_as(embedding_name(table)) == "fp32"
    )


def layer_names(graph: ir.Graph) -> list[str]:
    """What can be quantized or kept: the embedding, position tables and linears."""
    positions = [embedding_name(table) for _, table in position_nodes(graph)]
    return [
        *embedding_names(graph),
        *positions,
        *(linear.name for linear in find_linears(graph)),
    ]


def quantize_qdq(graph: ir.Graph, choices: Sequence[Choice]) -> tuple[str, ...]:
    """Put QDQ pairs around the choices' linears, in place.

    Returns:
        Patterns over the names of nodes that are best left float32 by a pass to float16: the
        products with their biases, whose integer kernels give float32 (see fp16.py).
    """
    _fold_all(graph, choices)
    for choice in choices:
        first = choice.linears[0]
        equalized = _equalized(Insertion(graph, first.scope, before=first.node), choice)
        for linear in choice.linears:
            weight = _dequantized_weight(graph, linear, _quantized_weight(linear, choice))
            linear.node.replace_input_with(0, _qdq_pair(graph, linear, equalized, choice.limit))
            linear.node.replace_input_with(1, weight)
    drop_unused(graph)
    return scopes([linear for choice in choices for linear in choice.linears])


def quantize_qoperator(graph: ir.Graph, choices: Sequence[Choice]) -> None:
    """Replace the choices' matrix products with ONNX Runtime's integer ones, in place.

    Convolutions stay float: ONNX Runtime has no integer convolution that gives floats.
    """
    products = [choice for choice in choices if choice.linears[0].node.op_type == "MatMul"]
    _fold_all(graph, products)
    for choice in products:
        insertion = Insertion(graph, choice.linears[0].scope, before=choice.linears[0].node)
        low, high = _clipped_range(choice)
        step = max((high - low) / 255, 1e-9)
        scale = insertion.constant(np.float32(step), "scale")
        zero_point = insertion.constant(np.uint8(np.rint(-low / step)), "zero")
        activation = _equalized(insertion, choice)
        quantized = insertion.op("QuantizeLinear", [activation, scale, zero_point], _UINT8)
        for linear in choice.linears:
            weight = _quantized_weight(linear, choice)
            _integer_product(graph, linear, weight, (quantized, scale, zero_point))
    drop_unused(graph)


def _fold_all(graph: ir.Graph, choices: Iterable[Choice]) -> None:
    """Before any weight is rounded, because values are folded into weights."""
    for choice in choices:
        fold(choice, graph)


def _equalized(insertion: Insertion, choice: Choice) -> ir.Value:
    """The activation with its channels divided, by a Mul where that could not be folded."""
    activation = choice.linears[0].activation
    if choice.fold_target is not FoldTarget.MULTIPLY:
        return activation
    factors = insertion.constant(1 / choice.factors, "equalize")
    return insertion.op("Mul", [activation, factors], _FLOAT)


def _qdq_pair(graph: ir.Graph, linear: LinearNode, activation: ir.Value, limit: float) -> ir.Value:
    """The activation rounded by a pair of QuantizeLinear and DequantizeLinear, for one linear.

    Others that read it get a pair of their own, though all compute the same: ONNX Runtime's CPU
    multiplies unsigned numbers, and makes those only of a pair that nobody shares.
    """
    insertion = Insertion(graph, linear.scope, before=linear.node)
    scale = insertion.constant(representable(limit / LEVELS), "scale")
    zero_point = insertion.constant(np.int8(0), "zero")
    quantized = insertion.op("QuantizeLinear", [activation, scale, zero_point], _INT8)
    return insertion.op("DequantizeLinear", [quantized, scale, zero_point], _FLOAT)


def _quantized_weight(linear: LinearNode, choice: Choice) -> QuantizedWeight:
    """The weight in int8, multiplied by what the activation's channels are divided by."""
    values = linear.weight_values()
    if choice.fold_target is not FoldTarget.NOWHERE:
        shape = [1] * values.ndim
        shape[linear.in_axis] = -1
        values = values * choice.factors.reshape(shape)
    return quantize_weight(values, linear.out_axis, multiplied_along=linear.in_axis)


def _dequantized_weight(graph: ir.Graph, linear: LinearNode, weight: QuantizedWeight) -> ir.Value:
    insertion = Insertion(graph, linear.scope, before=linear.node)
    inputs = [
        insertion.constant(weight.values, "int8"),
        insertion.constant(weight.scales, "int8_scale"),
    ]
    axis = {"axis": linear.out_axis}
    return insertion.op("DequantizeLinear", inputs, _FLOAT, axis, name="DequantizeWeight")


def _clipped_range(choice: Choice) -> tuple[float, float]:
    """The lowest and highest value that is not clipped; zero lies between."""
    low = max(float(choice.histogram.min_values.min()), -choice.limit)
    high = min(float(choice.histogram.max_values.max()), choice.limit)
    return min(low, 0.0), max(high, 0.0)


def _integer_product(
    graph: ir.Graph,
    linear: LinearNode,
    weight: QuantizedWeight,
    activation: tuple[ir.Value, ir.Value, ir.Value],
) -> None:
    """MatMulIntegerToFloat in place of a MatMul and the Add of its bias.

    `activation` is quantized: its values, scale and zero point.
    """
    quantized, scale, zero_point = activation
    last = linear.bias or linear.node
    insertion = Insertion(graph, linear.scope, before=linear.node)
    inputs = [
        quantized,
        insertion.constant(weight.values, "int8"),
        scale,
        insertion.constant(weight.scales, "int8_scale"),
        zero_point,
        None,
        linear.bias_value,
    ]
    product = insertion.op("MatMulIntegerToFloat", inputs, _FLOAT)
    product.shape = last.outputs[0].shape
    replace_node(graph, last, product)
