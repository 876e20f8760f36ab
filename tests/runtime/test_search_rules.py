from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from florence_edge.logits_process import forced_token, repeated_ngram_tokens

from .scripted import DEFAULTS, EOS


def banned(sequence: list[int], size: int) -> list[int]:
    return repeated_ngram_tokens(np.array(sequence, dtype=np.int64), size).tolist()


def test_tokens_that_would_repeat_an_ngram_are_banned() -> None:
    assert banned([1, 2, 3, 1, 2], 3) == [3]
    assert banned([1, 2, 3, 1, 2, 4, 1, 2], 3) == [3, 4]
    assert banned([1, 2, 3], 2) == []
    assert sorted(banned([1, 2, 3], 1)) == [1, 2, 3]


def test_size_zero_switches_the_rule_off() -> None:
    assert banned([1, 1, 1], 0) == []


@pytest.mark.parametrize("size", [1, 2, 3])
def test_nothing_is_banned_before_there_is_an_ngram(size: int) -> None:
    assert banned([1] * (size - 1), size) == []


@pytest.fixture(scope="module")
def transformers_bans() -> Callable[[list[int], int], set[int]]:
    torch = pytest.importorskip("torch")
    process = pytest.importorskip("transformers.generation.logits_process")

    def bans(sequence: list[int], size: int) -> set[int]:
        processor = process.NoRepeatNGramLogitsProcessor(size)
        scores = processor(torch.tensor([sequence]), torch.zeros(1, 4))[0]
        return set(torch.isneginf(scores).nonzero().flatten().tolist())

    return bans


@given(st.lists(st.integers(0, 3), min_size=1, max_size=14), st.integers(1, 5))
def test_banned_tokens_are_those_of_transformers(
    transformers_bans: Callable[[list[int], int], set[int]], sequence: list[int], size: int
) -> None:
    assert set(banned(sequence, size)) == transformers_bans(sequence, size)


def test_the_first_and_the_last_token_are_forced() -> None:
    generation = replace(DEFAULTS, max_new_tokens=4, forced_bos_token_id=0, forced_eos_token_id=EOS)
    assert [forced_token(length, generation) for length in range(1, 5)] == [0, None, None, EOS]


def test_where_one_token_is_both_first_and_last_the_end_is_forced() -> None:
    generation = replace(DEFAULTS, max_new_tokens=1, forced_bos_token_id=0, forced_eos_token_id=EOS)
    assert forced_token(1, generation) == EOS


def test_minus_one_forces_nothing() -> None:
    assert {forced_token(length, DEFAULTS) for length in range(1, 10)} == {None}
