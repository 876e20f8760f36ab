"""What TensorRT answers is what the CPU answers, over scripted engines and on a GPU."""

import runpy
import shutil
import sys
import types
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from florence_edge import TASKS, Florence2, GenerationOptions, contract, run_many, watch
from florence_edge.results.result import Result
from florence_edge.tasks import prompt_for
from florence_edge.tensorrt import manifest as manifests

from .asking import SHORT, ask, assert_alike
from .fake_cuda import OnGpu
from .on_gpu import require_tensorrt
from .scripted_machine import BUILT, Machine, backend_of, place_engines

EXAMPLE = Path(__file__).parents[2] / "examples" / "07_pycuda_frame.py"


@pytest.mark.parametrize("num_beams", [1, 3])
def test_all_15_tasks_are_answered_as_on_the_cpu(
    machine: Machine, tiny_model: Florence2, pictures: list[Image.Image], num_beams: int
) -> None:
    options = replace(SHORT, num_beams=num_beams)
    model = machine.load()
    for task in TASKS:
        found = ask(model, task, pictures[0], options)
        assert_alike(found, ask(tiny_model, task, pictures[0], options))
    assert set(found.seconds) >= {"vision", "prefill", "decode"}


@pytest.mark.parametrize("num_beams", [1, 3])
def test_an_integrated_gpu_answers_the_same_through_mapped_memory(
    machine: Machine, tiny_model: Florence2, pictures: list[Image.Image], num_beams: int
) -> None:
    machine.cuda.integrated = True
    options = replace(SHORT, num_beams=num_beams)
    found = ask(machine.load(), "OCR", pictures[0], options)
    assert_alike(found, ask(tiny_model, "OCR", pictures[0], options))
    # Features and log-probabilities are copied on occasion; inputs and the top K never are.
    assert machine.cuda.calls.count("cudaMemcpyAsync") < 8


@pytest.mark.parametrize("num_beams", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_a_bundle_in_halves_is_answered_as_on_the_cpu(
    bare: Machine,
    tiny_half_bundle: Path,
    tmp_path: Path,
    pictures: list[Image.Image],
    num_beams: int,
) -> None:
    halves = Path(shutil.copytree(tiny_half_bundle, tmp_path / "halves"))
    place_engines(halves, BUILT)
    machine = replace(bare, folder=halves)
    options = GenerationOptions(num_beams=num_beams, max_new_tokens=70)  # the caches grow
    expected = ask(machine.load("cpu", threads=1), "CAPTION", pictures[0], options)
    found = ask(machine.load(), "CAPTION", pictures[0], options)
    assert found.token_ids == expected.token_ids
    # TensorRT has graphs of its own, which round other values to halves.
    assert found.token_log_probs == pytest.approx(expected.token_log_probs, abs=0.02)


@pytest.mark.parametrize("num_beams", [1, 4])
def test_answers_stay_the_same_while_the_caches_grow_twice(
    machine: Machine, tiny_model: Florence2, pictures: list[Image.Image], num_beams: int
) -> None:
    options = GenerationOptions(num_beams=num_beams, max_new_tokens=140)
    model = machine.load()
    for _ in range(2):  # the second time, everything is captured already
        found = ask(model, "CAPTION", pictures[0], options)
        assert_alike(found, ask(tiny_model, "CAPTION", pictures[0], options))
    assert len(found.token_ids) > 2 * contract.MIN_CACHE_CAPACITY


def test_a_ragged_batch_is_answered_as_on_the_cpu(
    machine: Machine, tiny_model: Florence2, pictures: list[Image.Image]
) -> None:
    texts = ["a", "a red car beside a tree", "two dogs"]
    answers = [
        model.run(pictures, "CAPTION_TO_PHRASE_GROUNDING", texts, options=SHORT)
        for model in (machine.load(), tiny_model)
    ]
    for found, expected in zip(*answers, strict=True):
        assert_alike(found, expected)


def test_views_share_what_they_have_seen(
    machine: Machine, tiny_model: Florence2, pictures: list[Image.Image]
) -> None:
    """Features of two encodings join into a batch, in any order and more than once."""
    found: list[Result] = []
    expected: list[Result] = []
    for model, answers in ((machine.load(), found), (tiny_model, expected)):
        first, second = model.encode(pictures[:2], options=SHORT)
        third = model.encode(pictures[2], options=SHORT)
        prompts = [prompt_for("OD", None, None, pictures[0].size)] * 3
        answers += model.answer([third, first, third], prompts, SHORT)
        answers.append(second.caption())
    for ours, theirs in zip(found, expected, strict=True):
        assert_alike(ours, theirs)


def test_features_are_sliced_where_they_are_and_read_by_numpy(
    machine: Machine, tiny_model: Florence2
) -> None:
    side = tiny_model.bundle.size.image_size
    pixels = np.random.default_rng(2).integers(0, 256, (3, side, side, 3), dtype=np.uint8)
    expected = np.asarray(tiny_model.backend.encode_image(pixels))
    features = machine.load().backend.encode_image(pixels)
    blocks = len(machine.cuda.held)
    assert len(features) == 3
    np.testing.assert_allclose(np.asarray(features[1:][1:2]), expected[2:], atol=1e-5)
    assert np.asarray(features[1:2], dtype=np.float64).dtype == np.float64
    assert len(machine.cuda.held) == blocks
    with pytest.raises(IndexError):
        features[::2]


def test_the_self_test_passes(machine: Machine) -> None:
    errors = machine.load().self_test()
    assert max(errors.values()) < 1e-4


def test_frames_on_the_gpu_are_answered_without_coming_to_the_host(
    machine: Machine, tiny_model: Florence2
) -> None:
    rng = np.random.default_rng(3)
    values = rng.integers(0, 256, (120, 90, 3), dtype=np.uint8)
    model = machine.load()
    frame = OnGpu(machine.cuda, values)
    view = model.encode(frame, options=SHORT)
    assert view.size == (90, 120)
    assert_alike(view.caption(), tiny_model.encode(values, options=SHORT).caption())
    np.testing.assert_array_equal(np.asarray(view.image), values)


@pytest.mark.parametrize("way", ["watch", "run_many"])
def test_frames_that_a_camera_puts_on_the_gpu_are_a_source(
    machine: Machine, tiny_model: Florence2, way: str
) -> None:
    """Any iterable of GPUArrays, tensors, ... will do: Argus, NVDEC, V4L2 with CUDA."""
    rng = np.random.default_rng(4)
    frames = [rng.integers(0, 256, (70, 90, 3), dtype=np.uint8) for _ in range(3)]
    model = machine.load()
    on_gpu = (OnGpu(machine.cuda, values) for values in frames)
    if way == "watch":
        found = [each.results[0] for each in watch(model, on_gpu, "CAPTION", options=SHORT)]
    else:
        answered = run_many(model, on_gpu, "CAPTION", options=SHORT)
        found = [each.results[0] for each in answered if each.error is None]
    assert len(found) == len(frames)
    for result, values in zip(found, frames, strict=True):
        assert_alike(result, tiny_model.run(values, "CAPTION", options=SHORT))


def test_the_example_with_pycuda_answers(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gpuarray = types.SimpleNamespace(to_gpu=lambda values: OnGpu(machine.cuda, values))
    package = types.ModuleType("pycuda")
    monkeypatch.setattr(package, "gpuarray", gpuarray, raising=False)
    for name, module in (("", package), (".gpuarray", gpuarray), (".autoprimaryctx", gpuarray)):
        monkeypatch.setitem(sys.modules, f"pycuda{name}", module)
    example = runpy.run_path(str(EXAMPLE))
    example["main"](str(machine.folder))
    assert capsys.readouterr().out


@pytest.mark.parametrize("num_beams", [1, 4])
def test_in_place_answers_are_those_of_the_cpu_at_any_length(
    in_place: Machine, tiny_model: Florence2, pictures: list[Image.Image], num_beams: int
) -> None:
    options = GenerationOptions(num_beams=num_beams, max_new_tokens=140)
    model = in_place.load()
    for _ in range(2):  # the second time over caches that were used
        found = ask(model, "CAPTION", pictures[0], options)
        assert_alike(found, ask(tiny_model, "CAPTION", pictures[0], options))
    assert len(found.token_ids) > 2 * contract.MIN_CACHE_CAPACITY
    paths = {context.engine.path for context in in_place.trt.contexts}
    assert str(in_place.folder / "decoder.inplace.onnx") in paths
    assert str(in_place.folder / "decoder.tensorrt.onnx") not in paths


def test_in_place_all_tasks_are_answered_as_on_the_cpu(
    in_place: Machine, tiny_model: Florence2, pictures: list[Image.Image]
) -> None:
    model = in_place.load()
    for task in TASKS:
        found = ask(model, task, pictures[0], SHORT)
        assert_alike(found, ask(tiny_model, task, pictures[0], SHORT))
    assert max(model.self_test().values()) < 1e-4
    backend_of(model).close()
    assert in_place.cuda.held == []


# With a GPU and TensorRT.


@pytest.mark.tensorrt
@pytest.mark.parametrize("num_beams", [1, 3])
def test_tensorrt_answers_all_15_tasks_as_the_cpu_does(
    miniature_engines: Path, num_beams: int
) -> None:
    from .miniature_answers import assert_same_answers

    assert_same_answers(miniature_engines, "tensorrt", num_beams)


@pytest.mark.tensorrt
@pytest.mark.parametrize("num_beams", [1, 3])
def test_tensorrt_answers_the_same_in_place(
    miniature_bundle: Path, tmp_path: Path, num_beams: int
) -> None:
    require_tensorrt()
    from .miniature_answers import assert_same_answers

    building = pytest.importorskip("florence_edge_export.tensorrt_build.cli")
    bundle = Path(shutil.copytree(miniature_bundle, tmp_path / "bundle"))
    assert building.main([str(bundle), "--max-new-tokens", "64"]) == 0
    (engines,) = (bundle / "engines").iterdir()
    if not manifests.read_manifest(engines).options.in_place:
        pytest.skip("this TensorRT is older than 10.15")
    assert_same_answers(bundle, "tensorrt", num_beams)
