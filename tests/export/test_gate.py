"""TensorRT's parser and builder take the graphs as they are (TensorRT-RTX builds without a GPU)."""

from pathlib import Path
from typing import Any

import pytest

from florence_edge import contract
from florence_edge.bundle import Bundle
from florence_edge_export.export import ExportOptions, export

trt = pytest.importorskip("tensorrt_rtx_bindings")


class _Log(trt.ILogger):  # type: ignore[name-defined]
    """Keeps warnings and worse."""

    def __init__(self) -> None:
        trt.ILogger.__init__(self)
        self.told: list[str] = []

    def log(self, severity: Any, message: str) -> None:
        if severity <= trt.ILogger.WARNING:
            self.told.append(message)


@pytest.fixture(scope="module", params=["fp32", "fp16"])
def bundle(
    request: pytest.FixtureRequest, tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Bundle:
    folder = tmp_path_factory.mktemp("gate") / "bundle"
    export("tiny", tiny_checkpoint, folder, ExportOptions(precision=request.param))
    return Bundle.load(folder)


@pytest.mark.parametrize("graph", contract.GRAPHS)
def test_tensorrt_rtx_parses_and_builds_every_graph(bundle: Bundle, graph: str) -> None:
    log = _Log()
    builder = trt.Builder(log)
    flag = trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED
    network = builder.create_network(1 << int(flag))
    parser = trt.OnnxParser(network, log)
    parsed = parser.parse_from_file(str(bundle.graph_file(graph)))
    assert parsed, [parser.get_error(i).desc() for i in range(parser.num_errors)]

    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        if -1 in list(tensor.shape):
            profile.set_shape(tensor.name, *_shapes(bundle, graph, tensor.name))
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM86, 0)
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    assert plan is not None, log.told
    assert not [message for message in log.told if "Unused" in message]


def _shapes(bundle: Bundle, graph: str, name: str) -> list[tuple[int, ...]]:
    """Smallest, usual and largest."""
    signature = contract.graphs(bundle.size, bundle.floats)[graph]
    (tensor,) = (tensor for tensor in signature.inputs if tensor.name == name)
    shapes = []
    for images, prompt, beams, capacity in ((1, 3, 1, 64), (1, 16, 3, 128), (2, 64, 3, 256)):
        sides = {"B": images, "T": prompt, "N": beams, "R": images * beams, "S": capacity}
        sides["E"] = bundle.size.image_tokens + prompt
        shapes.append(tuple(sides.get(str(side), side) for side in tensor.shape))
    return shapes  # type: ignore[return-value]
