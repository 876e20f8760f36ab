"""The embedding, quantized: what is looked up and the scores are those of the rounded words."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnxruntime
import pytest

from florence_edge_calibration.fp16 import convert_to_float16
from florence_edge_calibration.graph_edit import drop_unused
from florence_edge_calibration.quantization.blockwise import BlockFormat, quantize_blocks
from florence_edge_calibration.quantization.embedding import (
    quantize_embedding,
    quantize_embedding_by_rows,
    quantize_positions,
)
from florence_edge_calibration.quantization.observer import open_session
from florence_edge_calibration.quantization.recipe import Recipe, Target
from florence_edge_calibration.quantization.scales import quantize_weight

Array = npt.NDArray[Any]

FLOAT, INT8 = ir.DataType.FLOAT, ir.DataType.INT8
NAME = "decoder.shared"
OUTPUTS = frozenset({"y", "found"})  # the log-probabilities of all words, and the words looked up
WORDS, WIDTH = 13, 64
PACKED = BlockFormat(size=32, negative_scales=True)


def weights(words: int, width: int) -> tuple[Array, Array]:
    """An embedding, and a bias of the scores."""
    random = np.random.default_rng(0)
    table = random.standard_normal((words, width)).astype(np.float32)
    return table, random.standard_normal(words).astype(np.float32)


def lookup_and_scores(table: Array, bias: Array) -> ir.Model:
    """Both things that a decoder does with its embedding: x [N, width], ids [1, M] -> y, found."""
    words, width = table.shape
    model = ir.from_onnx_text(
        f'<ir_version: 9, opset_import: ["" : 20]> g (float[N, {width}] x, int64[1, M] ids, '
        f"float[{words}, {width}] w, float[{words}] b) "
        f"=> (float[N, {words}] y, float[1, M, {width}] found) "
        "{ z = Gemm<transB = 1>(x, w, b) y = LogSoftmax(z) found = Gather(w, ids) }"
    )
    graph = model.graph
    named = {"w": (f"{NAME}.weight", table), "b": ("decoder.final_logits_bias", bias)}
    for value in list(graph.inputs)[2:]:
        name, values = named[str(value.name)]
        graph.inputs.remove(value)
        value.name = name
        value.const_value = ir.tensor(values, name=name)
        graph.register_initializer(value)
    for node in graph:
        node.name = f"decoder/{node.op_type}"
        node.outputs[0].dtype = FLOAT
    return model


def constant(value: ir.Value) -> Array:
    assert value.const_value is not None
    found: Array = value.const_value.numpy()
    return found


def run(model: ir.Model, feeds: dict[str, Array]) -> tuple[Array, Array]:
    """As backends/ort.py opens decoders: else ONNX Runtime would round rows for blocks, too."""
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    session = onnxruntime.InferenceSession(
        ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    y, found = session.run(["y", "found"], feeds)
    return y, found


def check(
    model: ir.Model, rounded: Array, bias: Array, *, float16: bool = False, close: float = 1e-4
) -> None:
    """The graph looks up and scores what was rounded."""
    x = np.random.default_rng(1).standard_normal((5, rounded.shape[1])).astype(np.float32)
    ids = np.array([[0, 12]])
    feeds = {"x": x.astype(np.float16) if float16 else x, "ids": ids}
    y, found = run(model, feeds)
    scores = x @ rounded.T + bias
    expected = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(y, expected, atol=2e-2 if float16 else close)
    np.testing.assert_allclose(found, rounded[ids], atol=2e-3 if float16 else 1e-5)


@pytest.mark.parametrize(("words", "rows"), [(13, 16), (16, 16)])
@pytest.mark.parametrize("float16", [False, True])
def test_an_embedding_is_padded_to_whole_rows_and_gives_the_scores_of_words_alone(
    words: int, rows: int, float16: bool
) -> None:
    """TensorRT would pad the whole of it at each step, in float16."""
    table, bias = weights(words, 8)
    model = lookup_and_scores(table, bias)
    quantize_embedding_by_rows(model.graph, NAME)
    drop_unused(model.graph)
    if float16:
        convert_to_float16(model, OUTPUTS)
    tables = [each for each in model.graph.initializers.values() if each.dtype == INT8]
    assert {tuple(constant(each).shape) for each in tables} == {(rows, 8)}
    stored = quantize_weight(table, 0)
    check(model, stored.values * stored.scales[:, None], bias, float16=float16)


@pytest.mark.parametrize(("target", "close"), [("portable", 1e-4), ("cpu", 0.2)])
def test_in_blocks_lookup_and_scores_read_the_same_4_bits(target: Target, close: float) -> None:
    """For `cpu` what is scored is rounded to int8, too; and its scales are stored as float16."""
    table, bias = weights(WORDS, WIDTH)
    model = lookup_and_scores(table, bias)
    quantize_embedding(model.graph, NAME, Recipe(target=target, precision="int4"))
    blocks = quantize_blocks(table.T, PACKED)
    stored = {constant(each).tobytes() for each in model.graph.initializers.values()}
    assert blocks.packed().tobytes() in stored
    scales = blocks.scales.astype(np.float16 if target == "cpu" else np.float32)
    assert scales.tobytes() in stored
    large = [each for each in stored if len(each) >= blocks.packed().nbytes / 2]
    assert len(large) == 1 + 1, "blocks, and the levels of a byte; nothing is stored twice"
    check(model, blocks.dequantized().T, bias, close=close)


def test_for_tensorrt_blocks_stand_behind_dequantize_linear() -> None:
    table, bias = weights(WORDS, WIDTH)
    model = lookup_and_scores(table, bias)
    quantize_embedding(model.graph, NAME, Recipe(target="tensorrt", precision="int4"))
    drop_unused(model.graph)
    model.ir_version = 10  # the first with 4 bits
    constants = model.graph.initializers.values()
    shapes = {constant(each).shape for each in constants if each.dtype == ir.DataType.INT4}
    assert shapes == {(16, WIDTH)}, "a multiple of 8 rows, or TensorRT pads them"
    blocks = quantize_blocks(table.T, BlockFormat(size=64))
    check(model, blocks.dequantized().T, bias)


def test_blocks_that_do_not_divide_the_width_leave_the_embedding_int8() -> None:
    table, bias = weights(WORDS, 24)
    model = lookup_and_scores(table, bias)
    quantize_embedding(model.graph, NAME, Recipe(target="portable", precision="int4"))
    assert INT8 in {value.dtype for value in model.graph.initializers.values()}
    assert "MatMulNBits" not in {node.op_type for node in model.graph}


def test_positions_are_int8_with_a_scale_each() -> None:
    table, _ = weights(WORDS, WIDTH)
    table *= np.logspace(-3, 0, WORDS, dtype=np.float32)[:, None]
    model = ir.from_onnx_text(
        '<ir_version: 9, opset_import: ["" : 20]> g (int64[M] ids, '
        f"float[{WORDS}, {WIDTH}] w) => (float[M, {WIDTH}] found) {{ found = Gather(w, ids) }}"
    )
    graph = model.graph
    value = graph.inputs.pop()
    value.name, value.const_value = "decoder.embed_positions.weight", ir.tensor(table)
    graph.register_initializer(value)
    graph[0].outputs[0].dtype = FLOAT
    quantize_positions(graph, Recipe(target="cpu"))  # int8 has no room for that: 4 bits' is
    assert "decoder.embed_positions.weight" in graph.initializers
    quantize_positions(graph, Recipe(target="cpu", precision="int4"))
    (found,) = open_session(model, Path(), threads=1).run(None, {"ids": np.arange(WORDS)})
    errors = np.abs(found - table).max(axis=1)
    assert (errors <= np.abs(table).max(axis=1) / 127).all()
    assert "decoder.embed_positions.weight" not in graph.initializers


@pytest.mark.parametrize("target", ["portable", "cpu", "tensorrt"])
def test_location_tokens_have_8_bits_where_words_have_4(target: Target) -> None:
    """Looked up and scored in two parts; the first ends at a multiple of 8, as TensorRT wants."""
    table, bias = weights(WORDS, WIDTH)
    model = lookup_and_scores(table, bias)
    recipe = Recipe(target=target, precision="int4", locations_from=9)
    quantize_embedding(model.graph, NAME, recipe)
    drop_unused(model.graph)
    model.ir_version = 10
    blocks = BlockFormat(size=64) if target == "tensorrt" else PACKED
    words = quantize_blocks(table[:8].T, blocks).dequantized().T
    along = 1 if target == "cpu" else None
    stored = quantize_weight(table[8:], 0, multiplied_along=along)
    locations = stored.values * stored.scales[:, None]
    check(model, np.concatenate([words, locations]), bias, close=0.2 if target == "cpu" else 1e-4)
