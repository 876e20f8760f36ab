"""Weights that are all zero: enough to build the graphs of a full-size model in a second."""

import json
from pathlib import Path

import numpy as np
import onnx_ir as ir

from florence_edge.contract import ModelSize
from florence_edge_export import synthetic
from florence_edge_export.checkpoint.config import CheckpointConfig, model_size, read_config
from florence_edge_export.checkpoint.loader import Checkpoint
from florence_edge_export.checkpoint.tensors import StoredTensor
from florence_edge_export.graphs.build import build_graphs
from florence_edge_export.graphs.weights import GraphWeights


def config(architecture: str, folder: Path) -> CheckpointConfig:
    content = json.dumps(synthetic._config(architecture, 1024))
    (folder / "config.json").write_text(content)
    return read_config(folder)


def checkpoint(of: CheckpointConfig) -> Checkpoint:
    stored = {name: zeros(shape) for name, shape in synthetic.native_shapes(of)}
    return Checkpoint(Path("nowhere"), of, stored, ())


def zeros(shape: tuple[int, ...]) -> StoredTensor:
    return StoredTensor(shape, lambda: np.zeros(shape, dtype=np.float32))


def graphs(of: CheckpointConfig, image_size: int) -> tuple[ModelSize, dict[str, ir.Model]]:
    size = model_size(of, image_size)
    weights = GraphWeights(checkpoint(of), image_size, (0.5,) * 3, (0.5,) * 3)
    return size, build_graphs(of, size, weights)
