"""What a recipe keeps in float, and what its patterns match."""

import re
from collections.abc import Mapping
from fnmatch import fnmatchcase

import numpy as np
import onnx_ir as ir
import pytest

from florence_edge import contract
from florence_edge.bundle import Bundle
from florence_edge.errors import RequestError
from florence_edge_calibration.quantization.calibration_table import CalibrationTable, empty_table
from florence_edge_calibration.quantization.quantize import Quantization, layer_names, quantize
from florence_edge_calibration.quantization.recipe import (
    TARGETS,
    FloatPrecision,
    Recipe,
    Target,
    block_of,
    pattern_of,
)

from ..export import stubs

FLOAT, HALF, INT8 = ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.INT8
EMBEDDING = "decoder.shared"
POSITIONS = "decoder.embed_positions"


def made(
    floats: Bundle, table: CalibrationTable, target: Target, kept: Mapping[str, FloatPrecision]
) -> Quantization:
    return quantize(floats, table, Recipe(target=target, kept=kept))


def stored_as(found: Quantization, layer: str) -> set[ir.DataType | None]:
    """Types of the constants that hold a layer's weight."""
    return {
        value.dtype
        for model in found.graphs.values()
        for name, value in model.graph.initializers.items()
        if value.shape is not None
        and len(value.shape) > 1
        and re.match(rf"{re.escape(layer)}(\.|/)", name.replace("/", "."))
    }


def layers(floats: Bundle) -> list[str]:
    graphs = [ir.load(floats.graph_file(name)).graph for name in contract.GRAPHS]
    return [name for graph in graphs for name in layer_names(graph)]


@pytest.mark.parametrize("target", TARGETS)
def test_everything_is_quantized_that_is_not_kept(
    floats: Bundle, table: CalibrationTable, target: Target
) -> None:
    found = made(floats, table, target, {})
    for name in layers(floats):
        expected = INT8
        if target == "cpu" and name.endswith(".conv"):
            expected = FLOAT
        elif name.endswith(".embed_positions"):
            expected = FLOAT if target == "cpu" else HALF
        elif target == "tensorrt" and not name.startswith(("decoder.", "text_encoder.shared")):
            expected = HALF
        assert stored_as(found, name) == {expected}, name


def test_for_gpus_no_activation_is_rounded_and_no_table_needed(floats: Bundle) -> None:
    recipe = Recipe(target="tensorrt")
    assert not recipe.rounds_activations
    found = quantize(floats, empty_table(floats), recipe)
    assert found.choices == ()
    for model in found.graphs.values():
        assert "QuantizeLinear" not in {node.op_type for node in model.graph}


def test_for_gpus_what_is_kept_float32_is_kept(floats: Bundle) -> None:
    recipe = Recipe(target="tensorrt", kept={"vision_encoder.convs.*": "fp32"})
    found = quantize(floats, empty_table(floats), recipe)
    for name in layers(floats):
        if fnmatchcase(name, "vision_encoder.convs.*"):
            assert stored_as(found, name) == {FLOAT}, name


_KEPT: list[tuple[str, Target, FloatPrecision, ir.DataType]] = [
    ("vision_encoder.blocks.2.0.*", "portable", "fp16", HALF),
    ("vision_encoder.blocks.2.0.*", "portable", "fp32", FLOAT),
    ("vision_encoder.blocks.2.0.*", "cpu", "fp32", FLOAT),
    ("vision_encoder.convs.*", "portable", "fp32", FLOAT),
    ("text_encoder.layers.1.fc?", "portable", "fp16", HALF),
    ("text_encoder.layers.0.self_attn.k_proj", "portable", "fp32", FLOAT),
    ("text_encoder.layers.0.self_attn.k_proj", "cpu", "fp32", FLOAT),
    ("decoder.layers.0.*", "portable", "fp16", HALF),
    ("decoder.layers.0.*", "portable", "fp32", FLOAT),
    ("decoder.layers.0.*", "cpu", "fp32", FLOAT),
    ("*.shared", "portable", "fp16", HALF),
    ("*.shared", "portable", "fp32", FLOAT),
    ("*.shared", "cpu", "fp32", FLOAT),
]


_BRIEF = [each for each in _KEPT if each[0] in ("vision_encoder.blocks.2.0.*", "*.shared")]
_MORE = [pytest.param(*each, marks=pytest.mark.slow) for each in _KEPT if each not in _BRIEF]


@pytest.mark.parametrize(("pattern", "target", "as_", "dtype"), [*_BRIEF, *_MORE])
def test_a_pattern_keeps_what_it_matches_and_no_more(
    floats: Bundle,
    table: CalibrationTable,
    pattern: str,
    target: Target,
    as_: FloatPrecision,
    dtype: ir.DataType,
) -> None:
    found = made(floats, table, target, {pattern: as_})
    matched = 0
    for name in layers(floats):
        if fnmatchcase(name, pattern):
            matched += 1
            assert stored_as(found, name) == {dtype}, name
        elif not (
            name.endswith(".embed_positions") or (target == "cpu" and name.endswith(".conv"))
        ):
            assert stored_as(found, name) == {INT8}, name
    assert matched


def test_of_several_patterns_the_first_that_matches_counts(
    floats: Bundle, table: CalibrationTable
) -> None:
    kept: dict[str, FloatPrecision] = {"decoder.layers.0.fc1": "fp32", "decoder.layers.0.*": "fp16"}
    found = made(floats, table, "portable", kept)
    assert stored_as(found, "decoder.layers.0.fc1") == {FLOAT}
    assert stored_as(found, "decoder.layers.0.fc2") == {HALF}


def test_choices_are_made_for_what_is_quantized_only(
    floats: Bundle, table: CalibrationTable
) -> None:
    whole = made(floats, table, "portable", {}).choices
    assert len(whole) == len(table.activations)
    kept = made(floats, table, "portable", {"text_encoder.*": "fp16"}).choices
    names = [linear.name for choice in kept for linear in choice.linears]
    assert names
    assert all(name.startswith("vision_encoder.") for name in names)


@pytest.mark.parametrize("pattern", ["nothing.*", "blocks.0.0.*", "text_encoder.layers.1", "["])
def test_a_pattern_that_matches_nothing_is_refused(
    floats: Bundle, table: CalibrationTable, pattern: str
) -> None:
    message = rf"--keep {re.escape(pattern)} matches no layer.*vision_encoder\..*\.\*'"
    with pytest.raises(RequestError, match=message):
        made(floats, table, "portable", {pattern: "fp16"})


def test_the_pattern_that_the_message_shows_matches(
    floats: Bundle, table: CalibrationTable
) -> None:
    with pytest.raises(RequestError) as caught:
        made(floats, table, "portable", {"nothing": "fp16"})
    (shown,) = re.findall(r"'(.*)'", str(caught.value))
    assert made(floats, table, "portable", {shown: "fp16"}).graphs


def test_a_table_of_another_model_is_refused(
    floats: Bundle, planted_table: CalibrationTable
) -> None:
    with pytest.raises(RequestError, match="whose weights are not those of tiny"):
        made(floats, planted_table, "portable", {})


def test_the_bundles_files_are_not_touched(floats: Bundle, table: CalibrationTable) -> None:
    for target in TARGETS:
        made(floats, table, target, {})
    floats.check_content()


def test_without_float16_all_floats_are_float32(floats: Bundle, table: CalibrationTable) -> None:
    found = quantize(floats, table, Recipe(target="portable", float16=False))
    for model in found.graphs.values():
        assert HALF not in {value.dtype for value in model.graph.initializers.values()}


def test_a_scale_is_not_changed_by_float16(floats: Bundle, table: CalibrationTable) -> None:
    half = made(floats, table, "portable", {}).graphs
    whole = quantize(floats, table, Recipe(target="portable", float16=False)).graphs
    compared = 0
    for graph, model in half.items():
        for name, value in model.graph.initializers.items():
            if not name.endswith("scale"):
                continue
            other = whole[graph].graph.initializers[name]
            assert value.const_value is not None
            assert other.const_value is not None
            expected = other.const_value.numpy()
            np.testing.assert_array_equal(value.const_value.numpy().astype(np.float32), expected)
            compared += 1
    assert compared > 50


@pytest.fixture(scope="module", params=["tiny", "base", "large"])
def names(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Names of all layers of an architecture, from graphs without weights."""
    config = stubs.config(request.param, tmp_path_factory.mktemp("names"))
    _, graphs = stubs.graphs(config, 64)
    return list(dict.fromkeys(name for m in graphs.values() for name in layer_names(m.graph)))


def test_a_blocks_pattern_selects_its_layers_and_no_others(names: list[str]) -> None:
    blocks = dict.fromkeys(map(block_of, names))
    for block in blocks:
        selected = [name for name in names if fnmatchcase(name, pattern_of(block))]
        assert selected == [name for name in names if block_of(name) == block], block


def test_every_layer_is_in_one_block(names: list[str]) -> None:
    for name in names:
        matching = [b for b in {*map(block_of, names)} if fnmatchcase(name, pattern_of(b))]
        assert matching == [block_of(name)]


@pytest.mark.parametrize(
    ("name", "block", "pattern"),
    [
        ("text_encoder.layers.1.fc1", "text_encoder.layers.1.fc", "text_encoder.layers.1.fc?"),
        (
            "text_encoder.layers.10.self_attn.q_proj",
            "text_encoder.layers.10.self_attn",
            "text_encoder.layers.10.self_attn.*",
        ),
        ("vision_encoder.convs.1.conv", "vision_encoder.convs.1", "vision_encoder.convs.1.*"),
        (
            "vision_encoder.blocks.2.4.channel_block.ffn.fc1",
            "vision_encoder.blocks.2.4.channel_block.ffn",
            "vision_encoder.blocks.2.4.channel_block.ffn.*",
        ),
        (EMBEDDING, EMBEDDING, EMBEDDING),
        (POSITIONS, POSITIONS, POSITIONS),
    ],
)
def test_blocks_are_called_as_the_checkpoint_calls_them(
    name: str, block: str, pattern: str
) -> None:
    assert (block_of(name), pattern_of(block)) == (block, pattern)


def test_the_embedding_is_a_layer_of_each_graph_that_reads_it(floats: Bundle) -> None:
    found = [name for name in layers(floats) if name.endswith(".shared")]
    assert found == ["text_encoder.shared", "decoder.shared"]
