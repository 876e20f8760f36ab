"""Polygraphy's runners for a graph: ONNX Runtime and the engine, plain or with every tensor out."""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from florence_edge import contract
from florence_edge.bundle import Bundle
from florence_edge.engines.flavours import TensorRT
from florence_edge.engines.profiles import Profile, profile_index, profiles
from florence_edge.engines.record import Device, EngineRecord, plan_name
from florence_edge.errors import BackendError

from .inputs import Arrays, sides_of


@dataclass(frozen=True, slots=True)
class Subject:
    """What is compared: a bundle and the engines of one folder."""

    bundle: Bundle
    folder: Path
    record: EngineRecord
    tensorrt: TensorRT


def runners_of(subject: Subject, graph: str, feeds: Arrays, scratch: Path | None) -> list[Any]:
    """Polygraphy's runners: ONNX Runtime on the CPU, and the engine on the profile of `feeds`.

    With a `scratch` folder every tensor is an output, and the engine is built anew.
    """
    from polygraphy.backend.onnxrt import OnnxrtRunner, SessionFromOnnx
    from polygraphy.backend.trt import TrtRunner

    bundle, record = subject.bundle, subject.record
    onnx, of_graph = bundle.graph_file(graph), profiles(bundle.size, record.options)[graph]
    signature = contract.graphs(bundle.size, bundle.floats)[graph]
    served = of_graph[profile_index(of_graph, sides_of(signature, feeds))]
    if scratch is None:
        engine = _stored_engine(subject.folder / plan_name(graph))
        index = of_graph.index(served)
    else:
        engine = engine_with_all_outputs(onnx, signature, served, record.device)
        onnx, index = onnx_with_all_outputs(onnx, scratch / "marked.onnx"), 0
    session = SessionFromOnnx(str(onnx), providers=["CPUExecutionProvider"])
    return [
        OnnxrtRunner(session, name="onnxruntime"),
        TrtRunner(engine, name="tensorrt", optimization_profile=index),
    ]


def _stored_engine(plan: Path) -> Any:
    from polygraphy.backend.common import BytesFromPath
    from polygraphy.backend.trt import EngineFromBytes

    return EngineFromBytes(BytesFromPath(str(plan)))


def engine_with_all_outputs(
    onnx: Path, graph: contract.Graph, profile: Profile, device: Device
) -> Any:
    """A loader of an engine that gives every tensor, for one profile."""
    from polygraphy import constants
    from polygraphy.backend.trt import (
        CreateConfig,
        EngineFromNetwork,
        ModifyNetworkOutputs,
        NetworkFromOnnxPath,
    )
    from polygraphy.backend.trt import Profile as Shapes

    shapes = Shapes()
    for tensor in graph.inputs:
        shapes.add(tensor.name, *profile.shapes(tensor))
    network = NetworkFromOnnxPath(str(onnx), strongly_typed=True)
    marked = ModifyNetworkOutputs(network, outputs=constants.MARK_ALL)
    if device.flavour == "tensorrt_rtx":
        from polygraphy.backend.tensorrt_rtx import CreateConfigRTX

        major, minor = map(int, device.compute_capability.split("."))
        config = CreateConfigRTX(profiles=[shapes], compute_capabilities=[(major, minor)])
        return EngineFromNetwork(marked, config)
    return EngineFromNetwork(marked, CreateConfig(profiles=[shapes], tf32=False))


def onnx_with_all_outputs(onnx: Path, path: Path) -> Path:
    """Write the graph with every tensor as an output.

    Raises:
        BackendError: the onnx package is missing.
    """
    if find_spec("onnx") is None:
        raise BackendError(
            "Marking layers needs onnx, which is not installed. Install florence-edge[export]."
        )
    from polygraphy import constants
    from polygraphy.backend.onnx import ModifyOutputs, OnnxFromPath, SaveOnnx

    marked = ModifyOutputs(OnnxFromPath(str(onnx)), outputs=constants.MARK_ALL)
    SaveOnnx(marked, str(path), external_data_path="marked.bin")()
    return path


def run(runners: list[Any], feeds: Arrays) -> list[Mapping[str, Any]]:
    """Outputs of each runner by name, for one call.

    Raises:
        BackendError: an engine does not run.
    """
    from polygraphy.comparator import Comparator

    try:
        results = Comparator.run(runners, data_loader=[feeds])
    except Exception as failure:
        raise BackendError(
            f"The comparison did not run: {failure}. It needs the GPU the engines were built for."
        ) from failure
    return [results[runner.name][0] for runner in runners]


def open_polygraphy(tensorrt: TensorRT) -> None:
    """Check that it is there, and point it at the TensorRT that built the engines.

    Raises:
        BackendError: Polygraphy is not installed.
    """
    if tensorrt.is_rtx:  # it imports `tensorrt_rtx`, which PyPI's wheels call otherwise
        os.environ["POLYGRAPHY_USE_TENSORRT_RTX"] = "1"
        sys.modules.setdefault("tensorrt_rtx", tensorrt.module)
    try:
        from polygraphy.logger import G_LOGGER
    except ImportError as failure:
        raise BackendError(
            "Comparing needs Polygraphy, which is not installed. Install florence-edge[debug]."
        ) from failure
    G_LOGGER.module_severity = G_LOGGER.ERROR  # or it fills stdout
