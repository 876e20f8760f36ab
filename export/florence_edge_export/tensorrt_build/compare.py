"""Engines against ONNX Runtime, graph by graph, with Polygraphy's Comparator (extra `debug`).

Both get the same inputs: what ONNX Runtime's own graphs before it gave, so that an error belongs to
the graph it is shown for. `layers` marks every tensor of the network as an output, builds that, and
names the first that drifts; marking prevents fusions, so it finds wrong operators rather than the
last digit of a fused kernel.
"""

import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from florence_edge import contract
from florence_edge.backends.base import NamedArrays
from florence_edge.backends.ort import open_ort
from florence_edge.bundle import Bundle
from florence_edge.errors import BackendError, MissingPackageError
from florence_edge.extras import pip_install
from florence_edge.tensorrt.install import TensorRT
from florence_edge.tensorrt.manifest import EngineManifest, TargetDevice, plan_name, source
from florence_edge.tensorrt.profiles import Profile, profile_index, profiles, prompt_buckets
from florence_edge_calibration.probes import deviation, make_probes

POSITION = 3  # of the decoder's step: some rows of the cache are written, others not

# Largest difference that passes, in standard deviations of the output. Chosen, not measured on a
# GPU: storage alone costs float16 some 0.01 (results/parity/half_errors.json).
LIMITS = {"fp32": 0.001, "fp16": 0.05}
LIMIT_OF_OTHERS = 0.3

IGNORED = ("top_ids",)  # ids of near ties change places; top_logits says how far apart they are


def inputs(bundle: Bundle, beams: int) -> dict[str, NamedArrays]:
    """Feeds of every graph for one image: those of a later graph are computed on ONNX Runtime."""
    size, rng = bundle.size, np.random.default_rng(0)
    backend = open_ort(bundle)
    pixels = make_probes(bundle)[0].pixels  # a scene: noise has no large activations
    features = backend.encode_image(pixels)
    prompt = prompt_buckets(size)[0]
    input_ids = rng.integers(4, size.vocab_size, (1, prompt), dtype=np.int64)
    mask = np.ones((1, size.image_tokens + prompt), dtype=np.int64)
    mask[:, -2:] = 0  # as if padded to the bucket
    crossed = backend.cross_caches(features, input_ids, mask)
    return {
        contract.VISION_ENCODER: {"pixels": pixels},
        contract.TEXT_ENCODER: {
            "image_features": features,
            "input_ids": input_ids,
            "encoder_mask": mask,
        },
        contract.DECODER: {
            "token_ids": rng.integers(4, size.vocab_size, (1, beams), dtype=np.int64),
            "position": np.array([POSITION], dtype=np.int64),
            "encoder_mask": mask,
            **_past(bundle, beams, rng),
            **crossed,
        },
    }


def sides_of(graph: contract.GraphSignature, feeds: NamedArrays) -> dict[str, int]:
    """The values of the graph's symbols in these feeds."""
    return {
        symbol: side
        for tensor in graph.inputs
        for symbol, side in zip(tensor.shape, feeds[tensor.name].shape, strict=True)
        if isinstance(symbol, str)
    }


def _past(bundle: Bundle, beams: int, rng: np.random.Generator) -> NamedArrays:
    """Self caches with POSITION rows of noise, zeros behind."""
    size = bundle.size
    shape = (beams, size.decoder_heads, contract.MIN_CACHE_CAPACITY, size.head_dim)
    caches = {}
    for layer in range(size.decoder_layers):
        for part in contract.PARTS:
            cache = np.zeros(shape, dtype=bundle.floats)
            cache[:, :, :POSITION] = rng.standard_normal(shape)[:, :, :POSITION]
            caches[contract.self_cache(layer, part)] = cache
    return caches


@dataclass(frozen=True, slots=True)
class Subject:
    """What is compared: a bundle and the engines of one folder."""

    bundle: Bundle
    folder: Path
    manifest: EngineManifest
    tensorrt: TensorRT


def runners_of(subject: Subject, graph: str, feeds: NamedArrays, scratch: Path | None) -> list[Any]:
    """Polygraphy's runners: ONNX Runtime on the CPU, and the engine on the profile of `feeds`.

    With a `scratch` folder every tensor is an output, and the engine is built anew.
    """
    from polygraphy.backend.onnxrt import OnnxrtRunner, SessionFromOnnx
    from polygraphy.backend.trt import TrtRunner

    bundle, manifest = subject.bundle, subject.manifest
    bundle.check_unlinked()
    signature, onnx = source(bundle, graph, manifest.options)
    of_graph = profiles(bundle.size, manifest.options)[graph]
    served = of_graph[profile_index(of_graph, sides_of(signature, feeds))]
    if scratch is None:
        engine = _stored_engine(subject.folder / plan_name(graph))
        index = of_graph.index(served)
    else:
        engine = engine_with_all_outputs(onnx, signature, served, manifest.device)
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
    onnx: Path, graph: contract.GraphSignature, profile: Profile, device: TargetDevice
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
        MissingPackageError: onnx is not installed.
    """
    if find_spec("onnx") is None:
        raise MissingPackageError(
            "Marking layers needs onnx, which is not installed. Install it with: "
            f"{pip_install('export')}"
        )
    from polygraphy import constants
    from polygraphy.backend.onnx import ModifyOutputs, OnnxFromPath, SaveOnnx

    marked = ModifyOutputs(OnnxFromPath(str(onnx)), outputs=constants.MARK_ALL)
    SaveOnnx(marked, str(path), external_data_path="marked.bin")()
    return path


def run(runners: list[Any], feeds: NamedArrays) -> list[Mapping[str, Any]]:
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
        MissingPackageError: Polygraphy is not installed.
    """
    if tensorrt.is_rtx:  # it imports `tensorrt_rtx`, which PyPI's wheels call otherwise
        os.environ["POLYGRAPHY_USE_TENSORRT_RTX"] = "1"
        sys.modules.setdefault("tensorrt_rtx", tensorrt.module)
    try:
        from polygraphy.logger import G_LOGGER
    except ImportError as failure:
        raise MissingPackageError(
            "Comparing needs Polygraphy, which is not installed. Install it with: "
            f"{pip_install('debug')}"
        ) from failure
    G_LOGGER.module_severity = G_LOGGER.ERROR  # or it fills stdout


@dataclass(frozen=True, slots=True)
class Drift:
    """How far a tensor is from ONNX Runtime's, in standard deviations; infinite for NaNs."""

    tensor: str
    error: float


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineComparison:
    """All compared tensors of a graph, in the order in which they are computed."""

    graph: str
    limit: float
    drifts: tuple[Drift, ...]

    @property
    def first(self) -> Drift | None:
        """The first tensor beyond the limit."""
        return next((drift for drift in self.drifts if not drift.error <= self.limit), None)

    @property
    def worst(self) -> Drift:
        """The tensor that is furthest off."""
        return max(self.drifts, key=lambda drift: drift.error)


def compare(subject: Subject, *, layers: bool) -> Iterator[EngineComparison]:
    """Compare graph by graph; needs the GPU that the engines were built for.

    Raises:
        BackendError: the engines do not run.
        MissingPackageError: Polygraphy or ONNX Runtime is not installed.
    """
    open_polygraphy(subject.tensorrt)
    limit = LIMITS.get(subject.bundle.precision, LIMIT_OF_OTHERS)
    for graph, feeds in inputs(subject.bundle, subject.manifest.options.beams).items():
        with tempfile.TemporaryDirectory() as scratch:
            runners = runners_of(subject, graph, feeds, Path(scratch) if layers else None)
            results = run(runners, feeds)
        yield EngineComparison(graph=graph, limit=limit, drifts=drifts(*results))


def drifts(expected: Mapping[str, Any], found: Mapping[str, Any]) -> tuple[Drift, ...]:
    """The error of each tensor that both have, in the order of `expected`."""
    both = [name for name in expected if name in found and name not in IGNORED]
    return tuple(Drift(name, deviation(found[name], expected[name])) for name in both)


def describe(comparison: EngineComparison) -> str:
    """A line on the graph, and one on the first tensor that drifts."""
    worst, first = comparison.worst, comparison.first
    line = f"{comparison.graph}: {len(comparison.drifts)} tensors, worst {worst.tensor} "
    line += f"{worst.error:.2g} standard deviations off (limit {comparison.limit})"
    if first is None:
        return line
    return f"{line}\n  the first that drifts: {first.tensor}, {first.error:.2g}"
