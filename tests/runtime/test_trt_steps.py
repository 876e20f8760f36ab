"""A step on the GPU: its launches and copies, its caches, and whose memory it may use."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from florence_edge import BackendError, Florence2, contract
from florence_edge.bundle import Bundle
from florence_edge.tasks import prompt_for
from florence_edge.tensorrt.profiles import profiles

from . import fake_tensorrt
from .asking import SHORT, ask
from .scripted_machine import BUILT, Machine, Steps, place_engines


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
