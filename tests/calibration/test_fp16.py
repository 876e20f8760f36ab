"""The half pass: what becomes float16, what stays float32, and how far answers move."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import pytest

from florence_edge import contract
from florence_edge_calibration.fp16 import (
    LARGEST_HALF,
    beyond_half,
    convert_to_float16,
    operator_of,
)
from florence_edge_export.checkpoint.loader import MINIATURE

from .half_errors import KINDS, Models, caches, export_both, half_errors, pixels, record

FLOAT, HALF = ir.DataType.FLOAT, ir.DataType.FLOAT16
_STATISTICS = ("LayerNormalization", "Softmax", "ReduceMean", "Exp")
_BARE = ("LayerNormalization", "Softmax")
_HEAVY = ("MatMul", "Gemm", "Conv", "Gather", "Gelu", "Transpose", "Pad", "Split", "TopK")

# Of the small ones each other is as telling, and costs two exports.
_SLOW = [name for name in KINDS if name not in ("tiny, outliers of 50", MINIATURE)]


_PLAIN = pytest.param("tiny", marks=pytest.mark.slow)


@pytest.fixture(scope="module", params=[_PLAIN, "tiny, outliers of 50", MINIATURE])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def models(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Models:
    folder: Path = tmp_path_factory.mktemp("half")
    return export_both(KINDS[kind], folder)


@pytest.fixture(scope="module")
def graphs(models: Models) -> dict[str, ir.Graph]:
    bundle = models["fp16"].bundle
    return {name: ir.load(bundle.graph_file(name)).graph for name in contract.GRAPHS}


def test_types_are_consistent(models: Models) -> None:
    for name in contract.GRAPHS:
        path = models["fp16"].bundle.graph_file(name)
        onnx.checker.check_model(str(path), full_check=True)
        model = onnx.load(path, load_external_data=False)
        onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)


def test_heavy_nodes_compute_in_float16_and_statistics_in_float32(
    graphs: dict[str, ir.Graph],
) -> None:
    for graph in graphs.values():
        for node in graph:
            wanted = HALF if node.op_type in _HEAVY else FLOAT
            if node.op_type in (*_HEAVY, *_STATISTICS) and not _is_bare(graph, node):
                floats = {value.dtype for value in node.inputs if value and _is_float(value)}
                floats |= {value.dtype for value in node.outputs if _is_float(value)}
                assert floats == {wanted}, node.name


def _is_bare(graph: ir.Graph, node: ir.Node) -> bool:
    """Norms and softmaxes of the vision encoder have no casts: `drop_island_casts`."""
    return graph.name == contract.VISION_ENCODER and node.op_type in _BARE


def test_the_vision_encoders_norms_and_softmaxes_have_no_casts(
    graphs: dict[str, ir.Graph],
) -> None:
    bare = [node for node in graphs[contract.VISION_ENCODER] if node.op_type in _BARE]
    in_half = [node for node in bare if node.outputs[0].dtype == HALF]
    assert len(in_half) > len(bare) / 2
    for node in in_half:
        assert {value.dtype for value in node.inputs if value} == {HALF}, node.name


def test_pixels_are_normalized_before_they_are_rounded(graphs: dict[str, ir.Graph]) -> None:
    nodes = [node for node in graphs["vision_encoder"] if "/normalize/" in str(node.name)]
    assert [node.op_type for node in nodes] == ["Cast", "Mul", "Sub"]
    assert {node.outputs[0].dtype for node in nodes} == {FLOAT}


def test_matrices_and_kernels_are_stored_as_float16(graphs: dict[str, ir.Graph]) -> None:
    for graph in graphs.values():
        for name, value in graph.initializers.items():
            assert value.shape is not None
            if value.dtype in (FLOAT, HALF) and len(value.shape) > 1:
                assert value.dtype == HALF, name


def test_no_weight_is_converted_while_running(graphs: dict[str, ir.Graph]) -> None:
    for graph in graphs.values():
        for node in graph:
            if node.op_type == "Cast":
                (value,) = node.inputs
                assert value is not None
                assert not value.is_initializer(), node.name


def test_no_cast_undoes_another_and_none_is_made_twice(graphs: dict[str, ir.Graph]) -> None:
    for graph in graphs.values():
        casts = [node for node in graph if node.op_type == "Cast"]
        keys = [(node.inputs[0], node.attributes["to"].as_int()) for node in casts]
        assert len(set(keys)) == len(keys)
        for node in casts:
            producer = node.inputs[0].producer() if node.inputs[0] else None
            assert producer is None or producer.op_type != "Cast", node.name


def test_names_are_those_of_the_float32_graphs(models: Models, graphs: dict[str, ir.Graph]) -> None:
    for name, graph in graphs.items():
        original = ir.load(models["fp32"].bundle.graph_file(name)).graph
        assert set(graph.initializers) == set(original.initializers)
        ours = {node.name for node in graph if node.op_type != "Cast"}
        assert ours == {node.name for node in original if node.op_type != "Cast"}


def test_weights_take_half_the_space(models: Models) -> None:
    sizes = {name: model.bundle.files["weights.bin"].bytes for name, model in models.items()}
    assert sizes["fp16"] < 0.51 * sizes["fp32"]


def test_features_and_caches_have_the_contracts_dtypes(models: Models) -> None:
    bundle = models["fp16"].bundle
    assert (bundle.precision, bundle.floats) == ("fp16", "float16")
    features = models["fp16"].backend.encode_image(pixels(bundle.size))
    assert features.dtype == np.float16
    found = caches(models["fp16"], features)
    assert {cache.dtype for cache in found.values()} == {np.dtype(np.float16)}


@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=pytest.mark.slow if kind in _SLOW else ()) for kind in KINDS],
    indirect=True,
    scope="module",
)
def test_every_output_is_finite_and_close(kind: str, models: Models) -> None:
    errors = half_errors(models)
    if os.environ.get("FLORENCE_EDGE_RECORD"):
        record(kind, errors)
    assert max(errors.values()) < KINDS[kind].tolerance, errors


@pytest.mark.parametrize("value", [1e9, -65536.0, float("inf"), float("nan")])
def test_a_node_with_a_weight_beyond_float16_stays_float32(value: float) -> None:
    weight = np.array([[value, 1e-9, 2.0]], dtype=np.float32)
    model = _linear(weight)
    (node,) = model.graph
    assert beyond_half(node)
    convert_to_float16(model, frozenset())
    tensor = model.graph.initializers["w"].const_value
    assert tensor is not None
    np.testing.assert_array_equal(tensor.numpy(), weight)
    assert [node.op_type for node in model.graph] == ["Cast", "MatMul", "Cast"]
    assert (model.graph.inputs[0].dtype, model.graph.outputs[0].dtype) == (HALF, HALF)


def test_float16s_largest_weight_is_float16() -> None:
    model = _linear(np.array([[LARGEST_HALF, -LARGEST_HALF]], dtype=np.float32))
    convert_to_float16(model, frozenset())
    assert model.graph.initializers["w"].dtype == HALF


def test_int8_weights_whose_scale_is_too_large_stay_float32() -> None:
    text = """(float[1, 2] x) => (float[1, 2] y)
    <int8[2, 2] q = {1, 2, 3, 4}, float s = {600.0}> {
        w = DequantizeLinear(q, s)
        y = MatMul(x, w)
    }"""
    model = _model(text)
    convert_to_float16(model, frozenset())
    dequantize = next(node for node in model.graph if node.op_type == "DequantizeLinear")
    assert dequantize.outputs[0].dtype == FLOAT  # 128 * 600 is more than 65,504


def test_what_is_lifted_stays_float32_under_both_decoders_names() -> None:
    model = _linear(np.ones((4, 4), dtype=np.float32))
    (node,) = model.graph
    node.name = "decoder/layers.0/self_attn/MatMul_node_25"
    assert operator_of(node) == "decoder/layers.0/self_attn/MatMul"
    convert_to_float16(model, frozenset(), lifted={"decoder/layers.0/self_attn/MatMul"})
    assert model.graph.initializers["w"].dtype == FLOAT


def test_what_graphs_exchange_may_stay_float32() -> None:
    model = _linear(np.ones((4, 4), dtype=np.float32))
    convert_to_float16(model, frozenset(), exchanged=True)
    assert model.graph.initializers["w"].dtype == HALF
    assert (model.graph.inputs[0].dtype, model.graph.outputs[0].dtype) == (FLOAT, FLOAT)
    assert _runs(model, x=np.ones((1, 4), np.float32))["y"].dtype == np.float32


def test_a_weight_that_both_sides_read_is_kept_in_both_types() -> None:
    model = _model(
        """(float[2, 4] x) => (float[2, 4] y, float[2, 4] z)
        <float[4] w = {1, 2, 3, 4}> {
            y = Mul(x, w)
            z = LayerNormalization(x, w)
        }"""
    )
    convert_to_float16(model, frozenset())
    types = [value.dtype for value in model.graph.initializers.values()]
    assert set(types) == {FLOAT, HALF}
    assert _runs(model, x=np.ones((2, 4), np.float16))["z"].dtype == np.float16


def test_outputs_that_stay_float32_keep_their_names() -> None:
    text = """(float[2, 4] x) => (float[2, 4] a, float[2, 4] b, float[2, 4] c) {
        a = Softmax(x)
        b = Relu(x)
        c = Softmax(b)
    }"""
    model = _model(text)
    convert_to_float16(model, frozenset({"a", "b"}))
    found = _runs(model, x=np.ones((2, 4), np.float16))
    assert {name: value.dtype for name, value in found.items()} == {
        "a": np.float32,
        "b": np.float32,
        "c": np.float16,
    }


def test_cheap_nodes_join_an_island_only_if_nobody_else_needs_them() -> None:
    text = """(float[2, 4] x, float[2, 4] r) => (float[2, 4] y, float[2, 4] z) {
        alone = Add(x, r)
        y = Softmax(alone)
        shared = Add(x, r)
        s = Softmax(shared)
        t = Relu(shared)
        z = Mul(s, t)
    }"""
    model = _model(text)
    convert_to_float16(model, frozenset())
    types = {str(node.outputs[0].name): node.outputs[0].dtype for node in model.graph}
    assert types["alone"] == FLOAT
    assert types["shared"] == HALF


def test_patterns_keep_nodes_in_float32() -> None:
    model = _linear(np.ones((4, 4), dtype=np.float32))
    (node,) = model.graph
    node.name = "decoder/lm_head/MatMul"
    convert_to_float16(model, frozenset(), kept=("decoder/lm_head/*",))
    assert model.graph.initializers["w"].dtype == FLOAT
    assert _runs(model, x=np.ones((1, 4), np.float16))["y"].dtype == np.float16


def _is_float(value: ir.Value) -> bool:
    return value.dtype in (FLOAT, HALF)


def _model(graph: str) -> ir.Model:
    header = '<ir_version: 9, opset_import: ["" : 20]>'
    parsed = onnx.parser.parse_model(f"{header} test {graph}")
    parsed = onnx.shape_inference.infer_shapes(parsed, strict_mode=True)
    return ir.from_proto(parsed)


def _linear(weight: npt.NDArray[np.float32]) -> ir.Model:
    inputs, outputs = weight.shape
    model = _model(
        f"(float[1, {inputs}] x, float[{inputs}, {outputs}] w) => (float[1, {outputs}] y)"
        " { y = MatMul(x, w) }"
    )
    value = model.graph.inputs.pop()
    value.const_value = ir.tensor(weight, name="w")
    model.graph.register_initializer(value)
    return model


def _runs(model: ir.Model, **inputs: npt.NDArray[Any]) -> dict[str, npt.NDArray[Any]]:
    onnxruntime = pytest.importorskip("onnxruntime")
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))
