"""The vision encoder stays small: launches and bytes of built plans, pass by pass.

Plans are TensorRT-RTX's, built on the CPU and not run: they say what is read and written, and
nothing of time. With FLORENCE_EDGE_RECORD=1 base's are written to results/tensorrt.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import onnx_ir as ir
import pytest

from florence_edge import contract
from florence_edge_calibration.fp16 import SCORES, convert_to_float16
from florence_edge_calibration.tensorrt_vision import (
    add_channels_first,
    biases_into_weights,
    for_tensorrt,
    normalize_last,
)
from florence_edge_export import synthetic
from florence_edge_export.checkpoint.config import model_size, read_config
from florence_edge_export.checkpoint.loader import MINIATURE, find_checkpoint, read_checkpoint
from florence_edge_export.graphs.build import build_graphs
from florence_edge_export.graphs.weights import GraphWeights

from .int8_variants import VARIANTS
from .plan_layers import plan_layers, record_plans, summary

pytest.importorskip("tensorrt_rtx_bindings")

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
Pass = Callable[[ir.Graph], None]
Found = dict[str, float]

FOR_TENSORRT = "and biases in weights: as exported for TensorRT"

# From the graph that all engines read to the one that is for TensorRT.
PASSES: Mapping[str, tuple[Pass, ...]] = {
    "plain graph": (),
    "branches added with channels first": (add_channels_first,),
    "and layer norms behind windows": (add_channels_first, normalize_last),
    FOR_TENSORRT: (
        add_channels_first,
        normalize_last,
        biases_into_weights,
    ),
}
# Ways of int8 that were nearest to float16 (tests/export/test_int8_plans.py has all).
INT8 = ("every linear, no islands", "attention's linears, int8 on both sides")


def plan_of(model: ir.Model, image_size: int, checkpoint: Path, folder: Path) -> Found:
    file = folder / "plan.onnx"
    (folder / "plan.bin").unlink(missing_ok=True)
    ir.save(model, file, external_data="plan.bin")
    size = model_size(read_config(checkpoint), image_size)
    return summary(plan_layers(file, contract.VISION_ENCODER, size, "float16"))


def plain(checkpoint: Path, image_size: int) -> ir.Model:
    """The vision encoder as it is built, in float32."""
    config = read_config(checkpoint)
    weights = GraphWeights(read_checkpoint(checkpoint), image_size, _MEAN, _STD)
    return build_graphs(config, model_size(config, image_size), weights)[contract.VISION_ENCODER]


def half(checkpoint: Path, image_size: int) -> ir.Model:
    """The same in float16."""
    model = plain(checkpoint, image_size)
    convert_to_float16(model, SCORES)
    return model


def test_the_miniature_grows_neither_in_launches_nor_in_bytes(tmp_path: Path) -> None:
    """At 128 pixels, where windows fit the first three maps and pad the last.

    Bounds are what was measured, and rounding.
    """
    checkpoint = find_checkpoint(MINIATURE)
    found = plan_of(for_tensorrt(half(checkpoint, 128)), 128, checkpoint, tmp_path)
    assert found["launches"] <= 129
    assert found["megabytes"] <= 24.5


@pytest.mark.slow
def test_base_moves_a_third_less_than_it_did(tmp_path: Path) -> None:
    """It was 3,980 MB in 420 launches; bounds are what was measured, and 1 %."""
    checkpoint = tmp_path / "checkpoint"
    synthetic.write_checkpoint(checkpoint, "base", seed=3)
    found: dict[str, Found] = {}
    for name, passes in PASSES.items():
        model = half(checkpoint, 768)
        for each in passes:
            each(model.graph)
        found[name] = plan_of(model, 768, checkpoint, tmp_path)
    fp16 = found[FOR_TENSORRT]
    for name in INT8:
        model = plain(checkpoint, 768)
        VARIANTS[contract.VISION_ENCODER][name](contract.VISION_ENCODER, model)
        found[f"for TensorRT, int8: {name}"] = plan_of(
            for_tensorrt(model), 768, checkpoint, tmp_path
        )
        assert found[f"for TensorRT, int8: {name}"]["megabytes"] > 0.75 * fp16["megabytes"]
    record_plans(
        "vision_plans",
        model="base with random weights, 768 pixels, one picture; float16 but for what is int8",
        unit="each launch reads its inputs and constants and writes its outputs once",
        plans=found,
    )
    assert fp16["launches"] <= 297
    assert fp16["megabytes"] <= 2777
    megabytes = [found[name]["megabytes"] for name in PASSES]
    assert megabytes == sorted(megabytes, reverse=True)  # each pass brings something
