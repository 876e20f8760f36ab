import json
import runpy
import shutil
import sys
import types
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

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
    contract,
    run_many,
    watch,
)
from florence_edge.backends import gpu, trt
from florence_edge.bundle import Bundle, StoredFile
from florence_edge.results.result import Result
from florence_edge.tasks import prompt_for
from florence_edge.tensorrt import manifest as manifests
from florence_edge.tensorrt.find import find_engines
from florence_edge.tensorrt.install import TensorRT, make_logger
from florence_edge.tensorrt.profiles import profiles

from ..helpers.assets import Asset
from . import fake_tensorrt
from .fake_tensorrt import FakeTensorRT
from .on_gpu import require_tensorrt
from .scripted_machine import (
    BUILT,
    ORIN,
    SHORT,
    Machine,
    Steps,
    ask,
    assert_alike,
    backend_of,
    place_engines,
)
from .test_cuda_resize import OnGpu

EXAMPLE = Path(__file__).parents[2] / "examples" / "07_pycuda_frame.py"
OF_RTX = {  # called of TensorRT-RTX alone
    "DynamicShapesKernelSpecializationStrategy.EAGER",
    "ICudaEngine.create_runtime_config",
    "IExecutionContext.is_stream_capturable",
    "IRuntimeConfig.dynamic_shapes_kernel_specialization_strategy",
    "IRuntimeConfig.set_execution_context_allocation_strategy",
}


# The same answers.


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


# What a step costs.


def test_a_step_is_one_launch_and_one_wait(machine: Machine) -> None:
    steps = Steps(machine, 3)
    steps.step([0, 0, 0])
    assert "cudaStreamBeginCapture" in steps.step([0, 1, 2])
    launched = ["cudaSetDevice", "cudaGraphLaunch", "cudaStreamSynchronize"]
    assert steps.step([0, 1, 2]) == launched
    assert "cudaStreamBeginCapture" in steps.step([1, 1, 0])  # a graph of its own: beams part
    assert steps.step([2, 0, 1]) == launched
    assert steps.step([0, 1, 2]) == launched


def test_greedy_needs_one_graph_for_a_capacity(machine: Machine) -> None:
    steps = Steps(machine, 1)
    calls = [name for _ in range(contract.MIN_CACHE_CAPACITY + 4) for name in steps.step([0])]
    assert calls.count("cudaGraphInstantiate") == 2  # 64 and 128
    assert calls.count("cudaMemcpy2DAsync") == 1  # from 64 to 128
    steps.decoder = steps.open()
    again = [name for _ in range(contract.MIN_CACHE_CAPACITY + 4) for name in steps.step([0])]
    assert "cudaGraphInstantiate" not in again
    assert "cudaMalloc" not in again


def test_prompts_of_one_bucket_share_their_memory_and_graphs(machine: Machine) -> None:
    steps = Steps(machine, 1)
    for _ in range(3):
        steps.step([0])
    contexts = len(machine.trt.contexts)
    steps.decoder = steps.open(tokens=11)
    assert "cudaStreamBeginCapture" not in [*steps.step([0]), *steps.step([0])]
    assert len(machine.trt.contexts) == contexts
    steps.decoder = steps.open(tokens=17)  # the next bucket
    assert len(machine.trt.contexts) > contexts


def test_all_log_probabilities_are_copied_when_somebody_asks_and_once(machine: Machine) -> None:
    steps = Steps(machine, 1)
    steps.step([0])
    before = len(steps.fake.calls)
    first = steps.scores[0].full().copy()
    assert steps.fake.calls[before:].count("cudaMemcpyAsync") == 1
    before = len(steps.fake.calls)
    np.testing.assert_array_equal(steps.scores[0].full(), first)
    assert steps.fake.calls[before:] == []
    top = np.sort(first[0])[::-1][: contract.TOP_K]
    np.testing.assert_array_equal(steps.scores[0].top_log_probs[0], top)
    steps.step([0])
    assert not np.array_equal(steps.scores[0].full(), first)


def test_contexts_share_one_scratch_block(machine: Machine, pictures: list[Image.Image]) -> None:
    ask(machine.load(), "OD", pictures[0], SHORT)
    scratch = {context.scratch for context in machine.trt.contexts}
    assert len(machine.trt.contexts) == 3
    assert [size for _, size in scratch] == [max(fake_tensorrt.SCRATCH.values())]


def test_each_context_has_the_profile_that_serves_it(machine: Machine) -> None:
    steps = Steps(machine, 3)
    steps.step([0, 0, 0])
    built = profiles(steps.model.bundle.size, BUILT)
    vision, text, decoder = machine.trt.contexts
    assert (vision.profile, text.profile) == (0, 0)
    assert built[contract.DECODER][decoder.profile or 0].serves({"B": 1, "N": 3, "S": 64})


def test_a_cache_starts_clean_whatever_was_there(machine: Machine) -> None:
    """Memory of the scripted CUDA holds NaNs: one of them that is read would show."""
    steps = Steps(machine, 2)
    steps.step([0, 0])
    first = steps.scores[0].full().copy()
    assert np.isfinite(first).all()
    for _ in range(5):
        steps.step([1, 0])
    steps.decoder = steps.open()
    steps.step([0, 0])
    np.testing.assert_array_equal(steps.scores[0].full(), first)


# Caches that the decoder updates in place.


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


def test_in_place_a_cache_goes_in_and_out_at_one_address(in_place: Machine) -> None:
    """TensorRT demands it, and writes where the cache came in."""
    steps = Steps(in_place, 3)
    for _ in range(3):
        launched = steps.step([0, 1, 2])
    assert launched == ["cudaSetDevice", "cudaGraphLaunch", "cudaStreamSynchronize"]
    addresses = in_place.trt.contexts[-1].addresses
    for layer in range(steps.model.bundle.size.decoder_layers):
        for part in contract.PARTS:
            came_in = addresses[contract.self_cache(layer, part)]
            assert addresses[contract.kept_cache(layer, part)] == came_in
    assert "cuLaunchKernel" not in steps.fake.calls  # nobody else places rows


def test_in_place_one_cache_serves_all_steps_and_its_end_is_reported(in_place: Machine) -> None:
    """A graph for each bucket of rows that are read; nothing is copied from one to the next."""
    steps = Steps(in_place, 1)
    calls = [name for _ in range(256) for name in steps.step([0])]
    assert calls.count("cudaGraphInstantiate") == 3
    steppers = [each for each in in_place.trt.contexts if "rows" in each.shapes]
    assert [each.shapes["rows"] for each in steppers] == [(64,), (128,), (256,)]
    assert len({each.addresses[contract.self_cache(0, "key")] for each in steppers}) == 1
    assert "cudaMemcpy2DAsync" not in calls
    with pytest.raises(BackendError, match=r"tokens 200, needed 257.*--max-new-tokens 257"):
        steps.step([0])


def test_in_place_engines_are_preferred_and_another_graph_is_noticed(in_place: Machine) -> None:
    portable = place_engines(in_place.folder, BUILT)
    bundle = Bundle.load(in_place.folder)
    here = manifests.this_device(TensorRT(in_place.trt, "tensorrt", "10.3.0"))
    engines = find_engines(bundle, here)
    assert engines.folder != portable
    assert engines.manifest.options.in_place == 256
    files = {**bundle.files, "decoder.inplace.onnx": StoredFile(1, "1" * 64)}
    assert find_engines(replace(bundle, files=files), here).folder == portable
    alone = {name: file for name, file in bundle.files.items() if "inplace" not in name}
    assert find_engines(replace(bundle, files=alone), here).folder == portable


# One generation at a time.


def test_a_decoder_whose_memory_went_to_the_next_is_refused(machine: Machine) -> None:
    steps = Steps(machine, 1)
    steps.step([0])
    stale, scores = steps.decoder, steps.scores
    steps.decoder = steps.open()
    steps.step([0])
    with pytest.raises(BackendError, match="one generation before the next"):
        stale.step(np.zeros((1, 1), dtype=np.int64), np.zeros((1, 1), dtype=np.int64))
    with pytest.raises(BackendError, match="one generation before the next"):
        scores[0].full()


@pytest.mark.parametrize("fails_in", [2, 3, 4, 5])
def test_a_prompt_that_fails_takes_the_memory_all_the_same(machine: Machine, fails_in: int) -> None:
    """Or the decoder before it would go on from half of another's prompt."""
    steps = Steps(machine, 1)
    steps.step([0])
    features = steps.model.backend.encode_image(
        np.zeros((1, *[steps.model.bundle.size.image_size] * 2, 3), dtype=np.uint8)
    )
    ids = np.full((1, 8), 9)
    mask = np.ones((1, steps.model.bundle.size.image_tokens + 8), dtype=np.int64)
    machine.cuda.fails_at = len(machine.cuda.calls) + fails_in
    with pytest.raises(BackendError):
        steps.model.backend.prefill(features, ids, mask, beams=1)
    machine.cuda.fails_at = None
    with pytest.raises(BackendError, match="memory has gone to a later prompt"):
        steps.step([0])


@pytest.mark.parametrize("fails_in", [2, 3])
def test_a_decoder_whose_caches_failed_to_grow_is_refused(machine: Machine, fails_in: int) -> None:
    """Its position would be behind the end of its caches."""
    steps = Steps(machine, 1)
    for _ in range(contract.MIN_CACHE_CAPACITY):
        steps.step([0])
    machine.cuda.fails_at = len(machine.cuda.calls) + fails_in
    with pytest.raises(BackendError):
        steps.step([0])
    machine.cuda.fails_at = None
    with pytest.raises(BackendError, match="a step of it failed"):
        steps.step([0])


def test_a_step_behind_the_last_position_is_refused(bare: Machine) -> None:
    positions = Bundle.load(bare.folder).size.decoder_positions
    place_engines(bare.folder, replace(BUILT, max_new_tokens=positions))
    steps = Steps(bare, 1)
    buckets = steps.decoder._buckets
    with pytest.raises(BackendError, match=f"no position behind {positions} tokens"):
        buckets.grow(buckets.at_least(positions))


def test_features_of_another_engine_are_refused(
    machine: Machine, tiny_model: Florence2, pictures: list[Image.Image]
) -> None:
    view = tiny_model.encode(pictures[0], options=SHORT)
    model = machine.load()
    foreign = replace(view, engine=model._engine)
    with pytest.raises(BackendError, match="another engine"):
        foreign.caption()
    ours = model.encode(pictures[0], options=SHORT)
    prompts = [prompt_for("OD", None, None, pictures[0].size)] * 2
    with pytest.raises(BackendError, match="Views of different engines"):
        model.answer([ours, view], prompts)
    ours.features.view = replace(ours.features.view, dtype=np.dtype(np.float16))
    ours.features.dtype = np.dtype(np.float16)
    with pytest.raises(BackendError, match="another engine"):
        ours.caption()


# Memory.


def test_everything_is_freed_with_the_model(machine: Machine, pictures: list[Image.Image]) -> None:
    model = machine.load()
    view = model.encode(pictures[0], options=SHORT)
    for beams in (1, 3):
        view.run("OD", options=replace(SHORT, num_beams=beams))
    backend_of(model).close()
    assert [block.kind for block in machine.cuda.held] == ["device"]  # the view's features
    del view
    assert machine.cuda.held == []


def test_a_model_that_was_closed_is_refused(machine: Machine, pictures: list[Image.Image]) -> None:
    """CUDA itself may not notice that a stream is gone."""
    model = machine.load()
    view = model.encode(pictures[0], options=SHORT)
    side = model.bundle.size.image_size
    features = model.backend.encode_image(np.zeros((1, side, side, 3), dtype=np.uint8))
    ids, mask = np.full((1, 5), 9), np.ones((1, model.bundle.size.image_tokens + 5), dtype=np.int64)
    decoder = model.backend.prefill(features, ids, mask, beams=2)
    (scores,) = decoder.step(np.full((1, 2), 5), np.zeros((1, 2), dtype=np.int64))
    backend_of(model).close()
    before = len(machine.cuda.calls)
    for use in (
        lambda: model.encode(pictures[1]),
        lambda: view.run("OD"),
        lambda: np.asarray(features),
        lambda: features.followed_by([features]),
        lambda: decoder.step(np.full((1, 2), 5), np.zeros((1, 2), dtype=np.int64)),
        lambda: scores.full(),
    ):
        with pytest.raises(BackendError, match=r"^This model was closed\. Load it again\.$"):
            use()
    backend_of(model).close()  # once more does nothing
    assert machine.cuda.calls[before:] == []


def test_a_model_that_nobody_has_any_more_frees_itself(
    machine: Machine, pictures: list[Image.Image]
) -> None:
    model = machine.load()
    model.run(pictures[0], "CAPTION", options=SHORT)
    assert machine.cuda.held
    del model
    assert machine.cuda.held == []


def test_only_a_few_shapes_stay_prepared(machine: Machine, pictures: list[Image.Image]) -> None:
    model = machine.load()
    view = model.encode(pictures[0], options=SHORT)
    held = []
    for tokens in (8, 17, 33, 65, 129, 257, 8):
        size = model.bundle.size
        ids = np.full((1, min(tokens, size.encoder_positions - size.image_tokens)), 5)
        mask = np.ones((1, size.image_tokens + ids.shape[1]), dtype=np.int64)
        for beams in (1, 2, 3):
            decoder = model.backend.prefill(view.features, ids, mask, beams=beams)
            decoder.step(np.full((1, beams), 2), np.zeros((1, beams), dtype=np.int64))
            held.append(len(machine.cuda.held))
    assert max(held[gpu._KEPT :]) == held[gpu._KEPT]


def calls_of(machine: Machine, use: Callable[[], object]) -> int:
    before = len(machine.cuda.calls)
    use()
    return len(machine.cuda.calls) - before


def test_whichever_call_fails_nothing_leaks_and_the_next_answer_is_right(
    machine: Machine, tiny_model: Florence2, pictures: list[Image.Image]
) -> None:
    """Out of memory (or any other failure) at every call there is, one after the other."""
    few = GenerationOptions(num_beams=2, max_new_tokens=6)
    expected = ask(tiny_model, "OD", pictures[0], few)

    def use() -> None:
        assert_alike(ask(machine.load(), "OD", pictures[0], few), expected)

    count = calls_of(machine, use)
    assert machine.cuda.held == []
    given_back = ("cudaFree", "cudaFreeHost", "Destroy", "cuModuleUnload")
    names = machine.cuda.calls[-count:]
    closing = count - 1 - names[::-1].index("cudaSetDevice")
    for number, name in enumerate(names):
        if any(part in name for part in given_back):
            continue  # what fails to be freed is lost by CUDA itself
        if name == "cudaSetDevice" and any(part in names[number + 1] for part in given_back):
            continue  # nor does it keep anything from being freed
        machine.cuda.calls.clear()
        machine.cuda.fails_at = number + 1
        captures = names[: number + 1].count("cudaStreamBeginCapture")
        if number >= closing or captures > names[:number].count("cudaGraphInstantiate"):
            use()  # everything is freed, or steps go on without a graph
        else:
            with pytest.raises(BackendError):
                use()
        machine.cuda.fails_at = None
        machine.cuda.queue.clear()
        assert machine.cuda.held == [], f"call {number}, {name}"


def test_a_model_goes_on_after_a_failure(
    machine: Machine, tiny_model: Florence2, pictures: list[Image.Image]
) -> None:
    options = GenerationOptions(num_beams=2, max_new_tokens=80)
    model = machine.load()
    expected = ask(tiny_model, "CAPTION", pictures[0], options)
    assert_alike(ask(model, "CAPTION", pictures[0], options), expected)  # everything is captured
    for fails_in in (3, 20, 40, 90, 150, 200):
        machine.cuda.fails_at = len(machine.cuda.calls) + fails_in
        with pytest.raises(BackendError):
            ask(model, "CAPTION", pictures[0], options)
        machine.cuda.fails_at = None
        assert_alike(ask(model, "CAPTION", pictures[0], options), expected)


# What is missing or does not fit.


def test_without_tensorrt_the_error_says_what_to_install(
    bare: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingPackageError, match="tensorrt-cu12"):
        bare.load()


def test_tensorrt_rtx_is_chosen_by_name(bare: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", bare.trt)
    with pytest.raises(BackendError, match="There are no TensorRT engines"):
        bare.load("tensorrt-rtx")
    with pytest.raises(RequestError, match="no device 'tensorrt-lean'"):
        bare.load("tensorrt-lean")


@pytest.mark.parametrize("capturable", [True, False])
def test_tensorrt_rtx_is_captured_where_it_can_be(
    bare: Machine,
    tiny_model: Florence2,
    pictures: list[Image.Image],
    monkeypatch: pytest.MonkeyPatch,
    capturable: bool,
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", bare.trt)
    place_engines(bare.folder, BUILT, flavour="tensorrt_rtx")
    bare.trt.capturable = capturable
    found = ask(bare.load("tensorrt-rtx"), "OD", pictures[0], SHORT)
    assert_alike(found, ask(tiny_model, "OD", pictures[0], SHORT))
    assert ("cudaGraphLaunch" in bare.cuda.calls) == capturable
    kernels = {c.how.dynamic_shapes_kernel_specialization_strategy for c in bare.trt.contexts}
    assert kernels == {bare.trt.DynamicShapesKernelSpecializationStrategy.EAGER}


def test_of_tensorrt_rtx_no_run_is_captured_once_one_cannot_be(
    bare: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", bare.trt)
    place_engines(bare.folder, BUILT, flavour="tensorrt_rtx")
    steps = Steps(bare, 1, device="tensorrt-rtx")
    for capturable in (False, True):
        bare.trt.capturable = capturable
        steps.decoder = steps.open(tokens=8 if capturable else 20)  # bindings of its own
        for _ in range(3):
            steps.step([0])
    assert "cudaGraphLaunch" not in bare.cuda.calls


def test_without_engines_the_error_says_how_to_build_them(bare: Machine) -> None:
    with pytest.raises(BackendError, match=f"Run: florence-build {bare.folder}"):
        bare.load()
    assert bare.cuda.calls == []


def test_engines_of_another_gpu_are_not_loaded(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifests, "find_gpu", lambda index=0: replace(ORIN, name="Thor"))
    with pytest.raises(BackendError, match="GPU Orin, here Thor"):
        machine.load()


def test_engines_may_be_elsewhere(bare: Machine, pictures: list[Image.Image]) -> None:
    elsewhere = bare.folder.parent / "engines of this board"
    place_engines(bare.folder, BUILT, elsewhere)
    model = bare.load(engine_dir=elsewhere)
    assert ask(model, "CAPTION", pictures[0], SHORT).token_ids


def test_more_than_was_built_is_refused_with_the_command(
    machine: Machine, pictures: list[Image.Image]
) -> None:
    model = machine.load()
    with pytest.raises(BackendError, match=r"beams 4, needed 5.*florence-build .* --beams 5"):
        ask(model, "OD", pictures[0], replace(SHORT, num_beams=5))
    with pytest.raises(BackendError, match=r"batch 3, needed 4.*--batch 4"):
        model.run([*pictures, pictures[0]], "OD", options=SHORT)
    long = GenerationOptions(num_beams=1, max_new_tokens=280)
    with pytest.raises(BackendError, match=r"tokens 200, needed 257.*--max-new-tokens 257"):
        ask(model, "OD", pictures[0], long)
    assert ask(model, "OD", pictures[0], SHORT).token_ids  # and the model still answers


def test_an_answer_of_open_length_ends_where_the_engines_do(
    bare: Machine, pictures: list[Image.Image], caplog: pytest.LogCaptureFixture
) -> None:
    """The checkpoint's default is more than was built: a number that nobody requested."""
    place_engines(bare.folder, replace(BUILT, max_new_tokens=70))
    model = bare.load()
    assert model.bundle.generation.max_new_tokens == 70
    answer = ask(model, "CAPTION", pictures[0], GenerationOptions(num_beams=1))
    assert (answer.status, len(answer.token_ids)) == ("truncated", 1 + 70)
    (message,) = [record.getMessage() for record in caplog.records]
    assert "up to 70 tokens" in message
    assert f"florence-build {bare.folder} --max-new-tokens" in message
    options = GenerationOptions(num_beams=1, max_new_tokens=140)
    with pytest.raises(BackendError, match=r"tokens 70, needed 129"):
        ask(model, "CAPTION", pictures[0], options)


def test_a_default_that_fits_the_engines_is_left_alone(
    bare: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    default = Bundle.load(bare.folder).generation
    place_engines(bare.folder, replace(BUILT, max_new_tokens=default.max_new_tokens))
    assert bare.load().bundle.generation == default
    assert caplog.records == []


def test_the_command_for_the_second_gpu_names_it(bare: Machine) -> None:
    with pytest.raises(BackendError, match=rf"Run: florence-build {bare.folder} --gpu 1$"):
        bare.load("tensorrt:1")


def test_the_second_gpu_is_used_where_it_is_named(
    machine: Machine, pictures: list[Image.Image]
) -> None:
    model = machine.load("tensorrt:1")
    assert ask(model, "OD", pictures[0], SHORT).token_ids
    with pytest.raises(BackendError, match="no GPU of that number"):
        machine.load("tensorrt:2")
    assert backend_of(model)._model.cuda.index == 1


@pytest.mark.parametrize(
    "method",
    [
        "set_optimization_profile_async",
        "set_input_shape",
        "set_tensor_address",
        "execute_async_v3",
    ],
)
def test_an_engine_that_refuses_is_an_error(
    machine: Machine, pictures: list[Image.Image], method: str
) -> None:
    machine.trt.refuses = method
    with pytest.raises(BackendError, match=r"vision_encoder.plan.*florence-build .* --refresh"):
        ask(machine.load(), "OD", pictures[0], SHORT)


def test_a_plan_that_does_not_load_is_an_error(bare: Machine) -> None:
    engines = place_engines(bare.folder, BUILT)
    plan = engines / manifests.plan_name(contract.TEXT_ENCODER)
    plan.write_bytes(b"x" * plan.stat().st_size)
    with pytest.raises(BackendError, match=r"does not load .*text_encoder.plan.*--refresh"):
        bare.load(verify=False)
    assert bare.cuda.held == []


@pytest.mark.parametrize("graph", contract.GRAPHS)
def test_a_bit_that_flipped_in_a_plan_is_noticed_before_tensorrt_sees_it(
    bare: Machine, graph: str
) -> None:
    plan = place_engines(bare.folder, BUILT) / manifests.plan_name(graph)
    content = bytearray(plan.read_bytes())
    content[len(content) // 2] ^= 0x10
    plan.write_bytes(content)
    with pytest.raises(BackendError, match=rf"{graph}\.plan is not what was built.*--refresh"):
        bare.load()
    assert bare.cuda.held == []


def test_a_failing_tensorrt_is_log_messaged(
    machine: Machine, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    log = make_logger(machine.trt, trt._log_message)
    log.log(machine.trt.ILogger.ERROR, "no kernel image")
    log.log(machine.trt.ILogger.INFO, "a detail")
    assert [record.getMessage() for record in caplog.records] == ["TensorRT: no kernel image"]


# Names.


@pytest.mark.parametrize("release", ["tensorrt 10.3.0", "tensorrt 11.4.0", "tensorrt_rtx 1.7.1"])
def test_every_name_of_the_scripted_tensorrt_exists_in_each_release(
    asset: Asset, release: str
) -> None:
    """The backend runs over the script, so it uses no name that is not there."""
    names = set(json.loads(asset("tensorrt_api_names.json").read_text())[release])
    used = {"ExecutionContextAllocationStrategy.USER_MANAGED", "Runtime"}
    used |= {f"ILogger.{name}" for name in vars(FakeTensorRT.ILogger) if not name.startswith("__")}
    for kind in ("Runtime", "ICudaEngine", "IExecutionContext"):
        own = {"trt", "path", "engine", "profile", "scratch", "shapes", "addresses", "runs", "how"}
        public = {name for name in vars(getattr(fake_tensorrt, kind)) if not name.startswith("_")}
        used |= {f"{kind}.{name}" for name in public - own}
    used -= OF_RTX
    assert len(used) > 12
    assert sorted(used - names) == []


def test_tensorrt_rtx_says_whether_its_runs_can_be_captured(asset: Asset) -> None:
    names = json.loads(asset("tensorrt_api_names.json").read_text())["tensorrt_rtx 1.7.1"]
    assert sorted(OF_RTX - set(names)) == []


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
