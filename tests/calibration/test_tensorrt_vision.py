"""The vision encoder by TensorRT's operators and without casts: what changes, and what does not."""

from collections import Counter
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest

from florence_edge import contract
from florence_edge.bundle import Bundle
from florence_edge_calibration.fp16 import SCORES, convert_to_float16, drop_island_casts
from florence_edge_calibration.quantization.observer import open_session
from florence_edge_calibration.tensorrt_vision import for_tensorrt

pytest.importorskip("onnxruntime")


@pytest.fixture
def bundle(tiny_bundle: Path) -> Bundle:
    return Bundle.load(tiny_bundle)


def features(bundle: Bundle, model: ir.Model) -> npt.NDArray[np.float64]:
    """Of two pictures of noise."""
    side = bundle.size.image_size
    pixels = np.random.default_rng(0).integers(0, 256, (2, side, side, 3), dtype=np.uint8)
    (found,) = open_session(model, bundle.folder).run(None, {"pixels": pixels})
    return np.asarray(found, dtype=np.float64)


def operators(model: ir.Model) -> Counter[str]:
    return Counter(node.op_type for node in model.graph)


def test_the_exported_graph_for_tensorrt_gives_the_same_numbers(bundle: Bundle) -> None:
    plain = ir.load(bundle.graph_file(contract.VISION_ENCODER))
    exported = ir.load(bundle.graph_file(contract.VISION_TENSORRT))
    found, expected = features(bundle, exported), features(bundle, plain)
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)


def test_the_passes_find_what_they_are_for(bundle: Bundle) -> None:
    """In every block at least channel attention's biases, and each sum beside a convolution."""
    plain = ir.load(bundle.graph_file(contract.VISION_ENCODER))
    rewritten = for_tensorrt(plain)
    blocks = operators(plain)["Softmax"] // 2
    assert operators(rewritten)["Sqrt"] >= blocks
    sums = [node for node in rewritten.graph if str(node.name).endswith("/total")]
    assert len(sums) == 4 * blocks
    assert operators(rewritten)["Softmax"] == operators(plain)["Softmax"]


def test_the_plain_graph_stays_as_it_is(bundle: Bundle) -> None:
    plain = ir.load(bundle.graph_file(contract.VISION_ENCODER))
    before = operators(plain)
    for_tensorrt(plain)
    assert operators(plain) == before


@pytest.mark.parametrize("rewrite", [False, True])
def test_float16_is_as_close_in_every_form(bundle: Bundle, rewrite: bool) -> None:
    plain = ir.load(bundle.graph_file(contract.VISION_ENCODER))
    expected = features(bundle, plain)
    convert_to_float16(plain, SCORES)
    model = for_tensorrt(plain) if rewrite else plain
    if not rewrite:
        drop_island_casts(model.graph)
    error = np.abs(features(bundle, model) - expected).max() / expected.std()
    assert error < 0.03


def test_norms_and_softmaxes_between_float16_lose_their_casts(bundle: Bundle) -> None:
    """What is left: pixels in, their normalization out, and the mean over the picture."""
    model = ir.load(bundle.graph_file(contract.VISION_ENCODER))
    convert_to_float16(model, SCORES)
    assert operators(model)["Cast"] > 40
    drop_island_casts(model.graph)
    assert operators(model)["Cast"] == 4
    kept = [node for node in model.graph if node.op_type in ("LayerNormalization", "Softmax")]
    assert {node.outputs[0].dtype for node in kept} == {ir.DataType.FLOAT16}
    assert [output.name for output in model.graph.outputs] == ["image_features"]


def test_an_island_that_was_lifted_stays(bundle: Bundle) -> None:
    """A norm that reads float32 on purpose keeps reading it."""
    model = ir.load(bundle.graph_file(contract.VISION_ENCODER))
    convert_to_float16(model, SCORES, exchanged=True)
    drop_island_casts(model.graph)
    (features_out,) = model.graph.outputs
    assert features_out.dtype == ir.DataType.FLOAT
