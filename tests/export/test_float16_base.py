"""Base's vision encoder in float16, in both forms, beside float32: on ONNX Runtime's CPU."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest

from florence_edge import contract
from florence_edge_calibration.fp16 import SCORES, convert_to_float16, drop_island_casts
from florence_edge_calibration.probes import deviation
from florence_edge_calibration.quantization.observer import open_session
from florence_edge_calibration.scenes import draw_scene, generate_scene
from florence_edge_calibration.tensorrt_vision import for_tensorrt
from florence_edge_export import synthetic
from florence_edge_export.checkpoint.config import model_size
from florence_edge_export.checkpoint.loader import read_checkpoint
from florence_edge_export.float16 import BOUND
from florence_edge_export.graphs.build import build_graphs
from florence_edge_export.graphs.weights import GraphWeights

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_SIDE = 768


@pytest.mark.slow
def test_both_forms_of_bases_vision_encoder_follow_float32(tmp_path: Path) -> None:
    """Those of results/parity/half_errors.json are 0.01 standard deviations off; 0.25 may be."""
    synthetic.write_checkpoint(tmp_path / "base", "base", seed=3)
    pixels = np.asarray(draw_scene(generate_scene(11), _SIDE), dtype=np.uint8)[None]

    def features(model: ir.Model) -> npt.NDArray[np.float32]:
        (found,) = open_session(model, tmp_path).run(["image_features"], {"pixels": pixels})
        return np.asarray(found, dtype=np.float32)

    expected = features(vision(tmp_path / "base"))
    half = vision(tmp_path / "base")
    convert_to_float16(half, SCORES)
    tensorrt = deviation(features(for_tensorrt(half)), expected)
    drop_island_casts(half.graph)
    portable = deviation(features(half), expected)
    assert max(portable, tensorrt) < 0.1 * BOUND


def vision(checkpoint: Path) -> ir.Model:
    read = read_checkpoint(checkpoint)
    weights = GraphWeights(read, _SIDE, _MEAN, _STD)
    return build_graphs(read.config, model_size(read.config, _SIDE), weights)[
        contract.VISION_ENCODER
    ]
