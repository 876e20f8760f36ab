"""The vision encoder of ONNX Runtime's own operators: what the plain one computes, in fewer."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest

from florence_edge import contract
from florence_edge.bundle import Bundle
from florence_edge.errors import BundleError
from florence_edge_calibration.overflow import LIMIT, GraphRecord, Lifted
from florence_edge_calibration.quantization.observer import open_session
from florence_edge_export import smoke_test
from florence_edge_export.checkpoint.config import model_size, read_config
from florence_edge_export.checkpoint.loader import MINIATURE, find_checkpoint, read_checkpoint
from florence_edge_export.float16 import may_be_fused
from florence_edge_export.graphs.build import build_cuda_graphs, build_graphs
from florence_edge_export.graphs.weights import GraphWeights

Caplog = pytest.LogCaptureFixture

FILE = f"{contract.VISION_CUDA}.onnx"
# Windows are of 12 pixels a side: maps of 24, 12, 6 and 3 pixels, and of 20, 10, 5 and 3. The first
# fill their windows or are smaller, the others are padded.
SIDES = (96, 80)


def encoders(side: int) -> dict[str, ir.Model]:
    """The miniature's, plain and fused, in float32."""
    folder = find_checkpoint(MINIATURE)
    config = read_config(folder)
    size = model_size(config, side)
    weights = GraphWeights(read_checkpoint(folder), side, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    return build_graphs(config, size, weights) | build_cuda_graphs(config, size, weights)


def features(model: ir.Model, side: int, folder: Path) -> npt.NDArray[np.float32]:
    """Of two pictures of noise, on ONNX Runtime's CPU."""
    pixels = np.random.default_rng(0).integers(0, 256, (2, side, side, 3), dtype=np.uint8)
    (found,) = open_session(model, folder).run(None, {"pixels": pixels})
    return np.asarray(found)


@pytest.mark.parametrize("side", SIDES)
def test_its_features_are_the_plain_encoders(side: int, tmp_path: Path) -> None:
    models = encoders(side)
    found = features(models[contract.VISION_CUDA], side, tmp_path)
    expected = features(models[contract.VISION_ENCODER], side, tmp_path)
    np.testing.assert_allclose(found, expected, rtol=0, atol=3e-5)


def test_an_export_compares_it_with_the_plain_encoder(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Caplog
) -> None:
    side = SIDES[1]
    models = encoders(side)
    pixels = np.random.default_rng(0).integers(0, 256, (1, side, side, 3), dtype=np.uint8)
    session = open_session(models[contract.VISION_ENCODER], tmp_path)
    (plain,) = session.run(None, {"pixels": pixels})
    floats = replace(Bundle.load(tiny_bundle), folder=tmp_path)
    fused = models[contract.VISION_CUDA]
    ir.save(fused, floats.graph_file(contract.VISION_CUDA))
    smoke_test.check_fused_vision(floats, pixels, plain[0])

    attention = next(node for node in fused.graph if node.op_type == "Attention")
    attention.attributes["scale"] = ir.AttrFloat32("scale", 1.1)  # one block's, and by little
    ir.save(fused, floats.graph_file(contract.VISION_CUDA))
    message = r"vision_encoder\.cuda in float32 are 0\.\d+ standard .* --portable-decoder"
    with pytest.raises(BundleError, match=message):
        smoke_test.check_fused_vision(floats, pixels, plain[0])

    def refuse(*_: object) -> None:
        raise RuntimeError("Attention is not a registered operator")

    monkeypatch.setattr(smoke_test, "open_session", refuse)
    smoke_test.check_fused_vision(floats, pixels, plain[0])
    assert "vision_encoder.cuda was not run, only built: Attention is not" in caplog.text


def test_attention_in_windows_is_one_operator() -> None:
    models = encoders(SIDES[0])
    plain, fused = (
        Counter(node.op_type for node in models[name].graph)
        for name in (contract.VISION_ENCODER, contract.VISION_CUDA)
    )
    blocks = plain["Softmax"] // 2
    assert fused["Attention"] == blocks
    assert fused["Softmax"] == blocks
    assert fused["Transpose"] == plain["Transpose"] - 4 * blocks


def test_a_float16_bundle_has_it_on_the_same_weights(
    tiny_half_bundle: Path, tiny_bundle: Path
) -> None:
    halves = Bundle.load(tiny_half_bundle)
    assert FILE in halves.files
    assert FILE not in Bundle.load(tiny_bundle).files
    plain, fused = (
        {
            (each.offset, each.length)
            for value in ir.load(halves.folder / name).graph.initializers.values()
            if isinstance(each := value.const_value, ir.ExternalTensor)
        }
        for name in ("vision_encoder.onnx", FILE)
    )
    assert fused <= plain


def test_what_float16_does_not_hold_is_computed_by_the_plain_encoder(tiny_bundle: Path) -> None:
    floats = Bundle.load(tiny_bundle)
    graph = ir.load(floats.graph_file(contract.VISION_ENCODER)).graph
    norm = next(node for node in graph if node.op_type == "LayerNormalization")
    read = str(norm.inputs[0].name) if norm.inputs[0] is not None else ""
    small, large = (
        {contract.VISION_ENCODER: GraphRecord(magnitudes={read: value})}
        for value in (LIMIT / 2, LIMIT * 2)
    )
    vision = contract.VISION_ENCODER
    assert may_be_fused(floats, vision, Lifted(), small)
    assert not may_be_fused(floats, vision, Lifted(), large)
    assert not may_be_fused(floats, vision, Lifted(exchanged=True), small)
    lifted = Lifted(operators=frozenset({"vision_encoder/blocks.0.0/spatial_block/ffn/fc1/MatMul"}))
    known = {str(node.name).rpartition("_node_")[0] for node in graph}
    assert lifted.operators <= known
    assert not may_be_fused(floats, vision, lifted, small)
