"""ONNX Runtime's CUDA provider with graphs of its own operators, over the scripted CUDA."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from florence_edge import TASKS, BackendError, Florence2, GenerationOptions, RequestError, contract
from florence_edge.backends import ort_cuda, ort_package
from florence_edge.bundle import Bundle, StoredFile, sha256

from ..helpers.manifests import edit_manifest
from .asking import SHORT, ask, assert_alike
from .fake_cuda import FakeCuda
from .fake_ort import Session, script_onnxruntime
from .on_gpu import require_onnxruntime_gpu
from .test_ort_cuda import note_streams

FUSED = f"{contract.CUDA_DECODER}.onnx"
VISION = f"{contract.VISION_CUDA}.onnx"


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    return script_onnxruntime(monkeypatch)


@pytest.fixture(scope="module")
def fused_bundle(
    tiny_bundle: Path, tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The tiny bundle with those graphs, in float32, as ONNX Runtime's CPU computes them here."""
    build = pytest.importorskip("florence_edge_export.graphs.build")
    weights = pytest.importorskip("florence_edge_export.graphs.weights")
    defaults = pytest.importorskip("florence_edge_export.checkpoint.defaults")
    loader = pytest.importorskip("florence_edge_export.checkpoint.loader")
    onnx_ir = pytest.importorskip("onnx_ir")
    if ort_package.ort_version() < ort_cuda._FUSED_SINCE:
        pytest.skip("this ONNX Runtime is older than those that run the decoder")
    folder = Path(shutil.copytree(tiny_bundle, tmp_path_factory.mktemp("fused") / "bundle"))
    checkpoint, size = loader.read_checkpoint(tiny_checkpoint), Bundle.load(folder).size
    image = defaults.read_image_processing(tiny_checkpoint)
    constants = weights.GraphWeights(checkpoint, size.image_size, image.mean, image.std)
    listed = {}
    for name, model in build.build_cuda_graphs(checkpoint.config, size, constants).items():
        file = folder / f"{name}.onnx"
        onnx_ir.save(model, file)
        stored = StoredFile(file.stat().st_size, sha256(file))
        listed[file.name] = {"bytes": stored.bytes, "sha256": stored.sha256}
    edit_manifest(folder, lambda manifest: manifest["files"].update(listed))
    return folder


def opened(model: Florence2, graph: str = contract.DECODER) -> str:
    session: Any = model.backend.model.sessions[graph]  # type: ignore[attr-defined]
    return Path(session._session.path).name


@pytest.mark.parametrize("num_beams", [1, 3])
def test_all_15_tasks_are_answered_as_by_the_portable_decoder(
    fake: FakeCuda,
    fused_bundle: Path,
    tiny_model: Florence2,
    pictures: list[Image.Image],
    num_beams: int,
) -> None:
    options = replace(SHORT, num_beams=num_beams)
    model = Florence2.load(fused_bundle, "cuda")
    assert opened(model) == FUSED
    assert opened(model, contract.VISION_ENCODER) == VISION
    for task in TASKS:
        found = ask(model, task, pictures[0], options)
        assert_alike(found, ask(tiny_model, task, pictures[0], options))
    assert "place_rows" not in fake.kernels


@pytest.mark.parametrize("steps", ["1", "2"])
@pytest.mark.parametrize("num_beams", [1, 3])
def test_caches_grow_with_the_rows_that_it_wrote(
    fake: FakeCuda,
    fused_bundle: Path,
    tiny_model: Florence2,
    pictures: list[Image.Image],
    monkeypatch: pytest.MonkeyPatch,
    num_beams: int,
    steps: str,
) -> None:
    monkeypatch.setenv("FLORENCE_MULTI_STEP", steps)
    options = GenerationOptions(num_beams=num_beams, max_new_tokens=80)
    model = Florence2.load(fused_bundle, "cuda")
    expected = ask(tiny_model, "CAPTION", pictures[0], options)
    for _ in range(2):  # the second time, everything is captured already
        assert_alike(ask(model, "CAPTION", pictures[0], options), expected)
    assert len(expected.token_ids) > contract.MIN_CACHE_CAPACITY
    assert "cudaGraphLaunch" in fake.calls


def test_the_plain_graphs_run_where_that_is_wanted_or_the_release_is_older(
    fake: FakeCuda,
    fused_bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ort_cuda, "ort_version", lambda: (1, 27))
    assert opened(Florence2.load(fused_bundle, "cuda")) == "decoder.onnx"
    monkeypatch.setattr(ort_cuda, "ort_version", lambda: (1, 28))
    assert opened(Florence2.load(fused_bundle, "cuda")) == FUSED
    monkeypatch.setenv("FLORENCE_FUSED_GRAPHS", "0")
    plain = Florence2.load(fused_bundle, "cuda")
    assert opened(plain) == "decoder.onnx"
    assert opened(plain, contract.VISION_ENCODER) == "vision_encoder.onnx"
    monkeypatch.setenv("FLORENCE_FUSED_GRAPHS", "no")
    with pytest.raises(RequestError, match="FLORENCE_FUSED_GRAPHS is 'no'; expected 1 or 0"):
        Florence2.load(fused_bundle, "cuda")


@pytest.mark.parametrize("failing", ["compiler", "inputs"])
@pytest.mark.parametrize("fused", [True, False])
def test_where_opening_fails_sessions_go_before_their_stream_too(
    fake: FakeCuda,
    fused_bundle: Path,
    tiny_bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
    fused: bool,
    failing: str,
) -> None:
    def refuse(*arguments: Any) -> None:
        raise BackendError("no")

    streams = note_streams(fake, monkeypatch)
    if failing == "compiler":  # of our kernels, once all three are open
        monkeypatch.setattr(fake, "nvrtcCompileProgram", refuse)
    else:  # of the first, which nothing refers to yet
        monkeypatch.setattr(ort_cuda.OrtCudaSession, "_check_inputs", refuse)
    with pytest.raises(BackendError):
        Florence2.load(fused_bundle if fused else tiny_bundle, "cuda")
    opened = 3 if failing == "compiler" else 1 + fused
    assert streams == [True] * opened
    assert fake.held == []


@pytest.mark.parametrize("graph", [contract.VISION_ENCODER, contract.DECODER])
def test_a_release_that_refuses_one_runs_the_plain_one_and_that_is_said(
    fake: FakeCuda,
    fused_bundle: Path,
    tiny_model: Florence2,
    pictures: list[Image.Image],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    graph: str,
) -> None:
    def refuse(bundle: Bundle, name: str, provider: tuple[str, dict[str, str]]) -> Session:
        if name == f"{graph}.cuda":
            raise BackendError("Could not find an implementation for it.")
        return Session(fake, str(bundle.graph_file(name)), provider[1])

    monkeypatch.setattr(ort_cuda, "open_session", refuse)
    model = Florence2.load(fused_bundle, "cuda")
    assert opened(model, graph) == f"{graph}.onnx"
    assert_alike(ask(model, "OD", pictures[0], SHORT), ask(tiny_model, "OD", pictures[0], SHORT))
    said = f"{graph}.onnx runs instead, which is slower. Could not find"
    assert caplog.text.count(said) == 1


@pytest.mark.gpu
def test_on_a_gpu_its_features_are_those_of_the_plain_encoder(
    tiny_half_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No CPU computes that Attention in float16."""
    require_onnxruntime_gpu()
    found = {}
    for wanted in ("1", "0"):
        monkeypatch.setenv("FLORENCE_FUSED_GRAPHS", wanted)
        with Florence2.load(tiny_half_bundle, "cuda") as model:
            side = model.bundle.size.image_size
            pixels = np.random.default_rng(0).integers(0, 256, (2, side, side, 3), dtype=np.uint8)
            found[wanted] = np.asarray(model.backend.encode_image(pixels), dtype=np.float32)
    assert np.abs(found["1"] - found["0"]).max() < 0.05 * found["0"].std()


@pytest.mark.gpu
@pytest.mark.parametrize("beams", [1, 3])
def test_on_a_gpu_its_scores_are_those_of_the_plain_decoder(
    tiny_half_bundle: Path, monkeypatch: pytest.MonkeyPatch, beams: int
) -> None:
    require_onnxruntime_gpu()
    found = {}
    for wanted in ("1", "0"):
        monkeypatch.setenv("FLORENCE_FUSED_GRAPHS", wanted)
        with Florence2.load(tiny_half_bundle, "cuda") as model:
            found[wanted] = logits_of_steps(model, beams)
    np.testing.assert_allclose(found["1"], found["0"], atol=0.05)


def logits_of_steps(model: Florence2, beams: int) -> Any:
    """Of steps into the second capacity, fed the same tokens; beams part at every fourth."""
    size, rng = model.bundle.size, np.random.default_rng(0)
    pixels = rng.integers(0, 256, (1, size.image_size, size.image_size, 3), dtype=np.uint8)
    ids, mask = np.full((1, 5), 9), np.ones((1, size.image_tokens + 5), dtype=np.int64)
    features = model.backend.encode_image(pixels)
    decoder = model.backend.prefill(features, ids, mask, beams=beams)
    own, rows = np.arange(beams)[None], []
    for step in range(contract.MIN_CACHE_CAPACITY + 8):
        tokens = rng.integers(5, size.vocab_size, (1, beams))
        parents = np.zeros_like(own) if step == 0 else np.roll(own, step % 4 == 0)
        (scores,) = decoder.step(tokens, parents)
        rows.append(scores.logits().copy())
    return np.array(rows)
