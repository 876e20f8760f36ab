"""The comparison, as far as it needs no GPU: ONNX Runtime stands in for the engine."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from florence_edge import contract
from florence_edge.bundle import Bundle, StoredFile
from florence_edge.errors import BackendError, MissingPackageError
from florence_edge.tensorrt.install import TensorRT
from florence_edge.tensorrt.manifest import (
    LAYOUT_VERSION,
    EngineManifest,
    plan_name,
    sources,
)
from florence_edge.tensorrt.profiles import EngineOptions, profile_index, profiles
from florence_edge_calibration.probes import make_probes
from florence_edge_export.tensorrt_build import compare as compare_module
from florence_edge_export.tensorrt_build.compare import (
    POSITION,
    Drift,
    EngineComparison,
    Subject,
    compare,
    describe,
    drifts,
    inputs,
    onnx_with_all_outputs,
    open_polygraphy,
    run,
    runners_of,
    sides_of,
)

from ..helpers.engines import ORIN

pytest.importorskip("onnxruntime")
pytest.importorskip("polygraphy")

BEAMS = 3


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path) -> Bundle:
    return Bundle.load(tiny_bundle)


@pytest.fixture
def subject(bundle: Bundle, tmp_path: Path) -> Subject:
    manifest = EngineManifest(
        layout=LAYOUT_VERSION,
        producer="test",
        model=bundle.model,
        precision=bundle.precision,
        device=ORIN,
        options=EngineOptions(beams=BEAMS),
        sources=sources(bundle, EngineOptions()),
        plans={plan_name(graph): StoredFile(4, "0") for graph in contract.GRAPHS},
    )
    return Subject(bundle, tmp_path, manifest, TensorRT(None, "tensorrt", "10.3.0"))


def ort_runner(path: Path, name: str) -> Any:
    from polygraphy.backend.onnxrt import OnnxrtRunner, SessionFromOnnx

    return OnnxrtRunner(SessionFromOnnx(str(path), providers=["CPUExecutionProvider"]), name=name)


@pytest.mark.parametrize("broken", ["found", "expected"])
def test_nan_on_either_side_drifts_and_is_the_worst(broken: str) -> None:
    some, other = {"first": np.arange(4.0), "second": np.arange(4.0)}, np.arange(4.0)
    nan = {"first": np.array([0, 1, np.nan, 3]), "second": other}
    found = drifts(some, nan) if broken == "found" else drifts(nan, some)
    assert found == (Drift("first", float("inf")), Drift("second", 0.0))
    comparison = EngineComparison(graph="decoder", limit=0.3, drifts=found)
    assert comparison.first == comparison.worst == found[0]


def test_the_vision_encoder_is_compared_about_a_scene(bundle: Bundle) -> None:
    """Noise and ramps have no large activations."""
    pixels = inputs(bundle, BEAMS)[contract.VISION_ENCODER]["pixels"]
    np.testing.assert_array_equal(pixels, make_probes(bundle)[0].pixels)


def test_drifts_keep_the_order_of_computation_and_leave_ids_out() -> None:
    some = np.arange(4.0)
    expected = {"first": some, "only here": some, "top_ids": some, "second": some}
    found = {"second": some + 1, "top_ids": some + 9, "first": some}
    assert [drift.tensor for drift in drifts(expected, found)] == ["first", "second"]


def test_the_first_that_drifts_is_named_beside_the_worst() -> None:
    tensors = (Drift("a", 0.001), Drift("b", 0.2), Drift("c", float("inf")))
    text = describe(EngineComparison(graph="decoder", limit=0.05, drifts=tensors))
    assert "worst c inf" in text
    assert "the first that drifts: b, 0.2" in text


def test_without_a_drift_there_is_one_line() -> None:
    text = describe(EngineComparison(graph="decoder", limit=0.05, drifts=(Drift("a", 0.001),)))
    assert text == "decoder: 1 tensors, worst a 0.001 standard deviations off (limit 0.05)"


def test_inputs_are_the_contracts_and_one_profile_serves_them(bundle: Bundle) -> None:
    feeds = inputs(bundle, BEAMS)
    signatures = contract.graphs(bundle.size, bundle.floats)
    for graph, arrays in feeds.items():
        signature = signatures[graph]
        assert set(arrays) == {tensor.name for tensor in signature.inputs}
        assert all(str(arrays[tensor.name].dtype) == tensor.dtype for tensor in signature.inputs)
        sides = sides_of(signature, arrays)
        assert profile_index(profiles(bundle.size, EngineOptions(beams=BEAMS))[graph], sides) == 0
    cache = feeds[contract.DECODER][contract.self_cache(0, "key")]
    assert cache[:, :, :POSITION].all()
    assert not cache[:, :, POSITION:].any()


def test_the_comparator_finds_a_graph_equal_to_itself(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    def twice(subject: Subject, graph: str, *_: Any) -> list[Any]:
        path = subject.bundle.graph_file(graph)
        return [ort_runner(path, "onnxruntime"), ort_runner(path, "tensorrt")]

    monkeypatch.setattr(compare_module, "runners_of", twice)
    found = list(compare(subject, layers=False))
    assert [comparison.graph for comparison in found] == list(contract.GRAPHS)
    for comparison in found:
        expected = contract.graphs(subject.bundle.size, "float32")[comparison.graph].outputs
        named = [tensor.name for tensor in expected if tensor.name != "top_ids"]
        assert [drift.tensor for drift in comparison.drifts] == named
        assert comparison.first is None


def test_marking_every_tensor_names_them_in_the_order_of_computation(
    subject: Subject, tmp_path: Path
) -> None:
    graph = contract.VISION_ENCODER
    feeds = inputs(subject.bundle, BEAMS)[graph]
    marked = onnx_with_all_outputs(subject.bundle.graph_file(graph), tmp_path / "marked.onnx")
    (found,) = run([ort_runner(marked, "onnxruntime")], feeds)
    assert len(found) > 100
    assert list(found)[-1] == "image_features"


def test_the_runners_are_onnxruntime_and_the_engine_on_its_profile(subject: Subject) -> None:
    feeds = inputs(subject.bundle, BEAMS)[contract.DECODER]
    reference, engine = runners_of(subject, contract.DECODER, feeds, None)
    assert (reference.name, engine.name) == ("onnxruntime", "tensorrt")
    assert engine.optimization_profile == 0


def test_an_engine_that_does_not_run_is_one_message(subject: Subject) -> None:
    feeds = inputs(subject.bundle, BEAMS)[contract.VISION_ENCODER]
    missing = ort_runner(subject.folder / "none.onnx", "tensorrt")
    with pytest.raises(BackendError, match=r"comparison did not run: .*none\.onnx.*needs the GPU"):
        run([missing], feeds)


def test_without_polygraphy_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "polygraphy.logger", None)
    with pytest.raises(MissingPackageError, match=r"pip install .*\[debug\]"):
        open_polygraphy(TensorRT(None, "tensorrt", "10.3.0"))


_BUILD_MARKED = """
import sys
from pathlib import Path
from dataclasses import replace
from florence_edge import contract
from florence_edge.bundle import Bundle
from florence_edge.tensorrt.install import find_tensorrt
from florence_edge.tensorrt.profiles import EngineOptions, profiles
from florence_edge_export.tensorrt_build.build import target_device
from florence_edge_export.tensorrt_build.compare import engine_with_all_outputs, open_polygraphy

tensorrt = find_tensorrt("rtx")
open_polygraphy(tensorrt)
bundle = Bundle.load(sys.argv[1])
graph = contract.graphs(bundle.size, bundle.floats)["text_encoder"]
profile = profiles(bundle.size, EngineOptions())["text_encoder"][0]
device = target_device(tensorrt, "8.6")
loader = engine_with_all_outputs(bundle.graph_file("text_encoder"), graph, profile, device)
from polygraphy.backend.trt import EngineBytesFromNetwork
network, config = loader._network, loader._config
plan = EngineBytesFromNetwork(network, config=config)()
print(len(bytes(plan)))
"""


def test_polygraphy_builds_marked_engines_with_rtx_under_its_other_name(tiny_bundle: Path) -> None:
    """In a process of its own: Polygraphy chooses its TensorRT when it is imported."""
    pytest.importorskip("tensorrt_rtx_bindings")
    done = subprocess.run(
        [sys.executable, "-c", _BUILD_MARKED, str(tiny_bundle)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) > 10_000
