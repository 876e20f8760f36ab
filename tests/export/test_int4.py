"""int4: weights in blocks in the text models, for each target; what base has on disk.

With FLORENCE_EDGE_RECORD=1, base's sizes are written to results/int8/int4_base.json.
"""

import json
import os
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from tokenizers import Tokenizer as TokenizerFile

from florence_edge import Florence2, contract
from florence_edge.backends.open import open_engine
from florence_edge.bundle import FIDELITY, TOKENIZER, Bundle
from florence_edge.errors import BackendError, FlorenceEdgeError, RequestError
from florence_edge_calibration.graph_edit import by_activation, find_linears
from florence_edge_calibration.quantization import blockwise
from florence_edge_calibration.quantization.calibration_table import CalibrationTable, empty_table
from florence_edge_calibration.quantization.dataset import no_progress, scene_samples
from florence_edge_calibration.quantization.histogram import BINS, ChannelHistogram
from florence_edge_calibration.quantization.observer import calibrate, open_session
from florence_edge_calibration.quantization.quantize import check_patterns, quantize, quantize_graph
from florence_edge_calibration.quantization.recipe import (
    TARGETS,
    KeptPrecision,
    Recipe,
    Target,
    locations_from,
)
from florence_edge_calibration.scenes import draw_scene, generate_scenes
from florence_edge_export import synthetic
from florence_edge_export.bundle_writer import save_bundle
from florence_edge_export.export import ExportOptions, check_options, export, read_source
from florence_edge_export.quantization.export import (
    QuantizationOptions,
    form,
    quantize_graphs,
)

from ..helpers.circumstances import circumstances

ROOT = Path(__file__).parents[2]
RECORD = ROOT / "results" / "int8" / "int4_base.json"
PLANS = ROOT / "results" / "tensorrt" / "int8_plans.json"
GPU_AND_PORTABLE: tuple[Target, Target] = ("tensorrt", "portable")
COMMAND = "FLORENCE_EDGE_RECORD=1 python -m pytest -m slow tests/export/test_int4.py -k base"
TEXT = (contract.TEXT_ENCODER, contract.DECODER)
LARGEST_SHARE = 0.2  # of float32's bytes
# Of the published base, whose tokenizer random weights have not.
TOKENIZER_BYTES = 3_750_000
LOCATIONS_FROM = 50_269
PICTURES = 8
EMBEDDING: dict[Target, str] = {  # what lookup reads, behind the model's name
    "tensorrt": "shared.gather.int4",
    "cpu": "shared.blocks",
    "portable": "shared.blocks",
}
POSITIONS = "decoder.embed_positions"
BLOCK = "text_encoder.layers.0.fc"

Graphs = dict[str, ir.Model]


@pytest.fixture(scope="module")
def quantized(tiny_bundle: Path) -> dict[Target, Graphs]:
    floats = Bundle.load(tiny_bundle)
    samples = scene_samples(2, image_size=floats.size.image_size)
    table = calibrate(floats, samples, no_progress, threads=1)
    recipes = {target: Recipe(target=target, precision="int4") for target in TARGETS}
    return {
        target: dict(quantize(floats, table, recipe).graphs) for target, recipe in recipes.items()
    }


def operators(model: ir.Model) -> set[str]:
    return {node.op_type for node in model.graph}


def weights_of_products(model: ir.Model) -> list[str]:
    """Linears whose weight is still float."""
    products = (node for node in model.graph if node.op_type == "MatMul")
    weights = (value for node in products if (value := node.inputs[1]) is not None)
    return [str(value.name) for value in weights if value.is_initializer()]


def test_onnx_runtime_gets_its_own_products(quantized: dict[Target, Graphs]) -> None:
    for target in ("cpu", "portable"):
        for name in TEXT:
            model = quantized[target][name]
            products = [node for node in model.graph if node.op_type == "MatMulNBits"]
            assert products
            assert {node.attributes.get_int("bits") for node in products} == {4}
            levels = {node.attributes.get_int("accuracy_level", 0) for node in products}
            assert levels == ({4} if target == "cpu" else {0})
            assert weights_of_products(model) == []


def test_tensorrt_gets_blocks_behind_dequantize_linear(quantized: dict[Target, Graphs]) -> None:
    for name in TEXT:
        model = quantized["tensorrt"][name]
        assert {node.domain for node in model.graph} == {""}
        assert model.graph.opset_imports[""] >= 21
        assert weights_of_products(model) == []
        blocks = [node for node in model.graph if "block_size" in node.attributes]
        assert blocks
        for node in blocks:
            values, scales, *zero_points = node.inputs
            assert values is not None
            assert scales is not None
            assert values.dtype == ir.DataType.INT4
            assert zero_points == []  # TensorRT takes none
            assert scales.const_value is not None
            assert (scales.const_value.numpy() > 0).all()


def test_vision_is_an_int8_bundles(quantized: dict[Target, Graphs]) -> None:
    for target, graphs in quantized.items():
        found = operators(graphs[contract.VISION_ENCODER])
        assert "MatMulNBits" not in found
        assert ("MatMulIntegerToFloat" if target == "cpu" else "QuantizeLinear") in found


def test_what_vision_costs_tensorrt_is_said(quantized: dict[Target, Graphs]) -> None:
    ours, portable = (quantized[target][contract.VISION_ENCODER] for target in GPU_AND_PORTABLE)
    assert [node.op_type for node in ours.graph] == [node.op_type for node in portable.graph]
    plans = json.loads(PLANS.read_text("utf-8"))["plans"][contract.VISION_ENCODER]
    page = (ROOT / "docs" / "int8.md").read_text("utf-8")
    said = " ".join(page.partition("\n## int4\n")[2].partition("\n## ")[0].split())
    for way in ("int8, target portable", "fp16"):
        assert f"{plans[way]['megabytes']:,.0f} MB in {plans[way]['launches']}" in said


def test_the_embedding_has_4_bits_and_positions_have_8(quantized: dict[Target, Graphs]) -> None:
    """Both text models read the same bytes, which a bundle stores once."""
    tables = {}
    for target, graphs in quantized.items():
        for name in TEXT:
            values = graphs[name].graph.initializers
            positions = values[f"{name}.embed_positions.int8"]
            assert positions.dtype == ir.DataType.INT8
            looked_up = values[f"{name}.{EMBEDDING[target]}"].const_value
            assert looked_up is not None
            tables[target, name] = looked_up.tobytes()
        assert len({tables[target, name] for name in TEXT}) == 1


@pytest.mark.parametrize(
    ("kept", "expected"), [("fp16", ir.DataType.FLOAT16), ("fp32", ir.DataType.FLOAT)]
)
def test_position_tables_can_be_kept_in_float(
    tiny_bundle: Path, kept: KeptPrecision, expected: ir.DataType
) -> None:
    floats = Bundle.load(tiny_bundle)
    recipe = Recipe(target="portable", precision="int4", kept={POSITIONS: kept})
    check_patterns(floats, recipe)
    model = ir.load(floats.graph_file(contract.DECODER))
    quantize_graph(contract.DECODER, model, empty_table(floats), recipe)
    values = model.graph.initializers
    assert values[f"{POSITIONS}.weight"].dtype == expected
    assert f"{POSITIONS}.int8" not in values
    open_session(model, floats.folder, threads=1)  # ONNX Runtime takes it


def test_rows_of_locations_stand_out_where_the_vocabulary_ends_with_them(
    tiny_bundle: Path, miniature_bundle: Path
) -> None:
    found = [
        locations_from(TokenizerFile.from_file(str(bundle.folder / TOKENIZER)), words)
        for bundle in map(Bundle.load, (miniature_bundle, tiny_bundle))
        for words in [bundle.size.vocab_size]
    ]
    assert found == [1434, None]


def test_a_block_that_costs_too_much_becomes_int8_first() -> None:
    recipe = Recipe(target="portable", precision="int4")
    assert recipe.bits_of(f"{BLOCK}1") == 4
    assert recipe.lifted_to(BLOCK) == "int8"
    once = Recipe(target="portable", precision="int4", kept={f"{BLOCK}?": "int8"})
    assert once.bits_of(f"{BLOCK}1") == 8
    assert once.kept_as(f"{BLOCK}1") is None  # quantized all the same
    assert recipe.lifted_to("vision_encoder.blocks.0.0.channel_block.ffn") == "fp16"
    assert recipe.lifted_to("decoder.shared") == "int8"
    of_vision = "vision_encoder.convs.1"
    assert Recipe(target="cpu", precision="int4").lifted_to(of_vision) == "fp32"
    assert Recipe(target="portable").lifted_to(BLOCK) == "fp16"


@pytest.mark.parametrize("target", TARGETS)
def test_blocks_kept_in_int8_are_an_int8_bundles(tiny_bundle: Path, target: Target) -> None:
    floats = Bundle.load(tiny_bundle)
    table = empty_table(floats)
    recipe = Recipe(target=target, precision="int4", kept={"decoder.layers.0.*": "int8"})
    model = ir.load(floats.graph_file(contract.DECODER))
    quantize_graph(contract.DECODER, model, table, recipe)
    assert weights_of_products(model) == []
    first, other = (
        {node.op_type for node in model.graph if f"decoder/layers.{layer}/" in str(node.name)}
        for layer in (0, 1)
    )
    of_quantization = "DynamicQuantizeMatMul" if target == "cpu" else "DequantizeLinear"
    of_int4 = "DequantizeLinear" if target == "tensorrt" else "MatMulNBits"
    assert of_quantization in first
    assert "MatMulNBits" not in first
    assert of_int4 in other
    open_session(model, floats.folder, threads=1)  # ONNX Runtime takes it


def test_tensorrt_does_not_run_what_onnx_runtime_alone_reads(tiny_bundle: Path) -> None:
    portable = form(Recipe(target="portable", precision="int4"))
    assert portable.target == "onnxruntime"
    bundle = Bundle.load(tiny_bundle)
    object.__setattr__(bundle, "target", portable.target)
    object.__setattr__(bundle, "precision", "int4")
    assert [bundle.runs_on(engine) for engine in ("cpu", "cuda", "openvino")] == [True] * 3
    with pytest.raises(BackendError, match=r"made for onnxruntime .* --precision int4 --calibr"):
        bundle.check_engine("tensorrt")


@pytest.mark.parametrize(
    ("target", "saved"),
    [("tensorrt", "saves disk here, and no time"), ("portable", "saves disk and GPU memory here")],
)
def test_on_cuda_it_is_said_that_fp16_is_faster(
    tiny_bundle: Path, caplog: pytest.LogCaptureFixture, target: Target, saved: str
) -> None:
    bundle = Bundle.load(tiny_bundle)
    object.__setattr__(bundle, "target", form(Recipe(target=target, precision="int4")).target)
    object.__setattr__(bundle, "precision", "int4")
    with suppress(FlorenceEdgeError):  # there is no GPU: it is said before one is looked for
        open_engine(bundle, "cuda")
    (said,) = [each.getMessage() for each in caplog.records if " is int4" in each.getMessage()]
    assert saved in said
    assert "--precision fp16 --output NEW" in said


def test_int8_takes_no_layers_in_int8() -> None:
    options = ExportOptions(
        precision="int8", quantization=QuantizationOptions(kept={"decoder.*": "int8"})
    )
    with pytest.raises(RequestError, match="is for --precision int4"):
        check_options("miniature", options)


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_answers_of_every_engine(target: Target, tmp_path: Path) -> None:
    """The bundle loads, runs and says what its step is like, on each engine of a CPU."""
    from florence_edge_export.checkpoint.loader import MINIATURE, find_checkpoint

    quantization = QuantizationOptions(target=target, samples=PICTURES, budget=None)
    output = tmp_path / target
    options = ExportOptions(precision="int4", quantization=quantization)
    export(MINIATURE, find_checkpoint(MINIATURE), output, options)
    found = json.loads((output / FIDELITY).read_text())["against_float"]
    assert found["precision"] == "int4"
    assert ("step_speed_against_int8" in found) == (target != "tensorrt")
    picture = draw_scene(next(generate_scenes(5, 1)), 256)
    answers = {}
    for device in ("cpu", "openvino"):
        if Bundle.load(output).runs_on(device):
            with Florence2.load(output, device=device) as model:
                answers[device] = model.run(picture, "CAPTION").raw_text
    assert "a" in answers["cpu"]
    assert len(set(answers.values())) == 1


@pytest.mark.slow
def test_base_has_a_fifth_of_float32s_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blockwise, "_SHARES", (1.0,))  # which scales are best has no size
    checkpoint = tmp_path / "checkpoint"
    synthetic.write_checkpoint(checkpoint, "base", seed=3)
    export("base", checkpoint, tmp_path / "fp32", ExportOptions())
    floats = Bundle.load(tmp_path / "fp32")
    sizes = {target: int4_size(floats, checkpoint, target) for target in TARGETS}
    float32 = size_of(floats)
    shares = {
        target: round((size + TOKENIZER_BYTES) / (float32 + TOKENIZER_BYTES), 4)
        for target, size in sizes.items()
    }
    if "FLORENCE_EDGE_RECORD" in os.environ:
        content = {
            "command": COMMAND,
            **circumstances("onnxruntime", "numpy"),
            "model": "base, random weights; ranges of vision made up, which have no size",
            "float32_megabytes": round(float32 / 1e6, 1),
            "int4_megabytes": {target: round(size / 1e6, 1) for target, size in sizes.items()},
            f"shares, with the published tokenizer's {TOKENIZER_BYTES / 1e6} MB": shares,
        }
        RECORD.write_text(json.dumps(content, indent=1) + "\n")
    assert all(share <= LARGEST_SHARE for share in shares.values()), shares


def int4_size(floats: Bundle, checkpoint: Path, target: Target) -> int:
    """Bytes of an int4 bundle, its decoders for TensorRT included, no picture looked at."""
    recipe = Recipe(target=target, precision="int4", locations_from=LOCATIONS_FROM)
    options = ExportOptions(precision="int4", quantization=QuantizationOptions(target=target))
    source = read_source("base", checkpoint, options)
    floats = replace(floats, tensorrt_decoders=recipe.for_tensorrt)
    graphs = quantize_graphs(floats, made_up_table(floats), recipe)
    folder = floats.folder.with_name(target)
    folder.mkdir()
    return size_of(save_bundle(folder, source, form(recipe), graphs))


def made_up_table(floats: Bundle) -> CalibrationTable:
    """All activations alike: from -1 to 1, every magnitude as often."""
    activations = {}
    for name in (contract.VISION_ENCODER, contract.TEXT_ENCODER):
        linears = find_linears(ir.load(floats.graph_file(name)).graph)
        for activation, (first, *_) in by_activation(linears).items():
            ones = np.ones(first.channels, dtype=np.float32)
            counts = np.zeros((first.channels, BINS), dtype=np.int64)
            counts[:, BINS // 4 : BINS // 2] = 1
            activations[activation] = ChannelHistogram(
                min_values=-ones, max_values=ones, counts=counts
            )
    return replace(empty_table(floats), activations=activations)


def size_of(bundle: Bundle) -> int:
    """Bytes on disk."""
    return sum(stored.bytes for stored in bundle.files.values())
