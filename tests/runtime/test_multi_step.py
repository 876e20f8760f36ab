import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from florence_edge import TASKS, BackendError, Florence2, GenerationOptions, RequestError, contract
from florence_edge.backends import ort, ort_cuda
from florence_edge.backends.gpu_decoder import requested_steps
from florence_edge.cuda.device import open_cuda
from florence_edge.cuda.kernels import Kernels
from florence_edge.logits_process import repeated_ngram_tokens

from .miniature_answers import assert_same_answers, export_miniature
from .on_gpu import require_gpu
from .scripted_machine import SHORT, Machine, Steps, ask, assert_alike, backend_of

TIMING = Path(__file__).parents[1] / "gpu" / "multi_step.py"
GREEDY = replace(SHORT, num_beams=1)


@pytest.fixture(autouse=True)
def four_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLORENCE_MULTI_STEP", "4")


@pytest.mark.parametrize("integrated", [False, True])
def test_all_15_tasks_are_answered_as_on_the_cpu(
    machine: Machine,
    tiny_model: Florence2,
    pictures: list[Image.Image],
    integrated: bool,
) -> None:
    machine.cuda.integrated = integrated
    model = machine.load()
    for task in TASKS:
        found = ask(model, task, pictures[0], GREEDY)
        assert_alike(found, ask(tiny_model, task, pictures[0], GREEDY))


@pytest.mark.parametrize("ngram", [0, 1, 2, 3])
def test_a_long_answer_is_the_same_whatever_may_not_repeat(
    machine: Machine,
    tiny_model: Florence2,
    pictures: list[Image.Image],
    ngram: int,
) -> None:
    """Two thirds of the guesses are made by the bundle's rule, which is not the one requested."""
    options = GenerationOptions(num_beams=1, max_new_tokens=140, no_repeat_ngram_size=ngram)
    model = machine.load()
    for _ in range(2):  # the second time, everything is captured already
        found = ask(model, "CAPTION", pictures[0], options)
        assert_alike(found, ask(tiny_model, "CAPTION", pictures[0], options))
    assert len(found.token_ids) == 141


def test_guesses_come_true(machine: Machine, pictures: list[Image.Image]) -> None:
    """By the bundle's own rule every guess is right: a launch brings four tokens."""
    options = GenerationOptions(num_beams=1, max_new_tokens=50)
    model = machine.load()
    ask(model, "CAPTION", pictures[0], options)
    before = len(machine.cuda.calls)
    tokens = len(ask(model, "CAPTION", pictures[0], options).token_ids) - 1
    calls = machine.cuda.calls[before:]
    assert tokens == 50
    # The first alone, twelve runs for the 49 others but one, and that one again for the forced end.
    assert calls.count("cudaGraphLaunch") <= 1 + -(-49 // 4) + 1


def test_beams_and_batches_go_step_by_step(
    machine: Machine,
    tiny_model: Florence2,
    pictures: list[Image.Image],
) -> None:
    model = machine.load()
    for beams in (1, 3):
        options = replace(SHORT, num_beams=beams)
        found = model.run(pictures, "OD", options=options)
        for ours, theirs in zip(
            found, tiny_model.run(pictures, "OD", options=options), strict=True
        ):
            assert_alike(ours, theirs)
        alone = replace(options, max_new_tokens=12)
        if beams > 1:
            found_one = ask(model, "CAPTION", pictures[0], alone)
            assert_alike(found_one, ask(tiny_model, "CAPTION", pictures[0], alone))
    assert "feed_best" not in launched(machine)


def test_in_place_the_answers_are_the_same(
    in_place: Machine,
    tiny_model: Florence2,
    pictures: list[Image.Image],
) -> None:
    options = GenerationOptions(num_beams=1, max_new_tokens=140)
    found = ask(in_place.load(), "CAPTION", pictures[0], options)
    assert_alike(found, ask(tiny_model, "CAPTION", pictures[0], options))
    assert "feed_best" in launched(in_place)


# Every rule on every GPU loop: the CPU's answers, which are transformers'.
RULES: list[dict[str, Any]] = [
    {"repetition_penalty": 1.6, "no_repeat_ngram_size": 0},
    {"repetition_penalty": 0.8, "min_new_tokens": 20},
    {"suppress_tokens": list(range(100, 900)), "begin_suppress_tokens": [7, 8]},
    {"bad_words_ids": [[7], [8, 9]], "eos_token_id": list(range(2, 90))},
]


@pytest.mark.parametrize("steps", ["1", "4"])
@pytest.mark.parametrize("beams", [1, 3])
def test_under_every_rule_answers_are_those_of_the_cpu(
    machine: Machine,
    in_place: Machine,
    tiny_model: Florence2,
    pictures: list[Image.Image],
    monkeypatch: pytest.MonkeyPatch,
    beams: int,
    steps: str,
) -> None:
    monkeypatch.setenv("FLORENCE_MULTI_STEP", steps)
    for each in (machine, in_place):
        model = each.load()
        for rules in RULES:
            options = GenerationOptions(num_beams=beams, max_new_tokens=40, **rules)
            found = ask(model, "CAPTION", pictures[0], options)
            assert_alike(found, ask(tiny_model, "CAPTION", pictures[0], options))


def launched(machine: Machine) -> set[str]:
    return set(machine.cuda.kernels)


class Driven(Steps):
    """A greedy decoder that is fed with tokens of one's choice."""

    def __init__(self, machine: Machine) -> None:
        super().__init__(machine, 1)

    def feed(self, token: int) -> Any:
        (scores,) = self.decoder.step(np.array([[token]]), np.array([[0]]))
        return scores


@pytest.fixture
def pair(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> tuple[Driven, Driven]:
    """A decoder that runs ahead, and one that does not."""
    ahead = Driven(machine)
    monkeypatch.setenv("FLORENCE_MULTI_STEP", "1")
    return ahead, Driven(machine)


def test_a_guess_that_was_wrong_makes_the_rest_void(
    pair: tuple[Driven, Driven],
) -> None:
    """Fed with other tokens than the best, at every distance from the beginning of a run."""
    ahead, alone = pair
    tokens = np.random.default_rng(0).integers(4, 60, 40)
    best = 5
    for i, other in enumerate(tokens):
        token = int(other) if i % 7 in (2, 5) else best
        found, expected = ahead.feed(token), alone.feed(token)
        np.testing.assert_array_equal(found.top_ids, expected.top_ids)
        np.testing.assert_allclose(found.top_log_probs, expected.top_log_probs, atol=1e-5)
        best = int(expected.top_ids[0, 0])


# Fed with another token than the guess after these, runs begin at 4, 8, ... and 60.
SURPRISES = (1, 2, 3)


def test_a_guess_of_a_run_that_is_void_is_not_believed_later(
    pair: tuple[Driven, Driven],
) -> None:
    """The run from 60 is the last that fits; its first guess is wrong, its second comes up."""
    ahead, alone = pair
    guesses = ahead.decoder._memory.multi_step_scores.host["token"]
    token = 5
    for position in range(contract.MIN_CACHE_CAPACITY):
        found, expected = ahead.feed(token), alone.feed(token)
        np.testing.assert_allclose(found.top_log_probs, expected.top_log_probs, atol=1e-5)
        surprising = position in (0, *SURPRISES, 60)
        token = int(expected.top_ids[0, 5] if surprising else guesses[position % 4])


def test_a_run_is_taken_wherever_it_fits(machine: Machine) -> None:
    """60 to 63 are the last four positions of the first cache."""
    driven = Driven(machine)
    guesses = driven.decoder._memory.multi_step_scores.host["token"]
    token, begun = 5, []
    for position in range(contract.MIN_CACHE_CAPACITY):
        before = len(machine.cuda.kernels)
        ids = driven.feed(token).top_ids[0]
        if "feed_best" in machine.cuda.kernels[before:]:
            begun.append(position)
        token = int(ids[5] if position in (0, *SURPRISES) else guesses[position % 4])
    assert begun == [1, 2, 3, *range(4, 64, 4)]


def test_guesses_follow_the_rule_over_what_was_fed(machine: Machine) -> None:
    driven = Driven(machine)
    ngram = driven.model.bundle.generation.no_repeat_ngram_size
    guesses = driven.decoder._memory.multi_step_scores.host["token"]
    rng, fed, bans, runs = np.random.default_rng(0), [], 0, 0
    token = 5
    for position in range(120):
        fed.append(token)
        before = len(machine.cuda.kernels)
        ids = driven.feed(token).top_ids[0].copy()
        if "feed_best" in machine.cuda.kernels[before:]:  # a run has begun here
            banned = repeated_ngram_tokens(np.array(fed), ngram)
            assert guesses[0] == ids[~np.isin(ids, banned)][0]
            bans, runs = bans + bool(ids[0] in banned), runs + 1
        token = int(ids[rng.integers(2)]) if position % 3 else int(rng.choice(fed))
    assert bans > 0
    assert runs > 20


def test_all_log_probabilities_are_those_of_the_step_asked_about(
    pair: tuple[Driven, Driven],
) -> None:
    ahead, alone = pair
    token = 5
    for i in range(30):
        found, expected = ahead.feed(token), alone.feed(token)
        if i % 3:
            np.testing.assert_allclose(found.full(), expected.full(), atol=1e-5)
        token = int(expected.top_ids[0, 0])


def test_who_weighs_tokens_gets_their_logits_and_no_more_steps_ahead(
    pair: tuple[Driven, Driven], machine: Machine
) -> None:
    ahead, alone = pair
    begun, token = [], 5
    for position in range(30):
        before = len(machine.cuda.kernels)
        found = ahead.feed(token)
        if "feed_best" in machine.cuda.kernels[before:]:
            begun.append(position)
        expected = alone.feed(token)
        np.testing.assert_allclose(found.top_log_probs, expected.top_log_probs, atol=1e-5)
        if position >= 11:
            normalizer = found.log_normalizer()
            np.testing.assert_allclose(normalizer, expected.log_normalizer(), rtol=1e-5)
            np.testing.assert_allclose(found.full(), expected.full(), atol=1e-5)
        token = int(expected.top_ids[0, 0])
    assert len(begun) > 1
    assert begun[-1] <= 11


def test_no_run_goes_beyond_the_caches(machine: Machine) -> None:
    """The scripted CUDA refuses to place a row where there is none."""
    driven = Driven(machine)
    token, past = 5, []
    for _ in range(contract.MIN_CACHE_CAPACITY + 9):
        past.append(token)
        token = int(driven.feed(token).top_ids[0, 0])
    assert len(past) > contract.MIN_CACHE_CAPACITY


def test_a_full_that_failed_is_not_asked_again(
    machine: Machine,
) -> None:
    """In the midst of a run, a step is taken again for it: half of that is not a step."""
    for fails_in in range(1, 4):
        driven = Driven(machine)
        token = 5
        for position in range(3):
            scores = driven.feed(token)
            if position == 1:
                scores.full()  # captures the step: a capture that fails is no failure of the step
            token = int(scores.top_ids[0, 0])
        machine.cuda.fails_at = len(machine.cuda.calls) + fails_in
        with pytest.raises(BackendError):
            scores.full()
        machine.cuda.fails_at = None
        with pytest.raises(BackendError, match="a step of it failed"):
            scores.full()


def test_log_probabilities_may_be_asked_for_in_another_thread(
    machine: Machine,
) -> None:
    """Each thread has a current GPU of its own: it is set before anything is allocated."""
    driven = Driven(machine)
    token = 5
    for _ in range(3):
        scores = driven.feed(token)
        token = int(scores.top_ids[0, 0])
    before = len(machine.cuda.calls)
    scores.full()
    assert machine.cuda.calls[before] == "cudaSetDevice"


def test_everything_is_freed_with_the_model(
    machine: Machine,
    pictures: list[Image.Image],
) -> None:
    model = machine.load()
    ask(model, "CAPTION", pictures[0], GREEDY)
    backend_of(model).close()
    assert machine.cuda.held == []


@pytest.mark.parametrize("requested", ["0", "33", "-4", "four", "2.5"])
def test_what_is_no_number_of_steps_is_refused(
    machine: Machine,
    monkeypatch: pytest.MonkeyPatch,
    requested: str,
) -> None:
    monkeypatch.setenv("FLORENCE_MULTI_STEP", requested)
    with pytest.raises(RequestError, match=r"FLORENCE_MULTI_STEP is .*; expected.*1 \(off\) to 32"):
        machine.load()
    assert machine.cuda.held == []


def test_unless_asked_for_it_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    for nothing in ("", None):
        if nothing is None:
            monkeypatch.delenv("FLORENCE_MULTI_STEP")
        else:
            monkeypatch.setenv("FLORENCE_MULTI_STEP", nothing)
        assert requested_steps() == 1


def test_the_timing_of_steps_ahead_runs(
    machine: Machine,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """tests/gpu/multi_step.py, which is meant for a GPU."""
    spec = importlib.util.spec_from_file_location("multi_step", TIMING)
    assert spec is not None
    assert spec.loader is not None
    timing: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(timing)
    monkeypatch.setattr(timing, "SCENES", 1)
    monkeypatch.setattr(timing, "ROUNDS", 2)
    monkeypatch.setattr(timing, "GREEDY", GREEDY)
    timing.main(machine.folder, "tensorrt", tmp_path / "found.json")
    found = json.loads((tmp_path / "found.json").read_text())["steps a launch"]
    assert list(found["OD"]) == ["1", "4", "8"]
    assert found["OD"]["1"]["times as fast"] == 1
    assert "feed_best" in machine.cuda.kernels


@pytest.mark.tensorrt
def test_tensorrt_answers_all_15_tasks_as_the_cpu_does(miniature_engines: Path) -> None:
    assert_same_answers(miniature_engines, "tensorrt", 1)


@pytest.mark.gpu
def test_cuda_answers_all_15_tasks_as_the_cpu_does(tmp_path: Path) -> None:
    if ort_cuda.PROVIDER not in ort.available():
        pytest.skip("run `pytest -m gpu` with onnxruntime-gpu: pip install florence-edge[gpu]")
    require_gpu()
    assert_same_answers(export_miniature(tmp_path), "cuda", 1)


@pytest.mark.gpu
@pytest.mark.parametrize("ngram", [0, 3])
def test_a_gpu_guesses_as_the_search_chooses(ngram: int) -> None:
    require_gpu()
    gpu = open_cuda()
    kernels = Kernels(gpu)
    rng = np.random.default_rng(ngram)
    scored = (1, 1, contract.TOP_K)
    fields = {
        **{"top_log_probs": (scored, np.float32), "top_ids": (scored, np.int64)},
        **{"token": ((1,), np.int64), "history": ((1025,), np.int64)},
        **{"token_ids": ((1, 1), np.int64), "position": ((1,), np.int64)},
    }
    box, kept = gpu.staging_buffer(fields), gpu.staging_buffer(fields)
    for length in (1, 2, 3, 50, 1024):
        box.host["top_log_probs"][:] = rng.standard_normal(scored)
        box.host["top_ids"][:] = rng.permutation(contract.TOP_K)
        box.host["history"][:] = rng.integers(0, 9, 1025)
        box.host["position"][0] = length - 1
        history = box.host["history"][:length].copy()
        ids = box.host["top_ids"][0, 0].copy()
        best = ids[~np.isin(ids, repeated_ngram_tokens(history, ngram))][0]
        box.send(gpu.stream)
        kernels.feed_best(box.device, kept.device, box.device, ngram=ngram)
        box.fetch(gpu.stream)
        kept.fetch(gpu.stream)
        gpu.synchronize()
        assert box.host["token_ids"] == box.host["history"][length] == kept.host["token"] == best
        assert box.host["position"] == length
        np.testing.assert_array_equal(kept.host["top_ids"][0, 0], ids)
        np.testing.assert_array_equal(kept.host["top_log_probs"], box.host["top_log_probs"])
    gpu.close()
