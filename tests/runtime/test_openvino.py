import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from florence_edge import (
    TASKS,
    BackendError,
    Florence2,
    GenerationOptions,
    MissingPackageError,
    RequestError,
)
from florence_edge.backends.open import open_engine
from florence_edge.bundle import Bundle
from florence_edge.cli.main import main
from florence_edge.tasks import Needs, free_prompt

from .miniature_answers import assert_same_answers

openvino = pytest.importorskip("openvino", reason="install florence-edge[openvino]")

REGION = (10, 20, 60, 45)


@pytest.fixture(scope="module")
def model(tiny_bundle: Path) -> Florence2:
    return Florence2.load(tiny_bundle, "openvino", threads=1)


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    rng = np.random.default_rng(1)
    noise = [Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)) for _ in range(3)]
    return [image.resize((80, 60)) for image in noise]


def exported(checkpoint: Path, folder: Path, **options: Any) -> Path:
    exporting = pytest.importorskip("florence_edge_export.export")
    exporting.export("tiny", checkpoint, folder, exporting.ExportOptions(**options))
    return folder


@pytest.fixture
def no_openvino(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)  # importing it fails


# Answers.


@pytest.mark.parametrize("num_beams", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_the_miniature_answers_as_on_onnx_runtime(num_beams: int, miniature_bundle: Path) -> None:
    assert_same_answers(miniature_bundle, "openvino", num_beams)


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize("task", TASKS)
def test_a_batch_answers_as_on_onnx_runtime(
    model: Florence2,
    tiny_model: Florence2,
    pictures: list[Image.Image],
    task: str,
    num_beams: int,
) -> None:
    options = GenerationOptions(num_beams=num_beams, max_new_tokens=12)
    needs = TASKS[task].needs
    texts = ["cat", "a red car", "two"] if needs is Needs.TEXT else None
    regions = [REGION] * 3 if needs is Needs.REGION else None
    found, expected = (
        each.run(pictures, task, texts, region=regions, options=options)
        for each in (model, tiny_model)
    )
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.token_ids == theirs.token_ids
        assert ours.token_log_probs == pytest.approx(theirs.token_log_probs, abs=1e-4)


@pytest.mark.parametrize("num_beams", [1, 3])
def test_answers_are_equal_through_three_cache_buckets(
    model: Florence2, tiny_model: Florence2, pictures: list[Image.Image], num_beams: int
) -> None:
    options = GenerationOptions(num_beams=num_beams, max_new_tokens=150)
    found, expected = (each.run(pictures[0], "OD", options=options) for each in (model, tiny_model))
    assert len(found.token_ids) == 151
    assert found.token_ids == expected.token_ids


def test_the_decoder_works_in_the_arrays_it_is_given(
    model: Florence2, pictures: list[Image.Image]
) -> None:
    """Tokens changed in place are read, and scores are written to the same place."""
    view = model.encode(pictures[0])
    input_ids, mask = model.encode_prompts([free_prompt("What?")])
    decoder = model.backend.prefill(view.features, input_ids, mask, beams=1)
    nobody = np.zeros((1, 1), dtype=np.int64)
    (first,) = decoder.step(np.array([[2]]), nobody)
    kept = first.logits().copy()
    (second,) = decoder.step(np.array([[9]]), nobody)
    assert np.shares_memory(first.logits(), second.logits())
    assert np.abs(second.logits() - kept).max() > 1e-3


def test_two_generations_may_be_open_at_once(model: Florence2, pictures: list[Image.Image]) -> None:
    view = model.encode(pictures[0])
    input_ids, mask = model.encode_prompts([free_prompt("What?")])
    nobody = np.zeros((1, 1), dtype=np.int64)
    one, other = (model.backend.prefill(view.features, input_ids, mask, beams=1) for _ in range(2))
    (alone,) = one.step(np.array([[7]]), nobody)
    kept = alone.full().copy()
    other.step(np.array([[8]]), nobody)
    np.testing.assert_array_equal(alone.full(), kept)


def test_fp16_bundles_are_computed_in_float32_and_come_close(
    tiny_half_bundle: Path, tiny_model: Florence2, pictures: list[Image.Image]
) -> None:
    half = Florence2.load(tiny_half_bundle, "openvino", threads=1)
    features, expected = (each.encode(pictures[0]).features for each in (half, tiny_model))
    assert features.dtype == np.float32
    assert np.abs(features - expected).max() < 0.02 * np.abs(expected).max()
    errors = half.self_test()
    assert set(errors) == {"image_features", "top_log_probs"}
    assert max(errors.values()) < 0.05


def test_the_engine_passes_the_bundles_own_test(model: Florence2) -> None:
    assert max(model.self_test().values()) < 1e-4


# Precision.


def test_float32_is_said_explicitly(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or OpenVINO would take bfloat16 and int8 activations wherever the CPU has instructions."""
    requested: list[dict[str, Any]] = []
    compile_model = openvino.Core.compile_model

    def watch(self: Any, model: Any, device: str, settings: dict[str, Any]) -> Any:
        requested.append(settings)
        compiled = compile_model(self, model, device, settings)
        assert compiled.get_property("INFERENCE_PRECISION_HINT") == openvino.Type.f32
        assert compiled.get_property("DYNAMIC_QUANTIZATION_GROUP_SIZE") == 0
        return compiled

    monkeypatch.setattr(openvino.Core, "compile_model", watch)
    open_engine(Bundle.load(tiny_bundle), "openvino", threads=2)
    assert [settings["INFERENCE_PRECISION_HINT"] for settings in requested] == ["f32"] * 3
    assert [settings["INFERENCE_NUM_THREADS"] for settings in requested] == [2] * 3


def test_bfloat16_is_rounded_to_on_request(
    tiny_bundle: Path, model: Florence2, pictures: list[Image.Image]
) -> None:
    able = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if "BF16" not in able:
        with pytest.raises(BackendError, match="has no bfloat16 here"):
            Florence2.load(tiny_bundle, "openvino", engine_precision="bf16")
        return
    rounded = Florence2.load(tiny_bundle, "openvino", threads=1, engine_precision="bf16")
    found, exact = (each.encode(pictures[0]).features for each in (rounded, model))
    assert 1e-4 < np.abs(found - exact).max() / np.abs(exact).max() < 0.1


def test_a_device_without_bfloat16_says_so(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openvino.Core, "get_property", lambda *_: ["FP32", "INT8"])
    with pytest.raises(BackendError, match=r"CPU has no bfloat16 here \(it has FP32, INT8\)"):
        open_engine(Bundle.load(tiny_bundle), "openvino", precision="bf16")


@pytest.mark.parametrize("device", ["cpu", "cuda", "tensorrt:1"])
def test_a_precision_for_another_engine_is_refused(tiny_bundle: Path, device: str) -> None:
    with pytest.raises(RequestError, match="is for device='openvino'"):
        Florence2.load(tiny_bundle, device, engine_precision="bf16")


def test_a_precision_that_does_not_exist_is_refused(tiny_bundle: Path) -> None:
    with pytest.raises(RequestError, match="must be fp32 or bf16"):
        Florence2.load(tiny_bundle, "openvino", engine_precision="int4")


# Devices.


@pytest.mark.parametrize("name", ["GPU.7", "AUTO", "TPU"])
def test_a_device_that_is_not_there_names_those_that_are(tiny_bundle: Path, name: str) -> None:
    with pytest.raises(BackendError, match=f"finds no {name} here, only: .*CPU"):
        Florence2.load(tiny_bundle, f"openvino:{name}")


@pytest.mark.parametrize(
    ("device", "available"),
    [("GPU", ["CPU", "GPU"]), ("GPU.0", ["CPU", "GPU"]), ("GPU", ["GPU.0", "GPU.1"])],
)
def test_the_first_gpu_has_two_names(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, device: str, available: list[str]
) -> None:
    compiled: list[tuple[str, dict[str, Any]]] = []

    real = openvino.Core()

    class Core:
        available_devices = available

        def read_model(self, path: Path) -> Any:
            return real.read_model(path)

        def compile_model(self, _: Any, device: str, settings: dict[str, Any]) -> None:
            compiled.append((device, settings))

    monkeypatch.setattr(openvino, "Core", Core)
    open_engine(Bundle.load(tiny_bundle), f"openvino:{device}", threads=2)
    assert [on for on, _ in compiled] == [device] * 3
    # The number of threads is a setting of the CPU, which a GPU refuses.
    assert all(
        set(settings)
        == {"INFERENCE_PRECISION_HINT", "PERFORMANCE_HINT", "DYNAMIC_QUANTIZATION_GROUP_SIZE"}
        for _, settings in compiled
    )


def test_the_command_runs_on_openvino(
    tiny_bundle: Path,
    tmp_path: Path,
    pictures: list[Image.Image],
    capsys: pytest.CaptureFixture[str],
) -> None:
    pictures[0].save(tmp_path / "a.png")
    arguments = [str(tiny_bundle), str(tmp_path / "a.png"), "--task", "OD", "--json"]
    short = ["--max-new-tokens", "6", "--threads", "1"]
    assert main([*arguments, *short, "--device", "openvino", "--engine-precision", "fp32"]) == 0
    (found,) = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert main([*arguments, *short]) == 0
    (expected,) = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert found["token_ids"] == expected["token_ids"]
    assert main([*arguments, *short, "--engine-precision", "bf16"]) == 1
    assert "is for device='openvino'" in capsys.readouterr().err


# What goes wrong.


@pytest.mark.usefixtures("no_openvino")
def test_a_missing_package_names_the_extra(tiny_bundle: Path) -> None:
    with pytest.raises(MissingPackageError, match=r"pip install .*\[openvino\]"):
        Florence2.load(tiny_bundle, "openvino")


def test_a_bundle_for_the_cpu_engine_is_refused_with_the_command(tiny_bundle: Path) -> None:
    bundle = replace(Bundle.load(tiny_bundle), precision="int8", target="cpu")
    with pytest.raises(BackendError, match=r"(?s)does not run on openvino.*florence-export"):
        open_engine(bundle, "openvino")


Damage = Callable[[Path], None]


def swap_graphs(folder: Path) -> None:
    shutil.copy(folder / "text_encoder.onnx", folder / "decoder.onnx")


def cut_a_graph(folder: Path) -> None:
    content = (folder / "decoder.onnx").read_bytes()
    (folder / "decoder.onnx").write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (swap_graphs, r"The inputs of .*decoder.onnx are not those of contract 3. Export"),
        (cut_a_graph, r"cannot compile .*decoder.onnx for CPU: .* Run florence-run with --check"),
    ],
)
def test_a_graph_that_is_not_the_contracts_is_refused(
    tiny_bundle: Path, tmp_path: Path, damage: Damage, message: str
) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, folder)
    bundle = Bundle.load(folder)
    damage(folder)
    with pytest.raises(BackendError, match=message) as refused:
        open_engine(bundle, "openvino")
    assert "\n" not in str(refused.value)


def test_an_array_that_does_not_fit_says_so(model: Florence2, pictures: list[Image.Image]) -> None:
    view = replace(model.encode(pictures[0]), features=np.zeros((1, 3, 5), dtype=np.float32))
    with pytest.raises(BackendError, match="OpenVINO refuses an array"):
        view.run("OD")


def test_a_run_that_fails_says_so_in_one_line(
    model: Florence2, pictures: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("Exception from src/inference.cpp:8:\n  No kernel.\n\n")

    monkeypatch.setattr(openvino.InferRequest, "infer", fail)
    with pytest.raises(BackendError, match=r"^OpenVINO failed while running: No kernel\.$"):
        model.encode(pictures[0])
