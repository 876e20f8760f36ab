import threading
from dataclasses import replace

import numpy as np
import pytest

from florence_edge.errors import BackendError
from florence_edge.generate import generate, stop_after
from florence_edge.options import GenerationConfig

from .scripted import DEFAULTS, EOS, Past, Scripted, log_softmax, random_script, search_for

VOCABULARY = 40
GREEDY = replace(DEFAULTS, max_new_tokens=12)
BEAMS = replace(GREEDY, num_beams=3, forced_bos_token_id=0, forced_eos_token_id=EOS)


@pytest.mark.parametrize("generation", [GREEDY, BEAMS, replace(BEAMS, early_stopping=True)])
@pytest.mark.parametrize("seed", range(10))
def test_an_image_in_a_batch_gets_the_answer_it_gets_alone(
    generation: GenerationConfig, seed: int
) -> None:
    # The higher the end token's logit, the earlier an image is done.
    scripts = [random_script(seed + i, VOCABULARY, eos=eos) for i, eos in enumerate([0, 2, 3, 5])]
    alone = [search_for(script, generation) for script in scripts]

    together = generate(Scripted(scripts, top_k=32), generation, images=4)

    assert together == alone
    assert len({len(answer.token_ids) for answer in alone}) > 1


def test_an_image_that_is_done_idles_on_its_own_rows() -> None:
    def ends_at_once(past: Past) -> np.ndarray:
        return log_softmax(np.where(np.arange(VOCABULARY) == EOS, 9.0, 0.0))

    decoder = Scripted([ends_at_once, random_script(1, VOCABULARY)])
    generation = replace(DEFAULTS, num_beams=2, early_stopping=True, max_new_tokens=6)
    short, long = generate(decoder, generation, images=2)

    done = len(short.token_ids) + 1
    assert len(long.token_ids) > done
    assert all(parents[0] == [0, 1] for parents in decoder.parents[done:])


@pytest.mark.parametrize("generation", [GREEDY, BEAMS])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_numbers_end_the_generation(
    generation: GenerationConfig, value: float
) -> None:
    """Of the second image, at its third step."""

    def overflows(past: Past) -> np.ndarray:
        return np.full(VOCABULARY, value) if len(past) == 3 else log_softmax(np.arange(VOCABULARY))

    with pytest.raises(BackendError, match=r"scores are not finite.*--precision fp32"):
        generate(Scripted([random_script(1, VOCABULARY), overflows]), generation, images=2)


def test_the_parents_of_a_search_reach_the_decoder() -> None:
    def swaps(past: Past) -> np.ndarray:
        """The beam that was second takes the lead at the second token."""
        logits = np.full(6, -8.0)
        if len(past) == 1:
            logits[[3, 4]] = 1.0, 0.9
        elif past[1] == 4:
            logits[5] = 5.0
        else:
            logits[[3, 4, 5]] = 0.0
        return log_softmax(logits)

    decoder = Scripted([swaps])
    generate(decoder, replace(DEFAULTS, num_beams=2, max_new_tokens=3), images=1)
    assert decoder.parents == [[[0, 0]], [[0, 0]], [[1, 0]]]


def test_greedy_search_continues_its_only_row() -> None:
    decoder = Scripted([random_script(0, VOCABULARY)])
    generate(decoder, GREEDY, images=1)
    assert {parents[0][0] for parents in decoder.parents} == {0}


def test_a_decoder_is_not_asked_after_the_last_token() -> None:
    decoder = Scripted([random_script(0, VOCABULARY, eos=-9)])
    (answer,) = generate(decoder, replace(GREEDY, max_new_tokens=5), images=1)
    assert len(answer.token_ids) == 1 + 5
    assert len(decoder.parents) == 5


def test_a_batch_of_no_images_has_no_answers() -> None:
    assert generate(Scripted([]), GREEDY, images=0) == []


# Answers that are stopped before their end.


@pytest.mark.parametrize("generation", [GREEDY, BEAMS])
def test_an_answer_without_a_deadline_is_the_answer_with_one_that_is_never_reached(
    generation: GenerationConfig,
) -> None:
    scripts = [random_script(seed, VOCABULARY) for seed in range(3)]
    usual = generate(Scripted(scripts), generation, images=3)
    assert generate(Scripted(scripts), generation, images=3, stop=stop_after(1e6, None)) == usual


@pytest.mark.parametrize("generation", [GREEDY, BEAMS])
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_decoding_stops_after_the_step_at_which_the_time_is_up(
    generation: GenerationConfig, steps: int
) -> None:
    decoder = Scripted([random_script(0, VOCABULARY, eos=-9), random_script(1, VOCABULARY, eos=-9)])
    clock = iter([10.0, *(10.0 + n for n in range(99))])  # each step takes a second
    stop = stop_after(steps - 1.5, None, clock=lambda: next(clock))
    answers = generate(decoder, generation, images=2, stop=stop)
    assert len(decoder.parents) == steps
    assert [len(answer.token_ids) for answer in answers] == [1 + steps] * 2
    assert {answer.cut_off for answer in answers} == {"time"}


def test_what_was_complete_before_the_time_was_up_is_not_truncated() -> None:
    def ends_at_once(past: Past) -> np.ndarray:
        return log_softmax(np.where(np.arange(VOCABULARY) == EOS, 9.0, 0.0))

    decoder = Scripted([ends_at_once, random_script(1, VOCABULARY, eos=-9)])
    count = iter(range(99))
    complete, cut = generate(
        decoder, GREEDY, images=2, stop=lambda: "time" if next(count) == 3 else None
    )
    assert complete.token_ids[-1] == EOS
    assert not complete.truncated
    assert cut.cut_off == "time"
    assert len(cut.token_ids) == 1 + 4


def test_an_event_stops_as_a_deadline_does() -> None:
    cancel = threading.Event()
    cancel.set()
    decoder = Scripted([random_script(0, VOCABULARY, eos=-9)])
    (answer,) = generate(decoder, BEAMS, images=1, stop=stop_after(None, cancel))
    assert len(decoder.parents) == 1
    assert answer.cut_off == "cancel"
