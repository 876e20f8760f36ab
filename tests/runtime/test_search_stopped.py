"""Stopped early: the step at hand counts as the last there may be."""

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from florence_edge.options import GenerationConfig
from florence_edge.search import Search, open_search

from .scripted import (
    DEFAULTS,
    EOS,
    START,
    Past,
    Script,
    Scripted,
    log_softmax,
    random_script,
    search_for,
)
from .transformers_search import answers_of_transformers, assert_kept_alike, drawn_generations


def stopped(script: Script, generation: GenerationConfig, steps: int) -> Search:
    """A search whose time is up at its n-th step, if it is not done before."""
    decoder, search = Scripted([script], top_k=32), open_search(generation)
    rows = search.rows
    (scores,) = decoder.step(np.full((1, rows), START), np.zeros((1, rows), dtype=np.int64))
    step = search.advance(scores, last="time" if steps == 1 else None)
    for number in range(2, steps + 1):
        if step.done:
            break
        (scores,) = decoder.step(step.tokens[None], step.parents[None])
        step = search.advance(scores, last="time" if number == steps else None)
    assert step.done
    return search


@pytest.mark.parametrize("num_beams", [1, 2, 5])
def test_a_search_that_is_stopped_has_said_as_many_tokens_as_it_took_steps(num_beams: int) -> None:
    script = random_script(0, 40, eos=-9)
    for steps in (1, 2, 7):
        answer = stopped(script, replace(DEFAULTS, num_beams=num_beams), steps).best()
        assert len(answer.token_ids) == 1 + steps
        assert len(answer.log_probs) == steps
        assert answer.cut_off == "time"


def test_greedy_that_is_stopped_has_the_beginning_of_its_answer() -> None:
    script = random_script(3, 40, eos=-9)
    whole = search_for(script, DEFAULTS)
    answer = stopped(script, DEFAULTS, 4).best()
    assert answer.token_ids == whole.token_ids[:5]
    assert answer.log_probs == whole.log_probs[:4]


def test_a_finished_beam_wins_over_a_worse_one_that_still_ran() -> None:
    def ends_or_rambles(past: Past) -> np.ndarray:
        return log_softmax([0, 0, 3, 1, 1] if len(past) == 1 else [0, 0, -9, 0, 0])

    generation = replace(DEFAULTS, num_beams=2, length_penalty=0.0)
    answer = stopped(ends_or_rambles, generation, 3).best()
    assert answer.token_ids == (START, EOS)
    assert not answer.truncated


def test_a_running_beam_wins_over_a_worse_one_that_is_finished() -> None:
    def goes_on(past: Past) -> np.ndarray:
        return log_softmax([0, 0, 1, 4, 0] if len(past) == 1 else [-9, -9, -9, 9, -9])

    answer = stopped(goes_on, replace(DEFAULTS, num_beams=2), 3).best()
    assert answer.token_ids == (START, 3, 3, 3)
    assert answer.cut_off == "time"


@pytest.mark.parametrize("steps", [1, 2, 3, 6])
def test_stopped_answers_are_those_of_transformers_whose_time_is_up(steps: int) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from transformers import StoppingCriteria

    class TimeIsUp(StoppingCriteria):  # as MaxTimeCriteria, but counting steps
        def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
            return torch.full((len(input_ids),), input_ids.shape[1] == 1 + steps)

    answer = answers_of_transformers(stopping=[TimeIsUp()])
    for seed, drawn in itertools.islice(drawn_generations(120), 120):
        generation = replace(drawn, forced_eos_token_id=-1)
        made_up = random_script(seed, 60, habit=seed % 3, eos=seed % 4)

        def script(past: Past, made_up: Script = made_up) -> np.ndarray:
            return torch.log_softmax(torch.from_numpy(np.asarray(made_up(past))), dim=-1).numpy()

        expected = answer(made_up, generation, 60)
        search = stopped(script, generation, min(steps, generation.max_new_tokens))
        assert_kept_alike(search, expected)
