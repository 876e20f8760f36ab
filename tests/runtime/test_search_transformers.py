"""Answers are those of transformers' own search on the same scores."""

import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from florence_edge.generate import generate
from florence_edge.options import GenerationConfig

from .scripted import (
    DEFAULTS,
    EOS,
    START,
    Past,
    Script,
    Scripted,
    random_logits,
    random_script,
    searched,
)
from .transformers_search import (
    Answers,
    answers_of_transformers,
    assert_kept_alike,
    drawn_generations,
)


@pytest.fixture(scope="module")
def transformers_answers() -> Answers:
    return answers_of_transformers()


@pytest.mark.parametrize("batch", range(8))
def test_answers_are_those_of_transformers(batch: int, transformers_answers: Answers) -> None:
    torch = pytest.importorskip("torch")
    for seed, generation in itertools.islice(drawn_generations(240), batch, None, 8):
        rng = np.random.default_rng(seed)
        vocabulary = int(rng.integers(40, 101))
        scale, habit, eos = rng.choice([0.3, 1, 3]), rng.choice([0, 2]), rng.choice([0, 1, 3])
        made_up = random_script(seed, vocabulary, scale=scale, habit=habit, eos=eos)

        def script(past: Past, made_up: Script = made_up) -> np.ndarray:
            # Normalized a second time, as transformers will: the same bits on both sides.
            return torch.log_softmax(torch.from_numpy(np.asarray(made_up(past))), dim=-1).numpy()

        expected = transformers_answers(made_up, generation, vocabulary)
        assert_kept_alike(searched(script, generation, top_k=32), expected, 1e-5)


def drawn_rules(count: int) -> Iterator[tuple[int, GenerationConfig]]:
    """The same with every other setting, too."""
    choices: dict[str, list[Any]] = {
        "min_new_tokens": [0, 0, 2, 6, 40],
        "repetition_penalty": [1.0, 1.0, 1.2, 5.0, 0.6],
        "suppress_tokens": [(), (), (5, 7), tuple(range(20, 39))],
        "begin_suppress_tokens": [(), (), (EOS,), (3, 4, EOS)],
        "bad_words_ids": [(), (), ((4,), (6, 8), (EOS,), (START, 0, 5)), ((9, EOS), (5, 5))],
        "eos_token_id": [(EOS,), (EOS,), (EOS, 9), (9, 11, 12, EOS)],
    }
    rng = np.random.default_rng(1)
    for seed, generation in drawn_generations(count):
        drawn = {name: values[rng.integers(len(values))] for name, values in choices.items()}
        rules = replace(generation, **drawn)
        if seed % 3 == 0:
            rules = replace(rules, num_beams=1)
        nothing_left = rules.max_new_tokens == rules.begin_length and (
            rules.forced_eos_token_id in rules.begin_suppress_tokens
        )
        if not nothing_left:
            yield seed, rules


@pytest.mark.filterwarnings("ignore:Unfeasible length constraints")
@pytest.mark.parametrize("batch", range(8))
def test_under_every_rule_answers_are_those_of_transformers(
    batch: int, transformers_answers: Answers
) -> None:
    """The scripts give logits: in greedy search a penalty weighs these."""
    for seed, generation in itertools.islice(drawn_rules(240), batch, None, 8):
        rng = np.random.default_rng(seed)
        vocabulary = int(rng.integers(60, 101))
        scale, habit, eos = rng.choice([0.3, 1, 3]), rng.choice([0, 2]), rng.choice([0, 1, 3])
        shift = float(rng.choice([-3, 0, 7]))
        made_up = random_logits(seed, vocabulary, scale=scale, habit=habit, eos=eos, shift=shift)
        expected = transformers_answers(made_up, generation, vocabulary)
        assert_kept_alike(searched(made_up, generation, top_k=32, logits=True), expected, 1e-4)


def test_rules_decide_by_the_top_of_the_scores_as_by_all_of_them() -> None:
    for seed, generation in drawn_rules(80):
        script = random_logits(seed, 60, habit=2, shift=3)
        whole = searched(script, generation, logits=True).best()
        for top_k in (1, 5, 32):
            found = searched(script, generation, top_k=top_k, logits=True).best()
            assert found.token_ids == whole.token_ids


def test_only_rules_that_raise_or_exhaust_the_top_read_the_whole_vocabulary() -> None:
    rules = replace(
        DEFAULTS,
        max_new_tokens=20,
        min_new_tokens=20,
        repetition_penalty=1.3,
        suppress_tokens=(5, 6),
        bad_words_ids=((4,), (7, 8)),
    )

    def reads(**settings: Any) -> int:
        generation = replace(rules, **settings)
        decoder = Scripted([random_logits(0, 99)], top_k=32, logits=True)
        generate(decoder, generation, images=1)
        return decoder.full_reads

    assert reads() == reads(num_beams=3) == 0
    assert reads(repetition_penalty=0.9) == reads(repetition_penalty=0.9, num_beams=3) == 20
    assert reads(suppress_tokens=tuple(range(3, 99))) > 0
