"""int8 for the encoders: choices become QuantizeLinear/DequantizeLinear pairs, or integer products.

Portable (TensorRT, ONNX Runtime on CPU and CUDA): symmetric, zero point 0, weights per output
channel, biases float. For ONNX Runtime's CPU alone: its integer product, with unsigned activations
whose range need not be symmetric, which x86 multiplies fastest.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import onnx_ir as ir

from .clipping import LEVELS
from .equalize import Choice, Place, fold
from .linears import Linear, scopes
from .rewrite import Insertion, drop_unused, replace_node
from .scales import Quantized, quantize_weight, representable

_FLOAT, _INT8, _UINT8 = ir.DataType.FLOAT, ir.DataType.INT8, ir.DataType.UINT8


def quantize_portably(graph: ir.Graph, choices: Sequence[Choice]) -> tuple[str, ...]:
    """Put Q/DQ pairs around the choices' linears, in place.

    Returns:
        Patterns over the names of nodes that are best left float32 by a pass to float16: the
        products with their biases, whose integer kernels give float32 (see half.py).
    """
    _fold_all(graph, choices)
    for choice in choices:
        first = choice.linears[0]
        equalized = _equalized(Insertion(graph, first.scope, before=first.node), choice)
        for linear in choice.linears:
            weight = _dequantized(graph, linear, _quantized_weight(linear, choice))
            linear.node.replace_input_with(0, _rounded(graph, linear, equalized, choice.limit))
            linear.node.replace_input_with(1, weight)
    drop_unused(graph)
    return scopes([linear for choice in choices for linear in choice.linears])


def quantize_for_cpu(graph: ir.Graph, choices: Sequence[Choice]) -> None:
    """Replace the choices' matrix products with ONNX Runtime's integer ones, in place.

    Convolutions stay float: ONNX Runtime has no integer convolution that gives floats.
    """
    products = [choice for choice in choices if choice.linears[0].node.op_type == "MatMul"]
    _fold_all(graph, products)
    for choice in products:
        insertion = Insertion(graph, choice.linears[0].scope, before=choice.linears[0].node)
        low, high = _range(choice)
        step = max((high - low) / 255, 1e-9)
        scale = insertion.constant(np.float32(step), "scale")
        zero = insertion.constant(np.uint8(np.rint(-low / step)), "zero")
        steps = insertion.op("QuantizeLinear", [_equalized(insertion, choice), scale, zero], _UINT8)
        for linear in choice.linears:
            _integer_product(graph, linear, _quantized_weight(linear, choice), (steps, scale, zero))
    drop_unused(graph)


def _fold_all(graph: ir.Graph, choices: Iterable[Choice]) -> None:
    """Before any weight is rounded, because values are folded into weights."""
    for choice in choices:
        fold(choice, graph)


def _equalized(insertion: Insertion, choice: Choice) -> ir.Value:
    activation = choice.linears[0].activation
    if choice.place is not Place.MULTIPLY:
        return activation
    factors = insertion.constant(1 / choice.factors, "equalize")
    return insertion.op("Mul", [activation, factors], _FLOAT)


def _rounded(graph: ir.Graph, linear: Linear, activation: ir.Value, limit: float) -> ir.Value:
    """The activation by way of int8, for one linear.

    Others that read it get a pair of their own, though all say the same: ONNX Runtime's CPU
    multiplies unsigned numbers, and makes those only of a pair that nobody shares.
    """
    insertion = Insertion(graph, linear.scope, before=linear.node)
    scale = insertion.constant(representable(limit / LEVELS), "scale")
    zero = insertion.constant(np.int8(0), "zero")
    steps = insertion.op("QuantizeLinear", [activation, scale, zero], _INT8)
    return insertion.op("DequantizeLinear", [steps, scale, zero], _FLOAT)


def _quantized_weight(linear: Linear, choice: Choice) -> Quantized:
    values = linear.weight_values()
    if choice.place is not Place.NOWHERE:
        shape = [1] * values.ndim
        shape[linear.in_axis] = -1
        values = values * choice.factors.reshape(shape)
    return quantize_weight(values, linear.out_axis)


def _dequantized(graph: ir.Graph, linear: Linear, weight: Quantized) -> ir.Value:
    insertion = Insertion(graph, linear.scope, before=linear.node)
    return insertion.op(
        "DequantizeLinear",
        [
            insertion.constant(weight.values, "int8"),
            insertion.constant(weight.scales, "int8_scale"),
        ],
        _FLOAT,
        {"axis": linear.out_axis},
        name="DequantizeWeight",
    )


def _range(choice: Choice) -> tuple[float, float]:
    """The lowest and highest value that is not cut; zero lies between."""
    low = max(float(choice.seen.lows.min()), -choice.limit)
    high = min(float(choice.seen.highs.max()), choice.limit)
    return min(low, 0.0), max(high, 0.0)


def _integer_product(
    graph: ir.Graph,
    linear: Linear,
    weight: Quantized,
    activation: tuple[ir.Value, ir.Value, ir.Value],
) -> None:
    """MatMulIntegerToFloat in place of a MatMul and the Add of its bias."""
    steps, scale, zero = activation
    last = linear.bias or linear.node
    insertion = Insertion(graph, linear.scope, before=linear.node)
    product = insertion.op(
        "MatMulIntegerToFloat",
        [
            steps,
            insertion.constant(weight.values, "int8"),
            scale,
            insertion.constant(weight.scales, "int8_scale"),
            zero,
            None,
            linear.bias_value,
        ],
        _FLOAT,
    )
    product.shape = last.outputs[0].shape
    replace_node(graph, last, product)
