"""Greedy and beam search: when they end, how ties are decided, what wide beams find."""

import itertools
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from florence_edge.logits_process import forced_token, repeated_ngram_tokens
from florence_edge.options import GenerationConfig
from florence_edge.search import BeamSearch, Greedy, Scores, open_search

from .scripted import DEFAULTS, EOS, START, Past, Script, log_softmax, random_script, search_for


def always(*logits: float) -> Script:
    return lambda past: log_softmax(logits)


def scores_of(log_probs: list[list[float]], *, top_k: int | None = None) -> Scores:
    full = np.array(log_probs, dtype=np.float32)
    order = np.argsort(-full, axis=1, kind="stable")[:, :top_k]
    top = np.take_along_axis(full, order, axis=1)
    return Scores(top, order, -top[:, 0], lambda: full)


# Greedy search.


def test_one_beam_is_greedy_search_and_more_are_beam_search() -> None:
    assert isinstance(open_search(DEFAULTS), Greedy)
    assert isinstance(open_search(replace(DEFAULTS, num_beams=2)), BeamSearch)


def test_greedy_stops_at_the_end_token() -> None:
    def ends_after_two(past: Past) -> np.ndarray:
        return log_softmax([0, 0, 9 if len(past) == 3 else -9, 1, 0])

    answer = search_for(ends_after_two, DEFAULTS)
    assert answer.token_ids == (START, 3, 3, EOS)
    assert not answer.truncated


def test_greedy_stops_when_the_budget_is_spent() -> None:
    answer = search_for(always(0, 0, -9, 1, 0), replace(DEFAULTS, max_new_tokens=3))
    assert answer.token_ids == (START, 3, 3, 3)
    assert answer.cut_off == "length"


def test_greedy_forces_the_last_token_and_calls_the_answer_truncated() -> None:
    generation = replace(DEFAULTS, max_new_tokens=3, forced_eos_token_id=EOS)
    answer = search_for(always(0, 0, -9, 1, 0), generation)
    assert answer.token_ids == (START, 3, 3, EOS)
    assert answer.cut_off == "length"


@pytest.mark.parametrize("num_beams", [1, 2])
def test_an_answer_that_ends_by_itself_at_the_last_position_is_not_truncated(
    num_beams: int,
) -> None:
    def ends_after_two(past: Past) -> np.ndarray:
        return log_softmax([0, 0, 9 if len(past) == 3 else -9, 5, 0])

    generation = replace(DEFAULTS, max_new_tokens=3, num_beams=num_beams)
    answer = search_for(ends_after_two, generation)
    assert answer.token_ids == (START, 3, 3, EOS)
    assert not answer.truncated


def test_greedy_repeats_no_ngram() -> None:
    answer = search_for(
        always(0, 0, -9, 2, 1), replace(DEFAULTS, max_new_tokens=6, no_repeat_ngram_size=2)
    )
    assert answer.token_ids == (START, 3, 3, 4, 3, 0, 3)


def test_greedy_reads_the_whole_vocabulary_only_when_the_best_are_forbidden() -> None:
    search = Greedy(replace(DEFAULTS, no_repeat_ngram_size=1))
    log_probs = [[-1.0, -2.0, -9.0, -3.0, -4.0]]
    reads: list[int] = []

    def read() -> np.ndarray:
        reads.append(1)
        return np.array(log_probs, dtype=np.float32)

    chosen = []
    for _ in range(3):
        top = scores_of(log_probs, top_k=2)
        step = search.advance(replace(top, logits=read))
        chosen.append(int(step.tokens[0]))
    assert chosen == [0, 1, 3]
    assert len(reads) == 1


def test_log_probs_are_those_before_any_rule() -> None:
    generation = replace(DEFAULTS, max_new_tokens=3, forced_bos_token_id=0, forced_eos_token_id=EOS)
    log_probs = log_softmax([-3, 0, -2, 1])
    for num_beams in (1, 2):
        answer = search_for(always(-3, 0, -2, 1), replace(generation, num_beams=num_beams))
        assert answer.token_ids == (START, 0, 3, EOS)
        assert answer.log_probs == pytest.approx(log_probs[[0, 3, EOS]].tolist())


# Ties: the lower token, and of two beams the better one, as a stable sort leaves them.


def test_of_equal_tokens_the_lower_one_is_taken() -> None:
    answer = search_for(always(0, 1, -9, 1, 1), replace(DEFAULTS, max_new_tokens=2))
    assert answer.token_ids == (START, 1, 1)
    beams = replace(DEFAULTS, num_beams=3, max_new_tokens=2)
    assert search_for(always(0, 1, -9, 1, 1), beams).token_ids == (START, 1, 1)


def test_of_equal_candidates_those_of_the_better_beam_go_on() -> None:
    search = BeamSearch(replace(DEFAULTS, num_beams=2))
    level = [-1.0, -1.0, -9.0, -1.0, -1.0]
    first = search.advance(scores_of([level, level]))
    assert (first.tokens.tolist(), first.parents.tolist()) == ([0, 1], [0, 0])
    second = search.advance(scores_of([level, level]))
    assert (second.tokens.tolist(), second.parents.tolist()) == ([0, 1], [0, 0])


def test_of_equal_answers_the_one_found_first_is_the_best() -> None:
    def equal_ends(past: Past) -> np.ndarray:
        return np.array([-9, -9, -1, -1, -9]) if len(past) == 1 else np.array([-9, -9, 0, -9, -9])

    generation = replace(DEFAULTS, num_beams=2, length_penalty=0.0, early_stopping=True)
    assert search_for(equal_ends, generation).token_ids == (START, EOS)


# Beam search against every sequence there is. Beams are as many as candidates at the last but one
# step, so that nothing is lost on the way; 'never' waits until no beam can win.


def all_answers(script: Script, generation: GenerationConfig) -> Iterator[tuple[float, Past]]:
    """Every sequence that the rules allow, with its score."""
    unfinished: list[tuple[Past, float]] = [((START,), 0.0)]
    while unfinished:
        past, total = unfinished.pop()
        log_probs = np.array(script(past), dtype=np.float64)
        log_probs[list(banned_tokens(past, generation.no_repeat_ngram_size))] = -np.inf
        forced = forced_token(len(past), generation)
        if forced is not None:
            log_probs[:] = -np.inf
            log_probs[forced] = 0
        for token in np.flatnonzero(np.isfinite(log_probs)).tolist():
            longer, score = (*past, token), total + float(log_probs[token])
            if token == EOS or len(longer) == generation.max_length:
                yield score / len(past) ** generation.length_penalty, longer
            else:
                unfinished.append((longer, score))


def banned_tokens(past: Past, size: int) -> Iterator[int]:
    """Written a second time, in the plainest way."""
    for token in range(99):
        longer = (*past, token)
        ngrams = [longer[i : i + size] for i in range(len(longer) - size + 1)]
        if size and len(ngrams) and ngrams[-1] in ngrams[:-1]:
            yield token


@pytest.mark.parametrize("length_penalty", [0.0, 0.5, 1.0, 2.0, -1.0])
@pytest.mark.parametrize(
    ("vocabulary", "max_new_tokens", "forced_bos", "forced_eos"),
    [(3, 3, -1, -1), (3, 4, 0, -1), (4, 3, 0, -1), (5, 2, -1, -1), (8, 3, 0, EOS), (3, 3, -1, EOS)],
)
@pytest.mark.parametrize("no_repeat_ngram_size", [0, 2, 3])
def test_wide_beams_find_the_best_of_all_sequences(
    vocabulary: int,
    max_new_tokens: int,
    forced_bos: int,
    forced_eos: int,
    no_repeat_ngram_size: int,
    length_penalty: float,
) -> None:
    generation = replace(
        DEFAULTS,
        num_beams=8,
        max_new_tokens=max_new_tokens,
        no_repeat_ngram_size=no_repeat_ngram_size,
        length_penalty=length_penalty,
        early_stopping="never",
        forced_bos_token_id=forced_bos,
        forced_eos_token_id=forced_eos,
    )
    for seed in range(6):
        script = random_script(seed, vocabulary)
        score, token_ids = max(all_answers(script, generation))
        answer = search_for(script, generation)
        assert answer.token_ids == token_ids
        assert answer.score == pytest.approx(score, rel=1e-5)


def test_a_narrow_beam_can_miss_the_best_sequence_and_greedy_misses_more() -> None:
    generation = replace(DEFAULTS, max_new_tokens=4, length_penalty=0.0, early_stopping="never")
    lost = {1: 0.0, 2: 0.0, 8: 0.0}
    for seed in range(20):
        script = random_script(seed, 5)
        best, _ = max(all_answers(script, generation))
        for num_beams in lost:
            found = search_for(script, replace(generation, num_beams=num_beams))
            lost[num_beams] += best - found.score
    assert lost[1] > lost[2] > lost[8]
    assert lost[8] == pytest.approx(0, abs=1e-5)


# The best K scores decide as if the whole vocabulary had been read.


@pytest.mark.parametrize("no_repeat_ngram_size", [0, 1, 2, 3])
@pytest.mark.parametrize("num_beams", [1, 2, 3, 5, 8])
def test_the_top_of_the_scores_decides_as_all_of_them_would(
    num_beams: int, no_repeat_ngram_size: int
) -> None:
    generation = replace(
        DEFAULTS,
        num_beams=num_beams,
        max_new_tokens=20,
        no_repeat_ngram_size=no_repeat_ngram_size,
        forced_bos_token_id=0,
        forced_eos_token_id=EOS,
    )
    for seed, habit in itertools.product(range(2), (0.0, 3.0)):
        script = random_script(seed, 60, habit=habit)
        whole = search_for(script, generation)
        for top_k in (2 * num_beams, 2 * num_beams + 1, 32, 60):
            assert search_for(script, generation, top_k=top_k) == whole


def test_a_beam_without_enough_allowed_scores_at_the_top_reads_them_all() -> None:
    search = BeamSearch(replace(DEFAULTS, num_beams=2, no_repeat_ngram_size=1))
    row = [-1.0, -2.0, -9.0, -3.0, -4.0, -5.0, -6.0]
    first = search.advance(scores_of([row, row], top_k=4))
    second = search.advance(scores_of([row, row], top_k=4))
    assert first.tokens.tolist() == [0, 1]
    assert (second.parents.tolist(), second.tokens.tolist()) == ([0, 1], [1, 0])
    third = search.advance(scores_of([row, row], top_k=4))
    assert third.tokens.tolist() == [3, 3]


def test_the_plain_list_of_banned_tokens_agrees_with_the_fast_one() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        past = rng.integers(0, 4, size=rng.integers(1, 12))
        for size in range(5):
            fast = set(repeated_ngram_tokens(past, size).tolist())
            assert fast == set(banned_tokens(tuple(past.tolist()), size))
