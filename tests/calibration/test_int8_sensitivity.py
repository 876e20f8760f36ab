"""One block at a time in int8."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from florence_edge import Florence2, contract
from florence_edge.bundle import TOKENIZER, Bundle
from florence_edge.tokenizer import Tokenizer
from florence_edge_calibration.quantization import sensitivity
from florence_edge_calibration.quantization.agreement import TeacherForcing
from florence_edge_calibration.quantization.calibration_table import CalibrationTable
from florence_edge_calibration.quantization.dataset import CalibrationSample, no_progress
from florence_edge_calibration.quantization.quantize import layer_names
from florence_edge_calibration.quantization.recipe import (
    FloatPrecision,
    KeptPrecision,
    Recipe,
    Target,
    pattern_of,
)
from florence_edge_calibration.quantization.sensitivity import (
    Sensitivity,
    _only,
    blocks_of,
    relative_error,
    sweep,
)

# Each block takes a moment, and what is left here is one of each kind.
_SOME: dict[str, FloatPrecision] = {
    "vision_encoder.blocks.[013]*": "fp32",
    "vision_encoder.blocks.2.1.*": "fp32",
    "vision_encoder.blocks.2.0.channel_block.*": "fp32",
    "vision_encoder.convs.[12]*": "fp32",
    "vision_encoder.projector.*": "fp32",
    "text_encoder.layers.0.*": "fp32",
    "text_encoder.cross.*": "fp32",
    "text_encoder.shared": "fp32",
    "decoder.layers.1.*": "fp32",
    "decoder.layers.0.*_attn.*": "fp32",
}


@pytest.fixture(scope="module")
def swept(
    floats: Bundle, table: CalibrationTable, samples: list[CalibrationSample]
) -> list[Sensitivity]:
    return list(sweep(floats, table, Recipe(target="portable", kept=_SOME), samples[:2]))


def test_every_block_of_every_graph_is_swept_once(
    floats: Bundle,
    table: CalibrationTable,
    samples: list[CalibrationSample],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sensitivity._FloatGraphs, "compare", lambda *_, timed: (0.5, 0.25))
    monkeypatch.setattr(sensitivity, "quantize_graph", lambda *_: [])
    blocks = blocks_of(floats, Recipe(target="portable"))
    for_gpus = blocks_of(floats, Recipe(target="tensorrt"))
    assert not for_gpus["vision_encoder"]  # float16 there
    assert for_gpus["text_encoder"] == ["text_encoder.shared"]
    assert list(blocks) == list(contract.GRAPHS)
    expected = [(graph, block) for graph, found in blocks.items() for block in found]
    found = list(sweep(floats, table, Recipe(target="portable"), samples[:1]))
    assert [(each.graph, each.block) for each in found] == expected
    assert len(set(expected)) == len(expected) > 30
    positions = {"text_encoder.embed_positions", "decoder.embed_positions"}  # int4's alone
    int4 = blocks_of(floats, Recipe(target="portable", precision="int4"))
    assert {block for graph in int4.values() for block in graph} - {
        block for _, block in expected
    } == positions
    assert {(each.error, each.saved) for each in found} == {(0.5, 0.25)}


def test_every_block_costs_something_and_little(swept: list[Sensitivity]) -> None:
    assert len(swept) == 7
    for each in swept:
        assert 0 < each.error < 0.2, each.block
        assert each.saved is None
        assert each.agreement is None


def test_the_decoder_is_compared_at_all_kinds_of_tokens(
    floats: Bundle, samples: list[CalibrationSample]
) -> None:
    """What is huge on location tokens alone must show when blocks are ranked."""
    feeds = sensitivity._FloatGraphs(floats, samples[:2])._feeds[contract.DECODER]
    tokenizer = Tokenizer(floats.folder / TOKENIZER, floats.generation)
    token_ids = feeds["token_ids"].reshape(2, -1)
    for row in token_ids:
        words = [tokenizer.token(int(token)) for token in row]
        assert words[0] == "<s>"
        assert sum(word.startswith("<loc_") for word in words) == 4
        assert len(words) > 6
    cache = feeds[contract.cross_cache(0, "key")]
    assert len(feeds["encoder_mask"]) == len(cache) == token_ids.size


def test_only_the_block_is_quantized(floats: Bundle) -> None:
    for graph, blocks in blocks_of(floats, Recipe(target="portable")).items():
        model = ir.load(floats.graph_file(graph))
        names = layer_names(model.graph)
        for block in blocks:
            alone = _only(block, model, Recipe(target="portable"))
            assert not alone.float16
            quantized = [name for name in names if alone.kept_as(name) is None]
            whole = Recipe(target="portable", kept={pattern_of(block): "fp32"})
            assert quantized == [name for name in names if whole.kept_as(name) == "fp32"]


def test_a_position_table_is_a_block_of_int4(
    floats: Bundle, table: CalibrationTable, samples: list[CalibrationSample]
) -> None:
    kept: dict[str, KeptPrecision] = {"vision_encoder.*": "fp32", "text_encoder.*": "fp32"}
    kept |= {"decoder.layers.*": "fp32", "decoder.shared": "fp32"}
    recipe = Recipe(target="portable", precision="int4", kept=kept)
    (found,) = sweep(floats, table, recipe, samples[:1])
    assert (found.graph, found.block) == (contract.DECODER, "decoder.embed_positions")
    assert 0 < found.error < 0.2


def test_what_the_recipe_keeps_is_left_out(swept: list[Sensitivity]) -> None:
    recipe = Recipe(target="portable", kept=_SOME)
    for each in swept:
        name = each.block if each.block.endswith(".shared") else f"{each.block}.x"
        assert recipe.kept_as(name) is None, each.block
    assert {each.graph for each in swept} == set(contract.GRAPHS)


@pytest.mark.parametrize("target", ["portable", "cpu"])
def test_one_block_can_be_left_to_sweep(
    floats: Bundle, table: CalibrationTable, samples: list[CalibrationSample], target: Target
) -> None:
    recipe = Recipe(target=target, kept=all_but("text_encoder.layers.1.fc", floats))
    (found,) = sweep(floats, table, recipe, samples[:1])
    assert (found.graph, found.block) == (contract.TEXT_ENCODER, "text_encoder.layers.1.fc")


def all_but(block: str, bundle: Bundle) -> dict[str, FloatPrecision]:
    blocks = blocks_of(bundle, Recipe(target="portable")).values()
    return {pattern_of(name): "fp32" for graph in blocks for name in graph if name != block}


def test_outliers_show_in_their_blocks_where_they_are_not_evened_out(
    planted: Bundle, planted_table: CalibrationTable, samples: list[CalibrationSample]
) -> None:
    recipe = Recipe(
        target="portable", kept=all_but("vision_encoder.blocks.2.0.spatial_block.ffn", planted)
    )
    errors = {}
    for equalize in (True, False):
        tried = replace(recipe, equalize=equalize)
        (found,) = sweep(planted, planted_table, tried, samples[:1])
        errors[equalize] = found.error
    assert errors[False] > 2 * errors[True]


def test_with_teacher_forcing_each_block_has_an_agreement(
    floats: Bundle, tiny_model: Florence2, table: CalibrationTable, samples: list[CalibrationSample]
) -> None:
    teacher_forcing = TeacherForcing(tiny_model, samples[:1], no_progress, max_new_tokens=3)
    recipe = Recipe(target="portable", kept=all_but("decoder.layers.0.fc", floats))
    (found,) = sweep(floats, table, recipe, samples[:1], teacher_forcing)
    assert found.agreement is not None
    assert found.agreement.positions == teacher_forcing.positions
    assert found.saved is not None
    assert found.saved < 1


def test_variants_leave_nothing_behind_and_the_bundle_as_it_was(
    floats: Bundle, swept: list[Sensitivity]
) -> None:
    assert swept
    assert not list(Path(floats.folder.parent).glob(".variant-*"))
    floats.check_content()


def test_a_sweep_that_is_stopped_leaves_nothing_behind(
    floats: Bundle, table: CalibrationTable, samples: list[CalibrationSample]
) -> None:
    running = sweep(floats, table, Recipe(target="portable"), samples[:1])
    next(running)
    running.close()  # type: ignore[attr-defined]
    assert not list(Path(floats.folder.parent).glob(".variant-*"))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_block_that_is_not_finite_ranks_first(value: float) -> None:
    fine, broken = np.ones(4), np.array([1, value, 1, 1])
    assert relative_error(fine, fine) == 0
    assert relative_error(broken, fine) == relative_error(fine, broken) == float("inf")
