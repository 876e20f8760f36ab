"""The decoders for TensorRT: beside the portable one, and built by TensorRT."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx.reference import ReferenceEvaluator

from florence_edge import contract
from florence_edge.bundle import Bundle
from florence_edge.errors import BundleError
from florence_edge.tensorrt.install import find_tensorrt
from florence_edge.tensorrt.profiles import EngineOptions
from florence_edge_export.checkpoint.loader import MINIATURE, find_checkpoint
from florence_edge_export.export import ExportOptions, export
from florence_edge_export.quantization.export import QuantizationOptions
from florence_edge_export.tensorrt_build.build import BuildRequest, build_engines

from ..helpers.manifests import edit_manifest
from . import folders
from .stored_graphs import assert_has_the_tensors_of, places

Arrays = dict[str, Any]

PRECISIONS = ("fp32", "fp16", "int8")
ATTENDED, IMAGES, BEAMS, ENCODED, STEPS = 64, 2, 3, 20, 5
CAPACITY = 128  # of engines
CLOSE = {"fp32": 1e-4, "fp16": 0.03, "int8": 0.03}  # another order of sums, in half


_TRIED = [pytest.param(each, marks=pytest.mark.slow) for each in ("fp32", "int8")]


@pytest.fixture(scope="module", params=["fp16", *_TRIED])
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp(request.param) / "bundle"
    quantization = QuantizationOptions(samples=8, budget=None)
    options = ExportOptions(precision=request.param, quantization=quantization)
    export(MINIATURE, find_checkpoint(MINIATURE), folder, options)
    return Bundle.load(folder)


def session(bundle: Bundle, graph: str) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # it warns that it copies where nothing is bound in place
    options.add_session_config_entry("session.disable_quant_qdq", "1")  # as the runtime does
    return onnxruntime.InferenceSession(str(bundle.graph_file(graph)), options)


def caches_of(bundle: Bundle) -> list[tuple[int, contract.Part]]:
    return [(i, part) for i in range(bundle.size.decoder_layers) for part in contract.PARTS]


def first_step(bundle: Bundle, *, in_place: bool) -> Arrays:
    """What a decoder takes, the caches empty."""
    size, rng = bundle.size, np.random.default_rng(0)
    crossed = (IMAGES, size.decoder_heads, ENCODED, size.head_dim)
    capacity = size.decoder_positions if in_place else ATTENDED
    empty = (IMAGES * BEAMS, size.decoder_heads, capacity, size.head_dim)
    feeds: Arrays = {"encoder_mask": np.ones((IMAGES, ENCODED), dtype=np.int64)}
    feeds["encoder_mask"][1, -7:] = 0
    for of in caches_of(bundle):
        feeds[contract.cross_cache(*of)] = rng.standard_normal(crossed).astype(bundle.floats)
        feeds[contract.self_cache(*of)] = np.zeros(empty, dtype=bundle.floats)
    if in_place:
        feeds["rows"] = np.arange(ATTENDED)
    return feeds


def steps(bundle: Bundle, name: str) -> Iterator[tuple[Arrays, Arrays]]:
    """Scores and caches of some steps of a decoder that gets the same tokens."""
    in_place = name == contract.IN_PLACE
    decoder = session(bundle, name)
    names = [output.name for output in decoder.get_outputs()]
    rng, feeds = np.random.default_rng(1), first_step(bundle, in_place=in_place)
    for position in range(STEPS):
        feeds["position"] = np.array([position])
        feeds["token_ids"] = rng.integers(4, bundle.size.vocab_size, (IMAGES, BEAMS))
        out = dict(zip(names, decoder.run(None, feeds), strict=True))
        for of in caches_of(bundle):
            cache = feeds[contract.self_cache(*of)]
            if in_place:
                cache[:] = out[contract.kept_cache(*of)]
            else:
                cache[:, :, position] = out[contract.new_row(*of)][:, :, 0]
        yield out, {name: feeds[name].copy() for name in feeds if name.startswith("self")}


@pytest.mark.parametrize("name", contract.TENSORRT_DECODERS)
def test_it_computes_what_the_portable_decoder_does(bundle: Bundle, name: str) -> None:
    both = zip(steps(bundle, name), steps(bundle, contract.DECODER), strict=True)
    for position, ((found, kept), (expected, placed)) in enumerate(both):
        close = CLOSE[bundle.precision]
        np.testing.assert_allclose(found["logits"], expected["logits"], atol=close)
        for of, cache in kept.items():
            assert np.abs(cache[:, :, position]).max() > 0
            assert not cache[:, :, position + 1 :].any()
            np.testing.assert_allclose(cache[:, :, :ATTENDED], placed[of], atol=close)


def test_onnx_itself_agrees(bundle: Bundle) -> None:
    """Another reading of TensorScatter than ONNX Runtime's."""
    if bundle.precision != "fp32":
        pytest.skip("in float32 alone: onnx's evaluator has no float16 for every operator")
    feeds = first_step(bundle, in_place=True)
    feeds["position"], feeds["token_ids"] = np.array([0]), np.full((IMAGES, BEAMS), 5)
    path = bundle.graph_file(contract.IN_PLACE)
    names = [contract.kept_cache(0, "key"), "logits"]
    evaluator: Any = ReferenceEvaluator(str(path))
    kept, logits = evaluator.run(names, feeds)
    expected = session(bundle, contract.IN_PLACE).run(names, feeds)
    np.testing.assert_allclose(kept, expected[0], atol=1e-4)
    np.testing.assert_allclose(logits, expected[1], atol=1e-3)


def test_it_is_the_contracts_graph_on_the_same_weights(bundle: Bundle) -> None:
    model = onnx.load(bundle.graph_file(contract.IN_PLACE), load_external_data=False)
    onnx.checker.check_model(str(bundle.graph_file(contract.IN_PLACE)))
    assert [opset.version for opset in model.opset_import] == [24]
    assert bundle.tensorrt_decoders
    expected = contract.in_place_decoder(bundle.size, bundle.floats, bundle.size.decoder_positions)
    assert_has_the_tensors_of(model, expected)
    portable = onnx.load(bundle.graph_file(contract.DECODER), load_external_data=False)
    assert places(model) == places(portable)


def test_tensorrt_builds_it_without_a_warning(
    bundle: Bundle, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("tensorrt_rtx_bindings")
    options = EngineOptions(batch=2, beams=3, max_new_tokens=100, in_place=CAPACITY)
    request = BuildRequest(options=options, engine_dir=tmp_path, ahead_of_time="8.6")
    outcome = build_engines(
        bundle, find_tensorrt("rtx"), request, show=lambda _: None, accept=lambda _: None
    )
    assert contract.DECODER in outcome.built
    assert "decoder.inplace.onnx" in outcome.manifest.sources
    assert [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING] == []


def test_the_portable_bundle_is_the_same_without_it(
    tiny_checkpoint: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    export("tiny", tiny_checkpoint, tmp_path / "bundle", ExportOptions(tensorrt_decoders=False))
    both = Bundle.load(tiny_bundle)
    alone = Bundle.load(tmp_path / "bundle")
    assert (alone.tensorrt_decoders, both.tensorrt_decoders) == (False, True)
    assert both.files.keys() - alone.files.keys() == {
        "decoder.inplace.onnx",
        "decoder.tensorrt.onnx",
    }
    for graph in contract.GRAPHS:
        assert both.files[f"{graph}.onnx"] == alone.files[f"{graph}.onnx"]
    assert both.files["weights.bin"] == alone.files["weights.bin"]


def test_what_is_made_for_the_cpu_has_none(tmp_path: Path) -> None:
    options = ExportOptions(
        precision="int8", quantization=QuantizationOptions(target="cpu", samples=8, budget=None)
    )
    export(MINIATURE, find_checkpoint(MINIATURE), tmp_path / "bundle", options)
    bundle = Bundle.load(tmp_path / "bundle")
    assert not bundle.tensorrt_decoders
    assert not {"decoder.inplace.onnx", "decoder.tensorrt.onnx"} & bundle.files.keys()


@pytest.mark.parametrize("damage", ["unlisted", "a number"])
def test_a_manifest_that_promises_it_wrongly_is_refused(
    tiny_bundle: Path, tmp_path: Path, damage: str
) -> None:
    copy = folders.copy(tiny_bundle, tmp_path / "bundle")
    if damage == "unlisted":
        edit_manifest(copy, lambda manifest: manifest["files"].pop("decoder.inplace.onnx"))
    else:
        edit_manifest(copy, lambda manifest: manifest.update(tensorrt_decoders=64))
    message = "does not list decoder.inplace.onnx" if damage == "unlisted" else "tensorrt_decoders"
    with pytest.raises(BundleError, match=message):
        Bundle.load(copy)
