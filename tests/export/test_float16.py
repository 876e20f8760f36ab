"""float16 that overflows: found when a bundle is made, healed by islands of float32, and named."""

import json
import logging
import re
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from florence_edge import Florence2, contract
from florence_edge.bundle import Bundle
from florence_edge.errors import BackendError, BundleError
from florence_edge.tensorrt.install import find_tensorrt
from florence_edge.tensorrt.profiles import EngineOptions
from florence_edge_calibration.overflow import Lifted, observe
from florence_edge_calibration.probes import ProbeOutputs, answer, make_probes
from florence_edge_calibration.quantization.dataset import scene_samples
from florence_edge_calibration.quantization.recipe import Target
from florence_edge_export import float16
from florence_edge_export import smoke_test as smoke_test_module
from florence_edge_export.checkpoint.loader import MINIATURE, find_checkpoint
from florence_edge_export.export import ExportOptions, export, float_bundle, read_source
from florence_edge_export.quantization.export import QuantizationOptions
from florence_edge_export.tensorrt_build.build import BuildRequest, build_engines

pytest.importorskip("onnxruntime")

Scaling = Mapping[str, float]  # a pattern over tensors, and what those are multiplied by

# Each keeps float32 finite, and most its answers. In float16 each is beyond 65,504 somewhere.
OVERFLOWS: dict[str, Scaling] = {
    "the sums of a layer norm": {r"vision_tower\.convs\.0\.conv\.": 1e7},
    "a residual of 1e11": {r"vision_tower\.blocks\.1\.0\.spatial_block\.ffn\.fc2\.": 1e11},
    "an MLP": {
        r"vision_tower\.blocks\.2\.1\.channel_block\.ffn\.fc1\.": 1e5,
        r"vision_tower\.blocks\.2\.1\.channel_block\.ffn\.fc2\.weight": 1e-5,
    },
    "scores over windows": {r"blocks\.0\.0\.spatial_block\.window_attn\.qkv\.": 300},
    "scores over channels": {r"blocks\.3\.0\.channel_block\.channel_attn\.qkv\.": 300},
    "image features": {r"image_proj_norm\.": 1e6},
    "values of the text encoder": {
        r"encoder\.layers\.0\.self_attn\.v_proj\.": 1e7,
        r"encoder\.layers\.0\.self_attn\.out_proj\.weight": 1e-7,
    },
    "scores of the text encoder": {r"encoder\.layers\.1\.self_attn\.[qk]_proj\.": 300},
    "keys that cross": {
        r"decoder\.layers\.0\.encoder_attn\.k_proj\.": 1e6,
        r"decoder\.layers\.0\.encoder_attn\.q_proj\.": 1e-6,
    },
    "the decoder's MLP": {
        r"decoder\.layers\.1\.fc1\.": 1e6,
        r"decoder\.layers\.1\.fc2\.weight": 1e-6,
    },
    "the decoder's own keys": {
        r"decoder\.layers\.1\.self_attn\.k_proj\.": 1e6,
        r"decoder\.layers\.1\.self_attn\.q_proj\.": 1e-6,
    },
    "weights": {
        r"encoder\.layers\.0\.fc1\.": 1e9,
        r"encoder\.layers\.0\.fc2\.weight": 1e-9,
    },
    "words": {r"shared\.weight": 1e6, r"final_logits": 1.0},
}
LAYERS = {
    "the sums of a layer norm": "vision_encoder.convs.0.conv",
    "a residual of 1e11": "vision_encoder.blocks.1.0.spatial_block.ffn.fc2",
    "an MLP": "vision_encoder.blocks.2.1.channel_block.ffn.fc1",
    "scores over windows": "vision_encoder.blocks.0.0.spatial_block.window_attn",
    "scores over channels": "vision_encoder.blocks.3.0.channel_block.channel_attn",
    "values of the text encoder": "text_encoder.layers.0.self_attn.v_proj",
    "scores of the text encoder": "text_encoder.layers.1.self_attn",
    "keys that cross": "text_encoder.cross.0.k_proj",
    "the decoder's MLP": "decoder.layers.1.fc1",
    "the decoder's own keys": "decoder.layers.1.self_attn.k_proj",
    "weights": "text_encoder.layers.0.fc1",
    "words": "text_encoder.shared",
}


# What float32 does not notice: powers of two that the next layer takes back.
UNNOTICED: Scaling = {
    r"vision_tower\.convs\.0\.conv\.": 2.0**24,  # sums of the layer norm behind it
    r"blocks\.2\.0\.channel_block\.norm2\.": 2.0**13,  # what a layer norm gives
    r"blocks\.2\.0\.channel_block\.ffn\.fc1\.weight": 2.0**-13,
    r"encoder\.layers\.1\.self_attn\.v_proj\.": 2.0**20,  # weights
    r"encoder\.layers\.1\.self_attn\.out_proj\.weight": 2.0**-20,
    r"decoder\.layers\.0\.encoder_attn\.k_proj\.": 2.0**13,  # caches
    r"decoder\.layers\.0\.encoder_attn\.q_proj\.": 2.0**-13,
    r"decoder\.layers\.2\.self_attn\.v_proj\.": 2.0**13,
    r"decoder\.layers\.2\.self_attn\.out_proj\.weight": 2.0**-13,
}
UNNOTICED_LAYERS = {
    "vision_encoder.convs.0.conv",
    "vision_encoder.blocks.2.0.channel_block.ffn.fc1",
    "text_encoder.layers.1.self_attn.v_proj",
    "text_encoder.cross.0.k_proj",
    "decoder.layers.0.encoder_attn",
    "decoder.layers.2.self_attn.v_proj",
}


def rescaled(checkpoint: Path, folder: Path, scaling: Scaling) -> Path:
    """The checkpoint with some tensors multiplied."""
    shutil.copytree(checkpoint, folder)
    tensors = load_file(folder / "model.safetensors")
    for pattern, factor in scaling.items():
        for name in tensors:
            if re.search(pattern, name):
                tensors[name] = tensors[name].astype(np.float32) * np.float32(factor)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def exported(
    checkpoint: Path, folder: Path, precision: str, model: str = "scaled", **options: Any
) -> Bundle:
    output = folder / precision
    export(model, checkpoint, output, ExportOptions(precision=precision, **options))
    return Bundle.load(output)


def written_down(bundle: Bundle) -> dict[str, Any]:
    content = json.loads((bundle.folder / "fidelity.json").read_text(encoding="utf-8"))
    found: dict[str, Any] = content["against_float"]
    return found


def answers(bundle: Bundle, device: str = "cpu") -> list[str]:
    """To all tasks about two scenes."""
    samples = scene_samples(2, image_size=bundle.size.image_size, skip=300)
    with Florence2.load(bundle.folder, device, threads=1) as model:
        return [
            result.raw_text
            for sample in samples
            for result in model.answer([model.encode(sample.read())] * 15, sample.prompts)
        ]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The miniature, scaled so that float16 overflows in every graph, and weights beyond it."""
    folder = tmp_path_factory.mktemp("scaled") / "checkpoint"
    return rescaled(find_checkpoint(MINIATURE), folder, UNNOTICED)


@pytest.fixture(scope="module")
def floats(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return exported(checkpoint, tmp_path_factory.mktemp("floats"), "fp32")


@pytest.fixture(scope="module")
def halves(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return exported(checkpoint, tmp_path_factory.mktemp("halves"), "fp16")


def test_what_overflows_is_float32_and_the_answers_are_float32s(
    floats: Bundle, halves: Bundle
) -> None:
    found = written_down(halves)
    assert set(found["float32"]["overflowing"]) >= UNNOTICED_LAYERS
    assert found["float32"]["inaccurate"] == []
    assert max(found["deviations"].values()) < 0.05
    assert (halves.precision, halves.floats) == ("fp16", "float32")  # caches overflow, too
    assert answers(halves) == answers(floats)


def test_most_of_it_is_float16_all_the_same(floats: Bundle, halves: Bundle) -> None:
    sizes = [bundle.files["weights.bin"].bytes for bundle in (halves, floats)]
    assert sizes[0] < 0.7 * sizes[1]


def test_openvino_answers_the_same(floats: Bundle, halves: Bundle) -> None:
    pytest.importorskip("openvino")
    assert answers(halves, "openvino") == answers(floats)


@pytest.mark.slow
def test_tensorrt_takes_the_islands(halves: Bundle, tmp_path: Path) -> None:
    """Typed networks have casts around them; it builds without a GPU, and without a warning."""
    pytest.importorskip("tensorrt_rtx_bindings")
    options = EngineOptions(batch=2, beams=3, max_new_tokens=64)
    request = BuildRequest(options=options, engine_dir=tmp_path, ahead_of_time="8.6")
    outcome = build_engines(
        halves, find_tensorrt("rtx"), request, show=lambda _: None, accept=lambda _: None
    )
    assert set(outcome.built) == set(contract.GRAPHS)


@pytest.mark.parametrize("target", ["tensorrt", pytest.param("portable", marks=pytest.mark.slow)])
def test_an_int8_bundle_lifts_the_same(
    checkpoint: Path,
    floats: Bundle,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    target: Target,
) -> None:
    options = QuantizationOptions(target=target, samples=8, budget=None)
    bundle = exported(checkpoint, tmp_path, "int8", MINIATURE, quantization=options)
    found = written_down(bundle)
    assert set(found["float32"]["overflowing"]) >= UNNOTICED_LAYERS
    assert "because float16 overflows there" in caplog.text
    assert bundle.floats == "float32"
    expected = answers(floats)  # the unscaled miniature gives them in int8, too
    equal = [one == other for one, other in zip(answers(bundle), expected, strict=True)]
    assert np.mean(equal) > 0.9


def test_a_checkpoint_that_does_not_overflow_is_all_float16(
    tiny_checkpoint: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bundle = exported(tiny_checkpoint, tmp_path, "fp16")
    found = written_down(bundle)
    assert found["float32"] == {
        "beyond": 16376.0,
        "overflowing": [],
        "features_and_caches": False,
        "inaccurate": [],
    }
    assert max(found["deviations"].values()) < 0.05
    assert bundle.floats == "float16"
    assert not [each for each in caplog.records if each.levelno >= logging.WARNING]


@pytest.mark.slow
@pytest.mark.parametrize("what", OVERFLOWS)
def test_what_overflows_stays_float32_and_is_named(
    what: str, tiny_checkpoint: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint = rescaled(tiny_checkpoint, tmp_path / "checkpoint", OVERFLOWS[what])
    floats = exported(checkpoint, tmp_path, "fp32")
    halves = exported(checkpoint, tmp_path, "fp16")
    found = written_down(halves)
    assert max(found["deviations"].values()) <= float16.BOUND
    if what in LAYERS:
        assert LAYERS[what] in found["float32"]["overflowing"]
        assert "because float16 overflows there" in caplog.text
    with Florence2.load(floats.folder) as model, Florence2.load(halves.folder) as other:
        for probe in make_probes(floats):
            expected = answer(floats, model.backend, probe)
            given = answer(halves, other.backend, probe, expected.tokens)
            assert not given.not_finite()
            assert max(given.deviations(expected).values()) <= float16.BOUND


# --- what cannot be healed, or overflows in float32 already


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_checkpoint_that_overflows_in_float32_is_refused_with_the_layer(
    precision: str, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    scaling = {r"blocks\.1\.0\.spatial_block\.ffn\.fc[12]\.": 1e30}
    checkpoint = rescaled(tiny_checkpoint, tmp_path / "checkpoint", scaling)
    message = r"^vision_encoder\.blocks\.1\.0\.spatial_block\.ffn\.fc2 gives values .* float32"
    with pytest.raises(BundleError, match=message):
        exported(checkpoint, tmp_path, precision)
    assert not (tmp_path / precision).exists()
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def test_an_int8_bundle_that_is_not_finite_is_refused(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = replace(Bundle.load(tiny_bundle), precision="int8")
    nan = np.full((1, 4), np.nan, np.float32)
    broken = ProbeOutputs(image_features=nan, log_probs=nan, tokens=())
    monkeypatch.setattr(smoke_test_module, "answer", lambda *_: broken)
    message = r"image_features has values that are not finite about scene.*--precision fp32"
    nothing: Any = None
    with pytest.raises(BundleError, match=message):
        smoke_test_module.smoke_test(bundle, nothing)


def test_float16_that_is_too_coarse_is_lifted_block_by_block(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = Bundle.load(tiny_bundle)
    seen = observe(bundle, make_probes(bundle)[:1])
    of_text = seen.records[contract.TEXT_ENCODER]
    records = {contract.TEXT_ENCODER: of_text}
    trial = float16._Trial(bundle, contract.TEXT_ENCODER, of_text, Lifted())
    blocks = trial.blocks()
    alone = {block: trial.error_of(block) for block in blocks}
    assert max(alone.values()) <= trial.error([]) < 0.02  # no block is worse than all of them
    monkeypatch.setattr(float16, "_OF_A_GRAPH", 0.9 * trial.error([]))
    lifted = float16.find_inaccurate(bundle, records, Lifted())
    assert lifted[0] == max(alone, key=lambda block: alone[block])
    assert trial.error(lifted) <= 0.9 * trial.error([])
    monkeypatch.setattr(float16, "_OF_A_GRAPH", 0.0)
    with pytest.raises(BundleError, match=r"even with the \d+ worst of its \d+ blocks in float32"):
        float16.find_inaccurate(bundle, records, Lifted())


def test_a_fused_decoder_goes_when_a_later_round_lifts_from_it(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fused: list[bool] = []
    compared: list[int] = []

    def compare(floats: Bundle, pixels: Any, expected: Any) -> None:
        smoke_test_module.check_fused_vision(floats, pixels, expected)
        with pytest.raises(BundleError, match=r"vision_encoder\.cuda in float32 .* --portable-dec"):
            smoke_test_module.check_fused_vision(floats, pixels, -expected)
        compared.append(len(pixels))

    def too_far_once(bundle: Bundle, *_: Any) -> list[dict[str, float]]:
        fused.append(bundle.graph_file(contract.CUDA_DECODER).exists())
        return [{"log_probs": 0.0 if fused[1:] else 1.0}]

    monkeypatch.setattr(float16, "make_probes", lambda floats: make_probes(floats)[:1])
    monkeypatch.setattr(float16, "_deviations", too_far_once)
    monkeypatch.setattr(float16, "check_fused_vision", compare)
    monkeypatch.setattr(float16, "find_inaccurate", lambda *_: ["decoder.layers.0"])
    source = read_source("tiny", tiny_checkpoint, ExportOptions(precision="fp16"))
    source = replace(source, tensorrt_decoders=False)
    folder = tmp_path / "fp16"
    folder.mkdir()
    with float_bundle(source, folder) as floats:
        float16.write_float16(floats, source, folder)
    assert fused == [True, False]
    assert compared == [1]  # one picture, once
    files = Bundle.load(folder).files
    assert f"{contract.CUDA_DECODER}.onnx" not in files
    assert f"{contract.VISION_TENSORRT}.onnx" in files


def test_a_checkpoint_that_float16_does_not_serve_leaves_no_bundle(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(float16, "BOUND", 1e-6)
    monkeypatch.setattr(float16, "_ROUNDS", 1)
    monkeypatch.setattr(float16, "find_inaccurate", lambda *_: ["decoder.layers.0"])
    message = r"In float16 the \w+ of scaled are .* Export it with --precision fp32\.$"
    with pytest.raises(BundleError, match=message):
        exported(tiny_checkpoint, tmp_path, "fp16")
    assert not (tmp_path / "fp16").exists()


def test_an_in_place_decoder_that_differs_is_refused(
    halves: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    smoke_test_module.check_decoders(halves)
    monkeypatch.setattr(smoke_test_module, "_SAME", 0.0)
    with pytest.raises(BundleError, match="Add --portable-decoder"):
        smoke_test_module.check_decoders(halves)


def test_an_in_place_decoder_that_finds_no_memory_ends_the_export(
    halves: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def short(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(smoke_test_module, "open_session", short)
    with pytest.raises(BackendError, match=r"decoder was not run.* memory"):
        smoke_test_module.check_decoders(halves)
