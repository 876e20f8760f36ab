"""A step of TensorRT's decoders stays small: launches and bytes of built plans.

Plans are TensorRT-RTX's, built on the CPU and not run: they say what is read and written, and
nothing of time. With FLORENCE_EDGE_RECORD=1 base's are written to results/tensorrt.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir
import pytest

from florence_edge import contract
from florence_edge.contract import ModelSize
from florence_edge_export import synthetic
from florence_edge_export.checkpoint.config import CheckpointConfig, model_size, read_config
from florence_edge_export.checkpoint.loader import (
    MINIATURE,
    Checkpoint,
    find_checkpoint,
    read_checkpoint,
)
from florence_edge_export.graphs.build import build_tensorrt_decoders
from florence_edge_export.graphs.decoder import CrossAttention
from florence_edge_export.graphs.weights import GraphWeights

from .decoder_variants import CROSS_ATTENTIONS
from .int8_variants import for_gpus, half
from .plan_layers import (
    RESULTS,
    DecoderStep,
    PlanLayer,
    decoder_layers,
    record_plans,
    summary,
)

pytest.importorskip("tensorrt_rtx_bindings")

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_PRECISIONS = {"fp16": half, "int8": for_gpus}
ANY = "any TensorRT"  # the decoder for releases that cannot update caches in place
Change = Callable[[str, ir.Model], None]


@dataclass(frozen=True, slots=True)
class Subject:
    """A checkpoint, and a folder for the graphs that are made of it."""

    checkpoint: Checkpoint
    config: CheckpointConfig
    size: ModelSize
    folder: Path

    def layers(self, change: Change, step: DecoderStep, *, ranges: bool = False) -> list[PlanLayer]:
        """Those of the decoder's plan, its graph changed by `change`."""
        weights = GraphWeights(self.checkpoint, self.size.image_size, _MEAN, _STD)
        models = build_tensorrt_decoders(self.config, self.size, weights)
        model = models[contract.IN_PLACE if step.in_place else contract.TENSORRT_DECODER]
        change(contract.DECODER, model)
        file = self.folder / "decoder.onnx"
        (self.folder / "decoder.bin").unlink(missing_ok=True)
        ir.save(model, file, external_data="decoder.bin")
        return decoder_layers(file, self.size, "float16", step, ranges=ranges)


def subject(checkpoint: Path, image_size: int, folder: Path) -> Subject:
    config = read_config(checkpoint)
    size = model_size(config, image_size)
    return Subject(read_checkpoint(checkpoint), config, size, folder)


@pytest.fixture
def miniature(tmp_path: Path) -> Subject:
    return subject(find_checkpoint(MINIATURE), 224, tmp_path)


@pytest.mark.parametrize(
    ("precision", "in_place", "launches", "megabytes"),
    [
        ("fp16", True, 45, 2.9),
        ("fp16", False, 51, 2.9),
        ("int8", True, 49, 1.9),
        ("int8", False, 55, 1.9),
    ],
)
def test_a_step_of_the_miniature_grows_neither_in_launches_nor_in_bytes(
    miniature: Subject, precision: str, in_place: bool, launches: int, megabytes: float
) -> None:
    """Bounds are what was measured, and rounding."""
    step = DecoderStep(capacity=64, attended=64, in_place=in_place)
    layers = miniature.layers(_PRECISIONS[precision], step)
    found = summary(layers)
    assert found["launches"] <= launches
    assert found["megabytes"] <= megabytes + 0.1
    assert_cross_caches_are_read_once(layers, miniature.size)


def assert_cross_caches_are_read_once(layers: list[PlanLayer], size: ModelSize) -> None:
    """One kernel a layer reads keys and values, and nothing of their size is written."""
    encoded = size.image_tokens + 16
    cache = size.decoder_heads * encoded * size.head_dim * 2
    attending = [layer for layer in layers if layer.reads > 2 * cache and "mha" in layer.name]
    assert len(attending) >= size.decoder_layers
    copies = [layer for layer in layers if layer.writes == layer.reads == cache]
    assert copies == []


def test_in_place_a_longer_cache_costs_a_step_what_it_reads(miniature: Subject) -> None:
    """No kernel touches the rows behind those that are attended to."""
    short, long = (
        miniature.layers(half, DecoderStep(capacity, attended=64, in_place=True))
        for capacity in (64, 256)
    )
    assert len(long) == len(short)
    assert summary(long)["megabytes"] == summary(short)["megabytes"]
    assert not any("Slic" in layer.name and layer.writes > 64_000 for layer in long)


@pytest.mark.slow
def test_a_step_of_base_moves_little_beyond_its_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bounds are 3 % above what was measured; launches are those that were measured."""
    synthetic.write_checkpoint(tmp_path / "checkpoint", "base", seed=3)
    base = subject(tmp_path / "checkpoint", 768, tmp_path)
    found = measured(base)
    others = other_cross_attentions(base, monkeypatch)
    before = json.loads((RESULTS / "decoder_plans.json").read_text(encoding="utf-8"))["before"]
    record_plans(
        "decoder_plans",
        model="base with random weights, 768 pixels, one picture, one of the fixed prompts, 3 "
        "beams; a cache of so many rows, all or some of them attended to",
        unit="each launch reads its inputs and constants and writes its outputs once; of a table "
        "the rows that are looked up count, of a cache that is updated in place the row that is "
        "written and the rows that are attended to",
        **{
            "plans": found,
            "other cross-attentions (fp16, in place, 256 rows)": others,
            "before": before,
        },
    )
    int8, fp16 = found["int8"], found["fp16"]
    assert int8["in place, 256 rows"]["launches"] <= 92
    assert int8["in place, 256 rows"]["megabytes"] <= 122
    assert fp16["in place, 256 rows"]["launches"] <= 85
    assert fp16["in place, 256 rows"]["megabytes"] <= 213
    for plans in found.values():
        older = plans[f"{ANY}, 256 rows"]
        assert older["launches"] <= plans["in place, 256 rows"]["launches"] + 12
        assert older["megabytes"] <= plans["in place, 256 rows"]["megabytes"] + 2
        assert plans["in place, 64 of 1024 rows"] == plans["in place, 64 rows"]
    ours = fp16["in place, 256 rows"]
    for name, other in others.items():  # should one of these win, the decoder is to be changed
        assert other["launches"] >= ours["launches"], name
        assert other["megabytes"] >= ours["megabytes"], name


def measured(base: Subject) -> dict[str, dict[str, dict[str, float]]]:
    """Launches and bytes of a step, by precision, decoder and rows."""
    steps = {
        f"{'in place' if in_place else ANY}, {rows} rows": DecoderStep(rows, rows, in_place)
        for in_place in (True, False)
        for rows in (64, 256, 1024)
    }
    steps["in place, 64 of 1024 rows"] = DecoderStep(1024, 64, in_place=True)
    return {
        precision: {name: summary(base.layers(change, step)) for name, step in steps.items()}
        for precision, change in _PRECISIONS.items()
    }


def other_cross_attentions(
    base: Subject, monkeypatch: pytest.MonkeyPatch
) -> dict[str, dict[str, float]]:
    """The same in float16, in place and with 256 rows, by other forms of cross-attention."""
    found = {}
    for name, forward in CROSS_ATTENTIONS.items():
        with monkeypatch.context() as patched:
            patched.setattr(CrossAttention, "forward", forward)
            found[name] = summary(base.layers(half, DecoderStep(256, 256, in_place=True)))
    return found
