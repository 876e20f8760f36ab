"""The GPU takes the next step while the search looks at the last one; the answers are the same."""

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from florence_edge import TASKS, BackendError, Florence2, GenerationOptions, RequestError, contract
from florence_edge.backends.gpu_decoder import pasts, requested_steps
from florence_edge.search import Scores, open_search

from . import fake_kernels
from .asking import SHORT, ask, assert_alike
from .host_kernels import Launch
from .miniature_answers import assert_same_answers
from .on_gpu import require_onnxruntime_gpu
from .scripted_machine import Machine, Steps, backend_of


@pytest.fixture(params=[1, 3])
def beams(request: pytest.FixtureRequest) -> int:
    count: int = request.param
    return count


def launched(machine: Machine) -> set[str]:
    return set(machine.cuda.kernels)


@pytest.mark.parametrize("integrated", [False, True])
def test_the_compiled_kernels_answer_as_the_cpu_does(
    machine: Machine,
    tiny_model: Florence2,
    pictures: list[Image.Image],
    compiled_kernels: Launch,
    beams: int,
    integrated: bool,
) -> None:
    """What a GPU would run, kernels.cu, in the midst of whole answers."""
    machine.cuda.compiled, machine.cuda.integrated = compiled_kernels, integrated
    model = machine.load()
    options = replace(SHORT, num_beams=beams)
    for task in list(TASKS)[:: 1 if beams == 3 and not integrated else 5]:
        found = ask(model, task, pictures[0], options)
        assert_alike(found, ask(tiny_model, task, pictures[0], options))
    assert "advance_beams" in launched(machine)


def test_a_long_answer_is_the_same(
    machine: Machine, tiny_model: Florence2, pictures: list[Image.Image], beams: int
) -> None:
    """Caches grow in the midst of it."""
    options = GenerationOptions(num_beams=beams, max_new_tokens=80)
    expected = ask(tiny_model, "CAPTION", pictures[0], options)
    model = machine.load()
    for _ in range(2):  # the second time, everything is captured already
        assert_alike(ask(model, "CAPTION", pictures[0], options), expected)
    assert len(expected.token_ids) == 81
    assert machine.cuda.kernels.count("advance_beams") == 160


@pytest.mark.parametrize("integrated", [False, True])
def test_where_the_top_k_do_not_suffice_the_host_goes_on(
    machine: Machine,
    tiny_model: Florence2,
    pictures: list[Image.Image],
    beams: int,
    integrated: bool,
) -> None:
    """So many tokens end an answer that nearly all of the top K count, and none may come twice."""
    machine.cuda.integrated = integrated
    ends = list(range(600, 599 + contract.TOP_K // beams))
    options = GenerationOptions(
        num_beams=beams, max_new_tokens=40, no_repeat_ngram_size=1, eos_token_id=ends
    )
    model = machine.load()
    for task in ("CAPTION", "OD", "OCR"):
        machine.cuda.kernels.clear()
        expected = ask(tiny_model, task, pictures[0], options)
        assert_alike(ask(model, task, pictures[0], options), expected)
        searched = machine.cuda.kernels.count("advance_beams")
        assert 1 < searched < len(expected.token_ids) - 3


def test_in_place_the_answers_are_the_same(
    in_place: Machine, tiny_model: Florence2, pictures: list[Image.Image]
) -> None:
    model = in_place.load()
    for beams in (1, 3):
        for ngram in (1, 3):
            options = GenerationOptions(
                num_beams=beams, max_new_tokens=70, no_repeat_ngram_size=ngram
            )
            found = ask(model, "CAPTION", pictures[0], options)
            assert_alike(found, ask(tiny_model, "CAPTION", pictures[0], options))
    assert "advance_beams" in launched(in_place)


@pytest.mark.parametrize("steps", ["1", "3", "32"])
def test_however_many_steps_are_on_the_gpu_the_answer_is_the_same(
    machine: Machine,
    tiny_model: Florence2,
    pictures: list[Image.Image],
    monkeypatch: pytest.MonkeyPatch,
    beams: int,
    steps: str,
) -> None:
    monkeypatch.setenv("FLORENCE_MULTI_STEP", steps)
    options = GenerationOptions(num_beams=beams, max_new_tokens=70)
    found = ask(machine.load(), "CAPTION", pictures[0], options)
    assert_alike(found, ask(tiny_model, "CAPTION", pictures[0], options))
    assert ("advance_beams" in launched(machine)) is (steps != "1")


def test_the_images_of_a_batch_go_ahead_together(
    machine: Machine, tiny_model: Florence2, pictures: list[Image.Image], beams: int
) -> None:
    options = GenerationOptions(num_beams=beams, max_new_tokens=40)
    found = machine.load().run(pictures, "OD", options=options)
    for ours, picture in zip(found, pictures, strict=True):
        assert_alike(ours, ask(tiny_model, "OD", picture, options))
    assert "advance_beams" in launched(machine)


# Every rule on every GPU loop: the CPU's answers, which are transformers'.
RULES: list[dict[str, Any]] = [
    {"repetition_penalty": 1.6, "no_repeat_ngram_size": 0},
    {"repetition_penalty": 0.8, "min_new_tokens": 20},
    {"min_new_tokens": 25, "eos_token_id": list(range(2, 6))},
    {"suppress_tokens": list(range(100, 900)), "begin_suppress_tokens": [7, 8]},
    {"bad_words_ids": [[7], [8, 9]], "eos_token_id": list(range(2, 90))},
    {"eos_token_id": list(range(2, 9)), "length_penalty": 2.0, "early_stopping": "never"},
    {"forced_bos_token_id": -1, "forced_eos_token_id": 2, "early_stopping": False},
]


@pytest.mark.parametrize("steps", ["1", "2"])
def test_under_every_rule_answers_are_those_of_the_cpu(
    machine: Machine,
    tiny_model: Florence2,
    pictures: list[Image.Image],
    monkeypatch: pytest.MonkeyPatch,
    beams: int,
    steps: str,
) -> None:
    monkeypatch.setenv("FLORENCE_MULTI_STEP", steps)
    model = machine.load()
    for rules in RULES:
        options = GenerationOptions(num_beams=beams, max_new_tokens=30, **rules)
        found = ask(model, "CAPTION", pictures[0], options)
        assert_alike(found, ask(tiny_model, "CAPTION", pictures[0], options))


class Driven(Steps):
    """A decoder and a search on the host, step by step."""

    def __init__(self, machine: Machine, beams: int, **settings: Any) -> None:
        super().__init__(machine, beams)
        self.config = replace(self.model.bundle.generation, num_beams=beams, **settings)
        self.begin()

    def begin(self) -> None:
        self.decoder = self.open()
        self.decoder.expect([self.config])
        self.search = open_search(self.config)
        self.tokens = np.full((1, self.beams), self.config.decoder_start_token_id)
        self.parents = np.zeros_like(self.tokens)

    def score(self) -> Scores:
        """One step of the decoder."""
        (scores,) = self.decoder.step(self.tokens, self.parents)
        found: Scores = scores
        return found

    def advance(self, scores: Scores) -> None:
        """One step of the search."""
        step = self.search.advance(scores)
        self.tokens, self.parents = step.tokens[None], step.parents[None]


@pytest.fixture
def pair(machine: Machine, monkeypatch: pytest.MonkeyPatch, beams: int) -> tuple[Driven, Driven]:
    """A decoder that runs ahead, and one that does not."""
    ahead = Driven(machine, beams)
    monkeypatch.setenv("FLORENCE_MULTI_STEP", "1")
    return ahead, Driven(machine, beams)


def assert_alike_scores(found: Scores, expected: Scores) -> None:
    np.testing.assert_array_equal(found.top_ids, expected.top_ids)
    np.testing.assert_allclose(found.top_logits, expected.top_logits, atol=1e-4)
    np.testing.assert_allclose(found.log_sum_exp, expected.log_sum_exp, atol=1e-4)


def test_a_step_is_one_launch_and_one_wait_and_leaves_the_next_on_the_gpu(
    machine: Machine, beams: int
) -> None:
    driven = Driven(machine, beams)
    for position in range(12):
        before = len(machine.cuda.calls)
        scores = driven.score()
        calls = machine.cuda.calls[before:]
        if position > 2:
            one = ["cudaGraphLaunch", "cudaEventRecord"]
            assert calls == ["cudaSetDevice", *one, "cudaEventSynchronize"]
        if position > 0:
            assert machine.cuda.queue, "the GPU has nothing to do while the search works"
        driven.advance(scores)


def test_no_step_is_launched_behind_the_last_token(machine: Machine, beams: int) -> None:
    driven = Driven(machine, beams, max_new_tokens=9)
    for _ in range(9):
        driven.advance(driven.score())
    assert driven.decoder._ahead.last == 8
    assert machine.cuda.queue == []


def test_a_gpu_that_chooses_otherwise_is_corrected_said_once_and_not_asked_again(
    machine: Machine,
    tiny_model: Florence2,
    pictures: list[Image.Image],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    beams: int,
) -> None:
    """Beams trade places at the 10th step, whose caches are another's when that is noticed."""
    right = fake_kernels.advance_beams
    wrong_at = [10, 25]

    def sometimes_wrong(view: Any, threads: Any, *arguments: int) -> None:
        right(view, threads, *arguments)
        position = int(view(arguments[4], (1,), np.int64)[0])
        if position not in wrong_at:
            return
        rows, slots = (beams,), arguments[-1]
        for at in (arguments[8], arguments[18] + position % slots * beams * 8):
            view(at, rows, np.int64)[:] += 1  # other tokens
        for at in (arguments[9], arguments[19] + position % slots * beams * 8):
            view(at, rows, np.int64)[:] = np.roll(np.arange(beams), 1)
        view(arguments[10], (1,), np.int64)[0] = 0

    monkeypatch.setattr(fake_kernels, "advance_beams", sometimes_wrong)
    options = GenerationOptions(num_beams=beams, max_new_tokens=40)
    model = machine.load()
    expected = ask(tiny_model, "CAPTION", pictures[0], options)
    assert_alike(ask(model, "CAPTION", pictures[0], options), expected)
    assert caplog.text.count("chose otherwise") == 1
    machine.cuda.kernels.clear()
    assert_alike(ask(model, "CAPTION", pictures[0], options), expected)
    assert "advance_beams" not in launched(machine)
    assert caplog.text.count("chose otherwise") == 1


def test_who_feeds_other_tokens_gets_their_scores(
    pair: tuple[Driven, Driven], caplog: pytest.LogCaptureFixture
) -> None:
    ahead, alone = pair
    rng = np.random.default_rng(0)
    for position in range(12):
        found, expected = ahead.score(), alone.score()
        assert_alike_scores(found, expected)
        alone.advance(expected)
        if position in (5, 8):
            alone.tokens = rng.integers(4, 60, alone.tokens.shape)
            alone.parents = rng.integers(0, alone.beams, alone.tokens.shape)
        ahead.tokens, ahead.parents = alone.tokens, alone.parents


@pytest.mark.parametrize("asked_at", [0, 1, 7])
def test_all_log_probabilities_are_those_of_the_step_asked_about(
    pair: tuple[Driven, Driven], asked_at: int
) -> None:
    """The step behind it has run, and rows have other pasts by then."""
    ahead, alone = pair
    for position in range(12):
        found, expected = ahead.score(), alone.score()
        assert_alike_scores(found, expected)
        if position == asked_at:
            np.testing.assert_allclose(found.full(), expected.full(), atol=1e-4)
            assert_alike_scores(found, expected)
        ahead.advance(found)
        alone.advance(expected)
        np.testing.assert_array_equal(ahead.tokens, alone.tokens)
        np.testing.assert_array_equal(ahead.parents, alone.parents)


def test_a_full_that_failed_is_not_asked_again(machine: Machine, beams: int) -> None:
    """Steps are taken again for it: half of that leaves no step's caches."""
    for fails_in in range(2, 5):
        driven = Driven(machine, beams)
        driven.advance(driven.score())
        driven.score().full()  # captures the step: a capture that fails is no failure of the step
        driven.begin()
        for _ in range(4):
            scores = driven.score()
            driven.advance(scores)
        machine.cuda.fails_at = len(machine.cuda.calls) + fails_in
        with pytest.raises(BackendError):
            scores.full()
        machine.cuda.fails_at = None
        with pytest.raises(BackendError, match="a step of it failed"):
            scores.full()


def test_log_probabilities_may_be_asked_for_in_another_thread(machine: Machine) -> None:
    """Each thread has a current GPU of its own: it is set before anything is enqueued."""
    driven = Driven(machine, 1)
    for _ in range(3):
        scores = driven.score()
        driven.advance(scores)
    before = len(machine.cuda.calls)
    thread = threading.Thread(target=scores.full)
    thread.start()
    thread.join()
    assert machine.cuda.calls[before] == "cudaSetDevice"


def test_answers_follow_each_other_though_a_step_of_the_last_is_under_way(
    machine: Machine,
    tiny_model: Florence2,
    pictures: list[Image.Image],
    beams: int,
) -> None:
    machine.cuda.integrated = True  # what the host writes, the GPU sees at once
    model = machine.load()
    options = GenerationOptions(num_beams=beams, max_new_tokens=20)
    stopped = threading.Event()
    stopped.set()
    for picture in pictures:
        view = model.encode(picture)
        view.run("OD", cancel=stopped, options=options)  # after one step
        found = view.run("OD", options=options)
        assert_alike(found, ask(tiny_model, "OD", picture, options))


def test_everything_is_freed_with_the_model_steps_under_way_or_not(
    machine: Machine, pictures: list[Image.Image], beams: int
) -> None:
    model = machine.load()
    ask(model, "CAPTION", pictures[0], replace(SHORT, num_beams=beams))
    backend_of(model).close()
    assert machine.cuda.held == []
    driven = Driven(machine, beams)
    for _ in range(3):
        driven.advance(driven.score())
    assert machine.cuda.queue
    driven.model.close()
    assert machine.cuda.held == []


def test_a_look_allocates_nothing_once_there_was_one(
    machine: Machine, pictures: list[Image.Image], beams: int
) -> None:
    model = machine.load()
    options = GenerationOptions(num_beams=beams, max_new_tokens=10)

    def look(picture: Image.Image) -> Any:
        view = model.encode(picture)
        view.run("CAPTION", options=options)
        return view

    kept = look(pictures[0])
    features = np.asarray(kept.features)
    for picture in pictures:
        look(picture)
        before = len(machine.cuda.calls)
        look(picture)
        calls = machine.cuda.calls[before:]
        assert not {"cudaMalloc", "cudaFree", "cudaHostAlloc", "cudaFreeHost"} & set(calls)
        assert not {"cudaEventCreateWithFlags", "cudaStreamBeginCapture"} & set(calls)
    np.testing.assert_array_equal(np.asarray(kept.features), features)  # nobody else had them


def test_the_past_of_a_row_goes_through_its_parents() -> None:
    steps = [([[7, 7]], [[0, 0]]), ([[8, 9]], [[0, 1]]), ([[1, 2]], [[1, 1]]), ([[3, 4]], [[1, 0]])]
    fed = [(np.array(tokens), np.array(parents)) for tokens, parents in steps]
    assert pasts(fed).tolist() == [[[7, 9, 2, 3], [7, 9, 1, 4]]]


@pytest.mark.parametrize("requested", ["0", "33", "-4", "four", "2.5"])
def test_what_is_no_number_of_steps_is_refused(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, requested: str
) -> None:
    monkeypatch.setenv("FLORENCE_MULTI_STEP", requested)
    with pytest.raises(RequestError, match=r"FLORENCE_MULTI_STEP is .*; expected.*1 \(each.* 32"):
        machine.load()
    assert machine.cuda.held == []


@pytest.mark.parametrize("nothing", ["", None])
def test_unless_asked_otherwise_two_steps_are_on_the_gpu(
    monkeypatch: pytest.MonkeyPatch, nothing: str | None
) -> None:
    monkeypatch.delenv("FLORENCE_MULTI_STEP", raising=False)
    if nothing is not None:
        monkeypatch.setenv("FLORENCE_MULTI_STEP", nothing)
    assert requested_steps() == 2


@pytest.mark.tensorrt
def test_tensorrt_answers_all_15_tasks_as_the_cpu_does(miniature_engines: Path, beams: int) -> None:
    assert_same_answers(miniature_engines, "tensorrt", beams)


@pytest.mark.gpu
def test_cuda_answers_all_15_tasks_as_the_cpu_does(miniature_bundle: Path, beams: int) -> None:
    require_onnxruntime_gpu()
    assert_same_answers(miniature_bundle, "cuda", beams)
