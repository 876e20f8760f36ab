import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from florence_edge.generate import generate
from florence_edge.logits_process import forced_token, repeated_ngram_tokens
from florence_edge.options import GenerationConfig
from florence_edge.search import BeamSearch, Greedy, Scores, Search, open_search

from .scripted import (
    DEFAULTS,
    EOS,
    START,
    Past,
    Script,
    Scripted,
    log_softmax,
    random_logits,
    random_script,
    search_for,
    searched,
)

# Every answer that a search kept, best first, with its score where there are beams.
Answers = Callable[[Script, GenerationConfig, int], list[tuple[tuple[int, ...], float | None]]]


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


# transformers' own search on the same scores.


@pytest.fixture(scope="module")
def transformers_answers() -> Answers:
    return _transformers_answers()


def _transformers_answers(stopping: Sequence[Any] = ()) -> Answers:
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from transformers import GenerationConfig, GenerationMixin, PreTrainedConfig, PreTrainedModel
    from transformers.modeling_outputs import CausalLMOutput

    class ScriptedModel(PreTrainedModel, GenerationMixin):
        config_class = PreTrainedConfig
        main_input_name = "input_ids"

        def __init__(self, script: Script, vocabulary: int) -> None:
            super().__init__(PreTrainedConfig(vocab_size=vocabulary))
            self.anchor = torch.nn.Parameter(torch.zeros(1))  # tells the device
            self.script = script

        def prepare_inputs_for_generation(self, input_ids: Any, **kwargs: Any) -> dict[str, Any]:
            return {"input_ids": input_ids}

        def forward(
            self, input_ids: Any, attention_mask: Any = None, **kwargs: Any
        ) -> CausalLMOutput:
            rows = [self.script(tuple(row)) for row in input_ids.tolist()]
            return CausalLMOutput(logits=torch.tensor(np.array(rows))[:, None])

    def answer(
        script: Script, generation: GenerationConfig, vocabulary: int
    ) -> list[tuple[tuple[int, ...], float | None]]:
        beams = generation.num_beams > 1
        forced = {
            "forced_bos_token_id": generation.forced_bos_token_id,
            "forced_eos_token_id": generation.forced_eos_token_id,
        }
        tokens = {
            "suppress_tokens": list(generation.suppress_tokens),
            "begin_suppress_tokens": list(generation.begin_suppress_tokens),
            "bad_words_ids": [list(word) for word in generation.bad_words_ids],
        }
        config = GenerationConfig(
            num_beams=generation.num_beams,
            max_new_tokens=generation.max_new_tokens,
            min_new_tokens=generation.min_new_tokens,
            no_repeat_ngram_size=generation.no_repeat_ngram_size,
            repetition_penalty=generation.repetition_penalty,
            bos_token_id=generation.bos_token_id,
            eos_token_id=list(generation.eos_token_id),
            pad_token_id=generation.pad_token_id,
            do_sample=False,
            use_cache=False,
            return_dict_in_generate=True,
            output_scores=True,
            **{name: token for name, token in forced.items() if token >= 0},
            **{name: ids for name, ids in tokens.items() if ids},
        )
        if beams:
            config.length_penalty = generation.length_penalty
            config.early_stopping = generation.early_stopping
            config.num_return_sequences = generation.num_beams
        start = torch.tensor([[START]])
        model = ScriptedModel(script, vocabulary).eval()
        output = model.generate(
            start,
            attention_mask=torch.ones_like(start),
            generation_config=config,
            stopping_criteria=list(stopping),
        )
        if not beams:
            return [(tuple(output.sequences[0].tolist()), None)]
        lengths = 1 + (output.beam_indices >= 0).sum(dim=1)
        rows = zip(output.sequences, lengths, output.sequences_scores, strict=True)
        return [(tuple(row[:length].tolist()), float(score)) for row, length, score in rows]

    return answer


def drawn_generations(count: int) -> Iterator[tuple[int, GenerationConfig]]:
    """Settings spread over all that matters, the same in every run."""
    choices: dict[str, list[Any]] = {
        "num_beams": [1, 2, 3, 4, 5, 6, 7, 8],
        "max_new_tokens": [1, 2, 3, 5, 9, 16],
        "no_repeat_ngram_size": [0, 1, 2, 3],
        "length_penalty": [0.0, 0.5, 1.0, 2.0, -1.0],
        "early_stopping": [True, False, "never"],
        "forced_bos_token_id": [-1, 0],
        "forced_eos_token_id": [-1, EOS],
    }
    rng = np.random.default_rng(0)
    for seed in range(count):
        drawn = {name: values[rng.integers(len(values))] for name, values in choices.items()}
        yield seed, replace(DEFAULTS, **drawn)


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
        answers = kept_answers(searched(script, generation, top_k=32))
        alive = sum(score is None or score > -1e8 for _, score in expected)
        assert [ids for ids, _ in answers[:alive]] == [ids for ids, _ in expected[:alive]]
        assert alive > 0
        if generation.num_beams > 1:
            for (_, ours), (_, theirs) in zip(answers[:alive], expected, strict=False):
                assert ours == pytest.approx(theirs, rel=1e-5)


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
        answers = kept_answers(searched(made_up, generation, top_k=32, logits=True))
        alive = sum(score is None or score > -1e8 for _, score in expected)
        assert [ids for ids, _ in answers[:alive]] == [ids for ids, _ in expected[:alive]]
        assert alive > 0
        if generation.num_beams > 1:
            for (_, ours), (_, theirs) in zip(answers[:alive], expected, strict=False):
                assert ours == pytest.approx(theirs, rel=1e-4)


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


def kept_answers(search: Search) -> list[tuple[tuple[int, ...], float]]:
    """Of beam search all that it kept and not the best alone: much more that could differ."""
    kept = search._finished if isinstance(search, BeamSearch) else [search.best()]
    return [(answer.token_ids, answer.score) for answer in kept]


def test_the_plain_list_of_banned_tokens_agrees_with_the_fast_one() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        past = rng.integers(0, 4, size=rng.integers(1, 12))
        for size in range(5):
            fast = set(repeated_ngram_tokens(past, size).tolist())
            assert fast == set(banned_tokens(tuple(past.tolist()), size))


# Stopped early: the step at hand counts as the last there may be.


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

    answer = _transformers_answers(stopping=[TimeIsUp()])
    for seed, drawn in itertools.islice(drawn_generations(120), 120):
        generation = replace(drawn, forced_eos_token_id=-1)
        made_up = random_script(seed, 60, habit=seed % 3, eos=seed % 4)

        def script(past: Past, made_up: Script = made_up) -> np.ndarray:
            return torch.log_softmax(torch.from_numpy(np.asarray(made_up(past))), dim=-1).numpy()

        expected = answer(made_up, generation, 60)
        answers = kept_answers(stopped(script, generation, min(steps, generation.max_new_tokens)))
        alive = sum(score is None or score > -1e8 for _, score in expected)
        assert [ids for ids, _ in answers[:alive]] == [ids for ids, _ in expected[:alive]]
        assert alive > 0
