"""Pictures, tasks and options in; results out."""

import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from florence_edge import (
    TASKS,
    BackendError,
    Florence2,
    GenerationOptions,
    ImageError,
    RequestError,
    contract,
)
from florence_edge.bundle import Bundle
from florence_edge.tasks import free_prompt
from florence_edge.tokenizer import Tokenizer

from .asking import REGION, SHORT, ask, noise_pictures, region_for, text_for


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    return noise_pictures((80, 60), (60, 80), (64, 64), (200, 50))


# One picture, one task.


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("num_beams", [1, 3])
def test_every_task_gives_a_result_of_its_shape(
    tiny_model: Florence2, pictures: list[Image.Image], task: str, num_beams: int
) -> None:
    result = ask(tiny_model, task, pictures[0], replace(SHORT, num_beams=num_beams))
    assert list(result.to_hf()) == [f"<{task}>"]
    assert result.token_ids[:2] == (2, 0)
    assert len(result.token_log_probs) == len(result.token_ids)
    assert result.token_log_probs[0] == 0
    assert all(log_prob < 0 for log_prob in result.token_log_probs[1:])
    assert result.raw_text.startswith("</s><s>")
    assert result.image_size == pictures[0].size
    assert set(result.seconds) == {"image", "vision", "prefill", "decode", "parse"}
    assert all(0 <= score <= 1 for score in result.scores)


def test_answers_are_the_same_again(tiny_model: Florence2, pictures: list[Image.Image]) -> None:
    assert ask(tiny_model, "OD", pictures[0], SHORT) == ask(tiny_model, "OD", pictures[0], SHORT)


def test_different_pictures_get_different_answers(
    tiny_model: Florence2, pictures: list[Image.Image]
) -> None:
    answers = {ask(tiny_model, "OD", picture, SHORT).token_ids for picture in pictures}
    assert len(answers) > 1


def test_a_task_may_be_named_with_brackets_or_given_itself(
    tiny_model: Florence2, pictures: list[Image.Image]
) -> None:
    picture = pictures[0]
    plain = tiny_model.run(picture, "OD", options=SHORT)
    assert plain == tiny_model.run(picture, "<OD>", options=SHORT)
    assert plain == tiny_model.run(picture, TASKS["OD"], options=SHORT)


def test_words_of_ones_own_are_asked_as_they_are(
    tiny_model: Florence2, pictures: list[Image.Image]
) -> None:
    prompt = "Locate the objects with category name in the image."
    asked = tiny_model.ask(pictures[0], prompt, options=SHORT)
    assert asked.token_ids == tiny_model.run(pictures[0], "OD", options=SHORT).token_ids
    assert asked.to_hf() == {prompt: asked.text}


def test_a_region_may_be_given_in_location_tokens(
    tiny_model: Florence2, pictures: list[Image.Image]
) -> None:
    in_pixels = tiny_model.run(pictures[0], "REGION_TO_OCR", region=REGION, options=SHORT)
    text = "<loc_125><loc_333><loc_750><loc_750>"
    assert in_pixels.text_input == text
    assert in_pixels == tiny_model.run(pictures[0], "REGION_TO_OCR", text, options=SHORT)


def test_the_convention_changes_coordinates_and_not_the_answer(
    pointing_bundle: Path, pictures: list[Image.Image]
) -> None:
    model, picture = Florence2.load(pointing_bundle, threads=1), pictures[0]
    fractions = Florence2.load(pointing_bundle, threads=1, convention="microsoft")
    native = model.run(picture, "REGION_PROPOSAL", options=SHORT)
    floats = fractions.run(picture, "REGION_PROPOSAL", options=SHORT)
    assert native.token_ids == floats.token_ids
    assert native.regions
    for whole, exact in zip(native.regions, floats.regions, strict=True):
        assert whole.rings[0] == tuple(int(edge) for edge in exact.rings[0])
        assert whole.rings != exact.rings
    with pytest.raises(RequestError, match=r"'native' .* or 'microsoft'"):
        Florence2.load(pointing_bundle, convention="torch")  # type: ignore[arg-type]


# Options.


def test_options_reach_the_search(tiny_model: Florence2, pictures: list[Image.Image]) -> None:
    def said(**values: int) -> tuple[int, ...]:
        options = replace(SHORT, **values)  # type: ignore[arg-type]
        return tiny_model.run(pictures[0], "OD", options=options).token_ids

    assert len(said(max_new_tokens=5)) == 6
    assert said(forced_bos_token_id=7)[1] == 7
    assert said(forced_eos_token_id=9)[-1] == 9
    assert said(num_beams=1, no_repeat_ngram_size=0) != said(num_beams=1, no_repeat_ngram_size=1)
    unique = said(no_repeat_ngram_size=1, forced_bos_token_id=-1, forced_eos_token_id=-1)
    assert len(set(unique)) == len(unique)


def test_forced_tokens_and_markers_count_in_no_score(
    tiny_model: Florence2, pictures: list[Image.Image]
) -> None:
    options = replace(SHORT, forced_bos_token_id=70, forced_eos_token_id=71)
    result = tiny_model.run(pictures[0], "CAPTION", options=options)
    assert (result.token_ids[1], result.token_ids[-1]) == (70, 71)
    assert result.score == pytest.approx(np.exp(np.mean(result.token_log_probs[2:-1])))


def test_one_beam_is_greedy_and_more_say_what_is_more_likely(
    tiny_model: Florence2, pictures: list[Image.Image]
) -> None:
    sums = [
        sum(tiny_model.run(pictures[0], "OD", options=replace(SHORT, num_beams=n)).token_log_probs)
        for n in (1, 8)
    ]
    assert sums[0] < sums[1]


def test_an_answer_that_was_cut_off_says_so(
    tiny_model: Florence2, pictures: list[Image.Image]
) -> None:
    cut = tiny_model.run(pictures[0], "CAPTION", options=SHORT)
    assert (cut.status, cut.cut_off) == ("truncated", "length")


def test_without_options_the_checkpoint_decides(
    tiny_model: Florence2, tiny_bundle: Path, pictures: list[Image.Image]
) -> None:
    defaults = Bundle.load(tiny_bundle).generation
    assert defaults.num_beams == 3
    assert defaults.max_new_tokens == 1024
    shorter = replace(defaults, max_new_tokens=12)
    tokenizer = Tokenizer(tiny_bundle / "tokenizer.json", shorter)
    bundle = replace(tiny_model.bundle, generation=shorter)
    model = Florence2(bundle, tiny_model.backend, tokenizer)
    assert model.run(pictures[0], "OD") == tiny_model.run(pictures[0], "OD", options=SHORT)


@pytest.mark.parametrize("num_beams", [1, 3])
def test_an_answer_may_be_as_long_as_the_model_has_positions(
    tiny_model: Florence2, pictures: list[Image.Image], num_beams: int
) -> None:
    options = GenerationOptions(num_beams=num_beams, max_new_tokens=1024)
    result = tiny_model.run(pictures[0], "CAPTION", options=options)
    assert len(result.token_ids) == 1025 or result.status != "truncated"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (GenerationOptions(max_new_tokens=1025), "must be a whole number: 1 to 1024"),
        (GenerationOptions(num_beams=9), "num_beams is 9"),
        (GenerationOptions(forced_bos_token_id=99999), "a token id up to"),
    ],
)
def test_impossible_options_are_refused_before_the_picture_is_read(
    tiny_model: Florence2, options: GenerationOptions, message: str
) -> None:
    with pytest.raises(RequestError, match=message):
        tiny_model.run("nothing.jpg", "OD", options=options)


# What cannot be asked.


def test_a_prompt_beyond_the_encoder_is_refused_with_the_room_there_is(
    tiny_model: Florence2, pictures: list[Image.Image]
) -> None:
    size = tiny_model.bundle.size
    room = size.encoder_positions - size.image_tokens
    fits = "x" * (room - 2)  # a token a byte, and two around it
    assert tiny_model.ask(pictures[0], fits, options=SHORT).token_ids
    with pytest.raises(RequestError, match=rf"has {room + 1} tokens, .* room for {room}\. Shorten"):
        tiny_model.ask(pictures[0], fits + "x", options=SHORT)


def test_what_a_task_lacks_or_cannot_take_is_refused(
    tiny_model: Florence2, pictures: list[Image.Image]
) -> None:
    view = tiny_model.encode(pictures[0], options=SHORT)
    with pytest.raises(RequestError, match="There is no task 'COUNT'"):
        view.run("COUNT")
    with pytest.raises(RequestError, match="needs a text"):
        view.run("CAPTION_TO_PHRASE_GROUNDING")
    with pytest.raises(RequestError, match="needs a region"):
        view.run("REGION_TO_OCR")
    with pytest.raises(RequestError, match="leaves the picture, which is 80 x 60"):
        view.describe((0, 0, 81, 60))
    with pytest.raises(RequestError, match="takes no text"):
        view.run("OD", "car")
    with pytest.raises(RequestError, match="The prompt is empty"):
        view.ask(" ")


def test_a_picture_that_cannot_be_read_is_named(tiny_model: Florence2) -> None:
    with pytest.raises(ImageError, match=r"There is no file nothing\.jpg"):
        tiny_model.run("nothing.jpg", "OD", options=SHORT)


# One picture, several tasks.


@pytest.mark.parametrize("task", TASKS)
def test_a_view_answers_as_a_fresh_run_does(
    tiny_model: Florence2, pictures: list[Image.Image], task: str
) -> None:
    view = tiny_model.encode(pictures[1], options=SHORT)
    view.caption()  # what was asked before must not matter
    answer = view.run(task, text_for(task), region=region_for(task))
    assert answer == ask(tiny_model, task, pictures[1], SHORT)


def test_options_of_a_question_replace_those_of_the_view(
    tiny_model: Florence2, pictures: list[Image.Image]
) -> None:
    view = tiny_model.encode(pictures[0], options=SHORT)
    assert len(view.run("OD", options=GenerationOptions(max_new_tokens=3)).token_ids) == 4
    assert view.run("OD") == tiny_model.run(pictures[0], "OD", options=SHORT)


def test_two_encodings_of_a_picture_can_be_told_apart(
    tiny_model: Florence2, pictures: list[Image.Image]
) -> None:
    first, second = (tiny_model.encode(pictures[0]) for _ in range(2))
    assert first == first
    assert first != second
    assert len({first, second}) == 2


# The decoder and its caches.


def test_a_step_after_any_moves_scores_as_if_its_past_were_fed_from_the_start(
    tiny_model: Florence2, pictures: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Random beams over 70 steps: rows move, and the cache outgrows its first capacity of 64.

    The other decoder has one row, which never moves, and room for all from the start.
    """
    images, beams, steps = 2, 4, 70
    rng = np.random.default_rng(0)
    views = tiny_model.encode(pictures[:images])
    features = np.concatenate([view.features for view in views])
    questions = [free_prompt("What?"), free_prompt("What is in this picture?")]
    input_ids, mask = tiny_model.encode_prompts(questions)
    decoder = tiny_model.backend.prefill(features, input_ids, mask, beams=beams)

    pasts: list[list[list[int]]] = [[[] for _ in range(beams)] for _ in range(images)]
    parents = np.zeros((images, beams), dtype=np.int64)
    for _ in range(steps):
        tokens = rng.integers(4, 2048, (images, beams))
        pasts = [
            [[*rows[parent], int(token)] for parent, token in zip(*image, strict=True)]
            for rows, *image in zip(pasts, parents, tokens, strict=True)
        ]
        scores = decoder.step(tokens, parents)
        parents = rng.integers(0, beams, (images, beams))

    monkeypatch.setattr(contract, "MIN_CACHE_CAPACITY", 128)
    for image, rows in enumerate(pasts):
        (alone,) = tiny_model.encode_prompts([questions[image]])[0]
        alone_mask = np.ones((1, mask.shape[1] - input_ids.shape[1] + len(alone)), dtype=np.int64)
        for row, past in enumerate(rows):
            fresh = tiny_model.backend.prefill(
                features[image : image + 1], alone[None], alone_mask, beams=1
            )
            for token in past:
                (expected,) = fresh.step(np.array([[token]]), np.zeros((1, 1), dtype=np.int64))
            np.testing.assert_allclose(
                scores[image].full()[row], expected.full()[0], rtol=1e-4, atol=1e-4
            )


def test_the_top_scores_are_the_best_of_all_sorted(
    tiny_model: Florence2, pictures: list[Image.Image]
) -> None:
    view = tiny_model.encode(pictures[0])
    input_ids, mask = tiny_model.encode_prompts([free_prompt("What?")])
    decoder = tiny_model.backend.prefill(view.features, input_ids, mask, beams=2)
    (scores,) = decoder.step(np.array([[2, 5]]), np.zeros((1, 2), dtype=np.int64))
    whole = scores.full()
    assert np.exp(whole).sum(axis=1) == pytest.approx([1, 1], rel=1e-5)
    order = np.argsort(-whole, axis=1, kind="stable")[:, : scores.top_ids.shape[1]]
    np.testing.assert_array_equal(scores.top_ids, order)
    np.testing.assert_array_equal(scores.top_log_probs, np.take_along_axis(whole, order, axis=1))


def test_an_engine_that_fails_while_running_says_so(
    tiny_model: Florence2, pictures: list[Image.Image]
) -> None:
    view = replace(tiny_model.encode(pictures[0]), features=np.zeros((1, 3, 5), dtype=np.float32))
    with pytest.raises(BackendError, match="ONNX Runtime failed while running"):
        view.run("OD", options=SHORT)


# Answers that are stopped.


def test_an_answer_whose_time_is_up_is_cut_off_and_holds_what_was_complete(
    pointing_bundle: Path, pictures: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Florence2.load(pointing_bundle, threads=1)
    options = GenerationOptions(num_beams=1, max_new_tokens=40)
    whole = model.run(pictures[0], "REGION_PROPOSAL", options=options)
    stops = iter([*[None] * 9, "time"])
    monkeypatch.setattr("florence_edge.questions.stop_after", lambda *_: lambda: next(stops))
    cut = model.run(pictures[0], "REGION_PROPOSAL", options=options)
    assert (cut.status, cut.cut_off) == ("truncated", "time")
    assert cut.token_ids == whole.token_ids[: 1 + 10]
    assert len(cut.regions) == 2  # <s>, two boxes of four locations, and one location more
    assert cut.regions == whole.regions[:2]


@pytest.mark.parametrize("num_beams", [1, 3])
def test_a_deadline_is_kept_by_a_step(
    tiny_model: Florence2, pictures: list[Image.Image], num_beams: int
) -> None:
    options = GenerationOptions(num_beams=num_beams, max_time=1e-9)
    for result in tiny_model.run(pictures, "OD", options=options):
        assert (result.status, result.token_ids) == ("truncated", (2, 0))
        assert result.cut_off == "time"
    unhurried = replace(SHORT, max_time=1e6)
    usual = tiny_model.run(pictures[0], "OD", options=SHORT)
    assert tiny_model.run(pictures[0], "OD", options=unhurried) == usual


def test_a_cancelled_question_is_answered_with_what_there_is(
    tiny_model: Florence2, pictures: list[Image.Image]
) -> None:
    cancel = threading.Event()
    usual = tiny_model.run(pictures[0], "OD", options=SHORT, cancel=cancel)
    assert usual == tiny_model.run(pictures[0], "OD", options=SHORT)
    cancel.set()
    view = tiny_model.encode(pictures[0], options=SHORT)
    stopped = [
        tiny_model.run(pictures[0], "OD", options=SHORT, cancel=cancel),
        *tiny_model.run(pictures[:1], "OD", options=SHORT, cancel=cancel),
        view.run("OD", cancel=cancel),
        view.ask("What is this?", cancel=cancel),
    ]
    assert [(each.status, each.token_ids) for each in stopped] == [("truncated", (2, 0))] * 4
    assert {each.cut_off for each in stopped} == {"cancel"}
