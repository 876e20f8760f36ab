"""Quantized graphs: which operators and types, how close to float, and how small."""

import platform
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from florence_edge import contract
from florence_edge.bundle import Bundle
from florence_edge_calibration.graph_edit import find_linears
from florence_edge_calibration.quantization.calibration_table import CalibrationTable
from florence_edge_calibration.quantization.dataset import CalibrationSample
from florence_edge_calibration.quantization.quantize import quantize
from florence_edge_calibration.quantization.recipe import Recipe
from florence_edge_export.bundle_writer import save_graphs

from .int8_errors import Measured, pair_sums

Array = npt.NDArray[Any]
Graphs = dict[str, ir.Graph]

FLOAT, HALF, INT8, UINT8 = (
    ir.DataType.FLOAT,
    ir.DataType.FLOAT16,
    ir.DataType.INT8,
    ir.DataType.UINT8,
)
ENCODERS = (contract.VISION_ENCODER, contract.TEXT_ENCODER)
_ORT = {"DynamicQuantizeMatMul", "MatMulIntegerToFloat"}


@pytest.fixture(scope="module")
def portable(floats: Bundle, table: CalibrationTable) -> dict[str, ir.Model]:
    return dict(quantize(floats, table, Recipe(target="portable")).graphs)


@pytest.fixture(scope="module")
def for_cpu(floats: Bundle, table: CalibrationTable) -> dict[str, ir.Model]:
    return dict(quantize(floats, table, Recipe(target="cpu")).graphs)


@pytest.fixture(scope="module")
def measured(floats: Bundle, samples: list[CalibrationSample]) -> Measured:
    return Measured.by(floats, samples[:2])


def originals(floats: Bundle) -> Graphs:
    return {name: ir.load(floats.graph_file(name)).graph for name in contract.GRAPHS}


def constant(value: ir.Value | None) -> Array:
    assert value is not None
    assert value.const_value is not None, value.name
    found: Array = value.const_value.numpy()
    return found


def producer(value: ir.Value | None) -> ir.Node | None:
    return None if value is None else value.producer()


def behind_casts(value: ir.Value | None) -> ir.Node | None:
    node = producer(value)
    while node is not None and node.op_type == "Cast":
        node = producer(node.inputs[0])
    return node


# --- portable


def test_portable_graphs_are_standard_opset_20(portable: dict[str, ir.Model]) -> None:
    for model in portable.values():
        assert dict(model.graph.opset_imports) == {"": 20}
        assert {node.domain for node in model.graph} == {""}


@pytest.mark.parametrize("target", ["portable", "for_cpu"])
def test_types_are_consistent(target: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    graphs = request.getfixturevalue(target)
    save_graphs(tmp_path, {name: model.clone() for name, model in graphs.items()})
    for name in contract.GRAPHS:
        path = tmp_path / f"{name}.onnx"
        onnx.checker.check_model(str(path), full_check=target == "portable")
        model = onnx.load(path, load_external_data=False)
        onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=target == "portable")


def test_zero_points_are_zero_and_activations_symmetric_int8(
    portable: dict[str, ir.Model],
) -> None:
    for model in portable.values():
        for node in model.graph:
            if node.op_type == "QuantizeLinear":
                zero = constant(node.inputs[2])
                assert zero.dtype == np.int8
                assert zero == 0
                assert constant(node.inputs[1]).size == 1
            elif node.op_type == "DequantizeLinear" and len(node.inputs) > 2:
                assert not constant(node.inputs[2]).any()


def test_weights_are_int8_with_a_scale_for_each_output(
    portable: dict[str, ir.Model], floats: Bundle
) -> None:
    for name, model in portable.items():
        found = 0
        for node in model.graph:
            source = behind_casts(node.inputs[1]) if len(node.inputs) > 1 else None
            if node.op_type not in ("MatMul", "Conv") or source is None:
                continue
            if source.op_type != "DequantizeLinear" or producer(source.inputs[0]) is not None:
                continue
            weight, scales = constant(source.inputs[0]), constant(source.inputs[1])
            axis = source.attributes["axis"].as_int()
            assert weight.dtype == np.int8
            assert weight.min() >= -127
            assert axis == (0 if node.op_type == "Conv" else 1)
            assert scales.shape == (weight.shape[axis],)
            np.testing.assert_array_equal(scales.astype(np.float16), scales)
            found += 1
        assert found == len(find_linears(originals(floats)[name]))


def test_no_bias_stands_behind_a_dequantize(portable: dict[str, ir.Model]) -> None:
    """TensorRT refuses int32 there, which is what ONNX Runtime's own quantizer writes."""
    for model in portable.values():
        for node in model.graph:
            if node.op_type == "DequantizeLinear":
                assert node.inputs[0] is not None
                assert node.inputs[0].dtype == INT8, node.name
            if node.op_type in ("Conv", "Gemm") and len(node.inputs) > 2:
                bias = node.inputs[2]
                assert bias is not None
                assert bias.dtype in (FLOAT, HALF)
        kinds = {value.dtype for value in model.graph.initializers.values()}
        assert kinds <= {FLOAT, HALF, INT8, ir.DataType.INT64, ir.DataType.BOOL}


_FLOATING = ("LayerNormalization", "Softmax", "LogSoftmax", "ReduceMean", "Gelu")


def test_delicate_operators_stay_float(portable: dict[str, ir.Model], floats: Bundle) -> None:
    """Norms, softmax, attention's products, depthwise convolutions, the stem, positions."""
    for name, model in portable.items():
        linears = {linear.scope for linear in find_linears(originals(floats)[name])}
        for node in model.graph:
            quantized = [
                source
                for source in map(behind_casts, node.inputs)
                if source is not None and source.op_type == "DequantizeLinear"
            ]
            scope = str(node.name).rpartition("/")[0]
            if node.op_type in _FLOATING:
                assert not quantized, node.name
            if node.op_type in ("MatMul", "Conv") and scope not in linears:
                assert not quantized, node.name
            if node.op_type == "Add":
                assert not quantized, node.name


def test_what_stays_float_is_there(portable: dict[str, ir.Model], floats: Bundle) -> None:
    vision = portable[contract.VISION_ENCODER].graph
    convs = {
        str(node.name): behind_casts(node.inputs[1]) for node in vision if node.op_type == "Conv"
    }
    stem = [source for name, source in convs.items() if "/convs/0/" in name or "convs.0" in name]
    depthwise = [
        node
        for node in vision
        if node.op_type == "Conv"
        and "group" in node.attributes
        and node.attributes["group"].as_int() > 1
    ]
    patches = [s for s in convs.values() if s is not None and s.op_type == "DequantizeLinear"]
    assert stem == [None]
    assert len(depthwise) == 20  # four in each of five pairs of blocks
    assert all(behind_casts(node.inputs[1]) is None for node in depthwise)
    assert len(patches) == 3
    operators = Counter(node.op_type for node in vision)
    before = Counter(node.op_type for node in originals(floats)[contract.VISION_ENCODER])
    for kind in ("MatMul", "Conv", "Add", *_FLOATING):
        assert operators[kind] == before[kind], kind


def test_linears_that_read_one_tensor_round_it_alike_each_for_itself(
    portable: dict[str, ir.Model], floats: Bundle
) -> None:
    """ONNX Runtime's CPU has no integer product behind a pair that others read, too."""
    for name in ENCODERS:
        linears = find_linears(originals(floats)[name])
        nodes = {str(node.name): node for node in portable[name].graph}
        scales: dict[ir.Value, set[float]] = {}
        for linear in linears:
            rounds = nodes[f"{linear.scope}/QuantizeLinear"]
            (back,) = (user for user, _ in rounds.outputs[0].uses())
            assert [str(user.name) for user, _ in back.outputs[0].uses()] == [str(linear.node.name)]
            scale = rounds.inputs[1].const_value.numpy()  # type: ignore[union-attr]
            scales.setdefault(linear.activation, set()).add(float(scale))
        assert {len(found) for found in scales.values()} == {1}
        assert len(scales) < len(linears)


@pytest.mark.parametrize("name", ENCODERS)
def test_onnx_runtime_multiplies_every_portable_product_in_integers(
    portable: dict[str, ir.Model], floats: Bundle, name: str, tmp_path: Path
) -> None:
    if platform.machine() != "x86_64":
        pytest.skip("what is fused depends on the processor")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # The levels above choose a layout for one processor, and some of that cannot be saved.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    ir.save(portable[name], tmp_path / "portable.onnx", external_data="portable.data")
    onnxruntime.InferenceSession(str(tmp_path / "portable.onnx"), options)
    optimized = onnx.load(tmp_path / "optimized.onnx")
    found = Counter(node.op_type for node in optimized.graph.node)
    linears = find_linears(originals(floats)[name])
    products = sum(linear.node.op_type == "MatMul" for linear in linears)
    assert found["MatMulIntegerToFloat"] == products


def test_the_decoders_activations_are_not_rounded(portable: dict[str, ir.Model]) -> None:
    operators = Counter(node.op_type for node in portable[contract.DECODER].graph)
    assert operators["QuantizeLinear"] == 0
    assert operators["DequantizeLinear"] > 0


def test_inputs_and_outputs_are_the_contracts(
    portable: dict[str, ir.Model], floats: Bundle
) -> None:
    expected = contract.graphs(floats.size, "float16")
    for name, model in portable.items():
        assert [v.name for v in model.graph.inputs] == [t.name for t in expected[name].inputs]
        assert [v.name for v in model.graph.outputs] == [t.name for t in expected[name].outputs]


# --- cpu


def test_the_cpu_target_uses_few_operators_of_onnx_runtimes_own(
    for_cpu: dict[str, ir.Model], floats: Bundle
) -> None:
    before = originals(floats)
    for name, model in for_cpu.items():
        own = {node.op_type for node in model.graph if node.domain}
        assert own <= _ORT
        known = {node.op_type for node in before[name]} | _ORT
        added = {node.op_type for node in model.graph} - known
        assert added <= {"QuantizeLinear", "Mul", "Cast", "Transpose", "Unsqueeze", "Gather"}
        assert model.graph.opset_imports[""] == 20


def test_the_cpu_target_multiplies_encoders_statically_and_the_decoder_dynamically(
    for_cpu: dict[str, ir.Model], floats: Bundle
) -> None:
    for name, model in for_cpu.items():
        operators = Counter(node.op_type for node in model.graph)
        products = [
            each for each in find_linears(originals(floats)[name]) if each.node.op_type == "MatMul"
        ]
        static, dynamic = operators["MatMulIntegerToFloat"], operators["DynamicQuantizeMatMul"]
        if name == contract.DECODER:
            assert (static, dynamic) == (0, len(products) + 1)  # and the scores of all words
        else:
            assert (static, dynamic) == (len(products), 0)


def test_the_cpu_targets_activations_are_unsigned(for_cpu: dict[str, ir.Model]) -> None:
    for model in for_cpu.values():
        for node in model.graph:
            if node.op_type == "QuantizeLinear":
                assert constant(node.inputs[2]).dtype == np.uint8
                assert constant(node.inputs[1]) > 0


# --- numbers


@pytest.mark.parametrize("target", ["portable", "for_cpu"])
def test_both_encoders_stay_close_to_float(
    target: str, request: pytest.FixtureRequest, floats: Bundle, measured: Measured
) -> None:
    for name in ENCODERS:
        model = request.getfixturevalue(target)[name]
        assert 1e-4 < measured.error(floats, name, model) < 0.08


def test_bundles_shrink(
    portable: dict[str, ir.Model], for_cpu: dict[str, ir.Model], floats: Bundle, tmp_path: Path
) -> None:
    # The patch convolutions stay float32 for the cpu; in tiny they are a tenth of the weights.
    for name, graphs, share in (("portable", portable, 0.36), ("cpu", for_cpu, 0.46)):
        (tmp_path / name).mkdir()
        save_graphs(tmp_path / name, {graph: model.clone() for graph, model in graphs.items()})
        size = (tmp_path / name / "weights.bin").stat().st_size
        assert size < share * floats.files["weights.bin"].bytes, name


# --- every processor


@pytest.mark.parametrize("target", ["portable", "for_cpu"])
def test_weights_of_integer_products_leave_no_room_to_saturate(
    target: str, request: pytest.FixtureRequest
) -> None:
    """Whatever the activations: 255 * |w1 + w2| of the pairs that vpmaddubsw adds in 16 bits."""
    checked = 0
    for name, model in request.getfixturevalue(target).items():
        for node in model.graph:
            axis = _axis_of_inputs(node) if name in ENCODERS or target == "for_cpu" else None
            if axis is not None:
                steps = constant(node.inputs[0 if node.op_type == "DequantizeLinear" else 1])
                assert pair_sums(steps, axis).max() <= 32767 // 255, node.name
                checked += 1
    assert checked > len(ENCODERS)


def _axis_of_inputs(node: ir.Node) -> int | None:
    """Along which axis a node's int8 weight is multiplied by activations; None if it has none."""
    if node.op_type in _ORT:
        return 0
    if node.op_type == "DequantizeLinear" and str(node.name).endswith("/DequantizeWeight"):
        return 1 if len(constant(node.inputs[0]).shape) == 4 else 0
    return None
