"""`agreed`: what a search is certain that its answer begins with."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from florence_edge.generate import generate
from florence_edge.options import GenerationConfig
from florence_edge.search import BeamSearch, Scores, open_search

from .scripted import DEFAULTS, EOS, START, Past, Script, Scripted, log_softmax, random_script

_configs = st.builds(
    GenerationConfig,
    num_beams=st.integers(1, 5),
    max_new_tokens=st.integers(1, 12),
    no_repeat_ngram_size=st.integers(0, 3),
    length_penalty=st.floats(-1, 3),
    early_stopping=st.sampled_from([True, False, "never"]),
    forced_bos_token_id=st.sampled_from([-1, 0]),
    forced_eos_token_id=st.sampled_from([-1, EOS]),
    min_new_tokens=st.integers(0, 4),
    repetition_penalty=st.sampled_from([1.0, 0.5, 1.5]),
    suppress_tokens=st.sampled_from([(), (5,)]),
    begin_suppress_tokens=st.sampled_from([(), (EOS, 6)]),
    bad_words_ids=st.sampled_from([(), ((7,), (8, 9))]),
    **{
        name: st.just(getattr(DEFAULTS, name))
        for name in (
            *("decoder_start_token_id", "bos_token_id"),
            *("eos_token_id", "pad_token_id"),
        )
    },
)
_scripts = st.builds(
    random_script,
    st.integers(0, 10_000),
    st.integers(12, 40),
    scale=st.floats(0.1, 6),  # from beams that are nearly equal to one that leads by far
    habit=st.sampled_from([0.0, 3.0]),
    eos=st.floats(-3, 5),
)


def begun(
    script: Script, config: GenerationConfig, *, steps: int | None = None
) -> tuple[list[tuple[int, ...]], tuple[int, ...]]:
    """What was agreed after each step, and the answer, which the step `steps` ends."""
    decoder, search = Scripted([script]), open_search(config)
    tokens = np.full((1, search.rows), START)
    parents = np.zeros((1, search.rows), dtype=np.int64)
    agreed: list[tuple[int, ...]] = []
    done = False
    while not done:
        (scores,) = decoder.step(tokens, parents)
        step = search.advance(scores, last="time" if len(agreed) + 1 == steps else None)
        agreed.append(tuple(search.agreed().tolist()))
        tokens, parents, done = step.tokens[None], step.parents[None], step.done
    return agreed, search.best().token_ids


@given(_scripts, _configs, st.none() | st.integers(1, 12))
def test_what_was_agreed_is_never_taken_back(
    script: Script, config: GenerationConfig, steps: int | None
) -> None:
    agreed, answer = begun(script, config, steps=steps)
    for earlier, later in pairwise(agreed):
        assert later[: len(earlier)] == earlier
    for each in agreed:
        assert answer[: len(each)] == each
        assert each[0] == START
    assert agreed[-1] == answer


@pytest.mark.parametrize("seed", range(5))
def test_greedy_agrees_on_each_token_at_once(seed: int) -> None:
    agreed, answer = begun(random_script(seed, 30), replace(DEFAULTS, max_new_tokens=10))
    assert [len(each) for each in agreed] == list(range(2, len(answer) + 1))


def test_beams_that_differ_in_their_last_token_agree_on_those_before() -> None:
    def decided(past: Past) -> np.ndarray:
        """The next token is certain; a beam that left the way gets worse with each step."""
        logits = np.full(12, -20.0)
        logits[3 + len(past) % 7] = 10.0
        logits[11] = 0.0
        return log_softmax(np.zeros(12) if 11 in past else logits)

    config = replace(DEFAULTS, num_beams=3, max_new_tokens=10)
    agreed, answer = begun(decided, config)
    assert len(agreed) == 10
    assert all(len(each) >= length - 2 for length, each in enumerate(agreed, start=2))
    assert len(agreed[-2]) >= len(answer) - 3


def test_an_answer_that_is_complete_and_may_still_win_holds_the_rest_back() -> None:
    """Both running beams go on with 3; the complete answer, which wins, ended there."""

    def script(past: Past) -> np.ndarray:
        logits = np.full(9, -9.0)
        if past == (START, 0):
            logits[[EOS, 3, 4]] = 2.0, 1.0, 0.9
        else:
            logits[[5, 6]] = (2.0, 1.9) if past[2:3] == (3,) else -2.0
        return log_softmax(logits)

    config = replace(
        DEFAULTS,
        num_beams=2,
        max_new_tokens=6,
        forced_bos_token_id=0,
        length_penalty=0.0,
        early_stopping=False,
    )
    agreed, answer = begun(script, config)
    assert answer == (START, 0, EOS)
    assert len(agreed) > 2
    assert set(agreed[:-1]) == {(START, 0)}


def test_beams_that_do_not_exist_yet_are_not_asked() -> None:
    search = BeamSearch(replace(DEFAULTS, num_beams=3, forced_bos_token_id=0))
    row = np.log(np.full((3, 9), 1 / 9, dtype=np.float32))
    ids = np.tile(np.arange(9), (3, 1))
    search.advance(Scores(row, ids, -row[:, 0], lambda: row))
    assert search.agreed().tolist() == [START, 0]  # all three rows are the first one


def test_scores_that_are_not_numbers_are_no_error_of_their_own() -> None:
    search = BeamSearch(replace(DEFAULTS, num_beams=2))
    row = np.full((2, 9), np.nan, dtype=np.float32)
    ids = np.tile(np.arange(9), (2, 1))
    search.advance(Scores(row, ids, -row[:, 0], lambda: row))
    assert search.agreed().tolist() == [START]


@pytest.mark.parametrize("num_beams", [1, 3])
def test_generate_reports_after_each_step_and_the_end_once(num_beams: int) -> None:
    calls: list[tuple[list[int], bool]] = []
    decoder: Any = Scripted([random_script(4, 30, eos=-9)])
    config = replace(DEFAULTS, num_beams=num_beams, max_new_tokens=8)
    (answer,) = generate(
        decoder, config, images=1, on_tokens=lambda ids, done: calls.append((ids.tolist(), done))
    )
    assert len(calls) == len(decoder.parents) == 8
    assert [done for _, done in calls] == [False] * 7 + [True]
    assert calls[-1][0] == list(answer.token_ids)
