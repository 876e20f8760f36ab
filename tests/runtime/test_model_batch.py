"""Several pictures at once are answered as each of them alone."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from PIL import Image

from florence_edge import TASKS, Florence2, GenerationOptions, RequestError
from florence_edge.results.result import Result
from florence_edge.tasks import free_prompt
from florence_edge.tokenizer import Tokenizer

from .asking import SHORT, noise_pictures, region_for, text_for


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    return noise_pictures((80, 60), (60, 80), (64, 64), (200, 50))


def alike(ours: Result, theirs: Result) -> bool:
    """Equal but for the last bits of scores, which depend on the batch's shape."""
    assert ours.token_log_probs == pytest.approx(theirs.token_log_probs, rel=1e-4, abs=1e-4)
    assert ours.scores == pytest.approx(theirs.scores, rel=1e-3)
    exact = ("task", "token_ids", "raw_text", "text", "text_input", "status", "image_size")
    return ours.to_hf() == theirs.to_hf() and all(
        getattr(ours, name) == getattr(theirs, name) for name in exact
    )


def ending_with(model: Florence2, end: int) -> Florence2:
    """The model with another end token, so that its answers end by themselves."""
    generation = replace(model.bundle.generation, eos_token_id=(end,))
    tokenizer = Tokenizer(model.bundle.folder / "tokenizer.json", generation)
    return Florence2(replace(model.bundle, generation=generation), model.backend, tokenizer)


@pytest.mark.parametrize("task", TASKS)
def test_a_batch_gives_the_answers_of_single_runs(
    tiny_model: Florence2, pictures: list[Image.Image], task: str
) -> None:
    batch = tiny_model.run(
        pictures,
        task,
        [text_for(task)] * 4,
        region=[(0, 0, 10 + i, 40) if region_for(task) else None for i in range(4)],
        options=SHORT,
    )
    for i, (picture, answer) in enumerate(zip(pictures, batch, strict=True)):
        region = (0, 0, 10 + i, 40) if region_for(task) else None
        alone = tiny_model.run(picture, task, text_for(task), region=region, options=SHORT)
        assert alike(answer, alone)


@pytest.mark.parametrize("num_beams", [1, 3, 5])
def test_prompts_of_different_lengths_do_not_disturb_each_other(
    tiny_model: Florence2, pictures: list[Image.Image], num_beams: int
) -> None:
    texts = ["cat", "a very long phrase about a red car " * 6, "two dogs", "x"]
    options = replace(SHORT, num_beams=num_beams)
    task = "OPEN_VOCABULARY_DETECTION"
    batch = tiny_model.run(pictures, task, texts, options=options)
    for picture, text, answer in zip(pictures, texts, batch, strict=True):
        assert alike(answer, tiny_model.run(picture, task, text, options=options))


@pytest.mark.parametrize("num_beams", [1, 3])
def test_answers_that_end_early_do_not_disturb_the_others(
    tiny_model: Florence2, pictures: list[Image.Image], num_beams: int
) -> None:
    options = GenerationOptions(
        num_beams=num_beams, max_new_tokens=16, forced_eos_token_id=-1, no_repeat_ngram_size=3
    )
    task, texts = "CAPTION_TO_PHRASE_GROUNDING", ["cat", "two red cars", "?", "some of the words"]
    endless = tiny_model.run(pictures, task, texts, options=options)
    lengths: set[int] = set()
    for end in sorted({token for answer in endless for token in answer.token_ids[3:]}):
        model = ending_with(tiny_model, end)
        batch = model.run(pictures, task, texts, options=options)
        lengths = {len(answer.token_ids) for answer in batch}
        if len(lengths) > 2:
            break
    assert len(lengths) > 2, "no token ends these answers at different lengths"
    for picture, text, answer in zip(pictures, texts, batch, strict=True):
        assert alike(answer, model.run(picture, task, text, options=options))


def test_one_view_may_be_asked_several_questions_in_a_batch(
    tiny_model: Florence2, pictures: list[Image.Image]
) -> None:
    view = tiny_model.encode(pictures[0], options=SHORT)
    questions = [free_prompt(words) for words in ("What is this?", "Where?", "Who is there?")]
    answers = tiny_model.answer([view] * 3, questions, SHORT)
    for asked, answer in zip(questions, answers, strict=True):
        assert alike(answer, view.ask(asked.wording))


def test_a_batch_of_nothing_has_no_answers(tiny_model: Florence2) -> None:
    assert tiny_model.run([], "OD") == []
    assert tiny_model.encode([]) == []
    assert tiny_model.answer([], []) == []


@pytest.mark.parametrize("texts", [["one"], ["one"] * 5, []])
def test_texts_must_be_as_many_as_pictures(
    tiny_model: Florence2, pictures: list[Image.Image], texts: Sequence[str]
) -> None:
    with pytest.raises(
        RequestError, match="text must be one for all of the 4 images, or a list with one for each"
    ):
        tiny_model.run(pictures, "OPEN_VOCABULARY_DETECTION", texts)
