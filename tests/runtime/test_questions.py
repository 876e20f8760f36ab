"""Batches whose questions have options, ends and errors of their own."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import count

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from florence_edge import (
    BackendError,
    EncodedImage,
    Florence2,
    GenerationOptions,
    RequestError,
    Result,
    prepare_images,
)
from florence_edge.generate import Asked, generate_each, stop_after
from florence_edge.options import GenerationConfig
from florence_edge.questions import Answer
from florence_edge.search import Hypothesis

from .scripted import DEFAULTS, Past, Scripted, log_softmax, random_script, search_for

VOCABULARY = 40
SHORT = GenerationOptions(num_beams=1, max_new_tokens=9)


@pytest.fixture(scope="module")
def views(tiny_model: Florence2) -> list[EncodedImage]:
    rng = np.random.default_rng(5)
    pictures = [Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)) for _ in "abc"]
    return tiny_model.encode(pictures)


def said(answers: Sequence[Answer]) -> list[object]:
    """What is the same in any batch: scores may differ in their last bits."""
    return [
        (each.token_ids, each.text, each.status, each.text_input)
        for each in answers
        if isinstance(each, Result)
    ]


# The loop.


@pytest.mark.parametrize("beams", [1, 3])
def test_settings_of_an_image_are_its_own(beams: int) -> None:
    base = replace(DEFAULTS, num_beams=beams)
    configs = [
        replace(base, max_new_tokens=4),
        replace(base, max_new_tokens=12, no_repeat_ngram_size=2),
        replace(base, max_new_tokens=7, repetition_penalty=2.0),
    ]
    scripts = [random_script(seed, VOCABULARY, habit=2, eos=-3) for seed in range(3)]
    alone = [search_for(script, config) for script, config in zip(scripts, configs, strict=True)]
    asked = [Asked(config=config) for config in configs]
    assert generate_each(Scripted(scripts), asked) == alone


def test_scores_that_are_not_numbers_end_their_own_image_alone() -> None:
    def overflows(past: Past) -> np.ndarray:
        return np.full(VOCABULARY, np.nan) if len(past) == 3 else log_softmax(np.arange(VOCABULARY))

    script = random_script(1, VOCABULARY, eos=-9)
    asked = [Asked(config=DEFAULTS)] * 3
    first, second, third = generate_each(Scripted([script, overflows, script]), asked)
    assert isinstance(second, BackendError)
    assert first == third == search_for(script, DEFAULTS)


def test_an_image_is_stopped_alone_and_told_when_it_is_done() -> None:
    scripts = [random_script(seed, VOCABULARY, eos=-9) for seed in range(2)]
    stop, order = threading.Event(), []
    grown: list[int] = []

    def on_tokens(tokens: np.ndarray, done: bool) -> None:
        grown.append(len(tokens))
        if len(tokens) == 3:
            stop.set()

    asked = [
        Asked(config=DEFAULTS, on_done=lambda _: order.append("whole")),
        Asked(
            config=DEFAULTS,
            stop=stop_after(None, stop),
            on_tokens=on_tokens,
            on_done=lambda _: order.append("stopped"),
        ),
    ]
    whole, stopped = generate_each(Scripted(scripts), asked)
    assert isinstance(stopped, Hypothesis)
    assert stopped.cut_off == "cancel"
    assert whole == search_for(scripts[0], DEFAULTS)
    assert order == ["stopped", "whole"]
    assert grown[-1] == len(stopped.token_ids)


@dataclass(frozen=True)
class Case:
    """An image of a batch: what is scripted for it, how it is asked, and what becomes of it."""

    seed: int
    config: GenerationConfig
    stopped: int | None
    """The step after which it is stopped."""
    broken: int | None
    """The length from which on its scores are not numbers."""

    def script(self, past: Past) -> npt.ArrayLike:
        if self.broken is not None and len(past) >= self.broken:
            return np.full(VOCABULARY, np.nan)
        return random_script(self.seed, VOCABULARY, habit=1.5, eos=1.0)(past)


@st.composite
def cases(draw: st.DrawFn, beams: int) -> Case:
    config = replace(
        DEFAULTS,
        num_beams=beams,
        max_new_tokens=draw(st.integers(1, 12)),
        no_repeat_ngram_size=draw(st.sampled_from((0, 2, 3))),
        repetition_penalty=draw(st.sampled_from((1.0, 1.5))),
        length_penalty=draw(st.sampled_from((0.0, 1.0, 2.0))),
        early_stopping=draw(st.sampled_from((True, False, "never"))),
        suppress_tokens=draw(st.sampled_from(((), (5, 6)))),
    )
    sometimes = st.none() | st.integers(1, 10)
    return Case(draw(st.integers(0, 99)), config, draw(sometimes), draw(sometimes))


def outcomes(batch: Sequence[Case]) -> list[object]:
    """What each image of a batch gets, and what it was certain to begin with after each step."""
    certain: list[list[list[int]]] = [[] for _ in batch]

    def asked(number: int, case: Case) -> Asked:
        steps = count(1)
        return Asked(
            config=case.config,
            stop=lambda: "time" if next(steps) == case.stopped else None,
            on_tokens=lambda tokens, done: certain[number].append(tokens.tolist()),
        )

    scripted = Scripted([case.script for case in batch])
    ended = generate_each(scripted, [asked(n, case) for n, case in enumerate(batch)])
    found = [str(each) if isinstance(each, BackendError) else each for each in ended]
    return list(zip(found, certain, strict=True))


@settings(max_examples=30)
@given(st.data())
def test_whatever_neighbours_do_an_answer_is_what_it_is_alone(data: st.DataObject) -> None:
    beams = data.draw(st.sampled_from((1, 3)))
    batch = data.draw(st.lists(cases(beams), min_size=2, max_size=4))
    assert outcomes(batch) == [found for case in batch for found in outcomes([case])]


# The model.


def test_questions_of_one_batch_get_what_they_get_alone(
    tiny_model: Florence2, views: list[EncodedImage]
) -> None:
    questions = [
        views[0].question("OD", options=SHORT),
        views[1].question("CAPTION", options=GenerationOptions(num_beams=3, max_new_tokens=6)),
        views[2].question("REGION_TO_OCR", region=(1, 2, 20, 30), options=SHORT),
        views[0].question("CAPTION", options=replace(SHORT, max_new_tokens=4)),
    ]
    alone = [
        views[0].run("OD", options=SHORT),
        views[1].run("CAPTION", options=GenerationOptions(num_beams=3, max_new_tokens=6)),
        views[2].run("REGION_TO_OCR", region=(1, 2, 20, 30), options=SHORT),
        views[0].run("CAPTION", options=replace(SHORT, max_new_tokens=4)),
    ]
    assert said(tiny_model.answer_questions(questions)) == said(alone)


def test_a_wrong_question_has_its_own_error_and_the_others_their_answers(
    tiny_model: Florence2, views: list[EncodedImage]
) -> None:
    given: dict[int, Answer] = {}
    questions = [
        views[0].question("OD", options=SHORT),
        views[0].question("CAPTION_TO_PHRASE_GROUNDING", "word " * 5000, options=SHORT),
        views[0].question("OD", options=replace(SHORT, num_beams=99)),
        views[1].question("OD", options=SHORT),
    ]
    answers = tiny_model.answer_questions(questions, on_answer=given.__setitem__)
    assert [type(answer) for answer in answers] == [Result, RequestError, RequestError, Result]
    assert "Shorten the text" in str(answers[1])
    assert said(answers[:1]) == said([views[0].run("OD", options=SHORT)])
    assert given == dict(enumerate(answers))


def test_a_question_that_is_cancelled_ends_alone(
    tiny_model: Florence2, views: list[EncodedImage]
) -> None:
    cancel = threading.Event()
    cancel.set()
    pieces: list[str] = []
    options = GenerationOptions(num_beams=1, max_new_tokens=12)
    cut, whole = tiny_model.answer_questions(
        [
            views[0].question("OD", options=options, cancel=cancel),
            views[1].question("OD", options=options, on_text=pieces.append),
        ]
    )
    assert isinstance(cut, Result)
    assert cut.status == "truncated"
    assert isinstance(whole, Result)
    assert said([whole]) == said([views[1].run("OD", options=options)])
    spoken = whole.raw_text
    for marker in ("<s>", "</s>", "<pad>"):
        spoken = spoken.replace(marker, "")
    assert "".join(pieces) == spoken


def test_no_batch_is_larger_than_the_engine_takes(
    tiny_model: Florence2, views: list[EncodedImage], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    prefill = tiny_model.backend.prefill

    def counting(features: object, ids: np.ndarray, mask: np.ndarray, *, beams: int) -> object:
        sizes.append(len(ids))
        return prefill(features, ids, mask, beams=beams)

    monkeypatch.setattr(tiny_model.backend, "prefill", counting)
    monkeypatch.setattr(tiny_model.backend, "max_batch", 2)
    tiny_model.answer_questions([views[0].question("OD", options=SHORT)] * 5)
    assert sizes == [2, 2, 1]


def test_an_answer_that_is_handed_out_cannot_use_the_model(
    tiny_model: Florence2, views: list[EncodedImage]
) -> None:
    def ask_again(_: int, answer: Answer) -> None:
        views[0].run("OD")

    with pytest.raises(RequestError, match="used the model"):
        tiny_model.answer_questions([views[0].question("OD", options=SHORT)], on_answer=ask_again)


# Pictures that were prepared ahead.


def test_a_prepared_picture_is_answered_without_its_pixels(tiny_model: Florence2) -> None:
    picture = Image.effect_noise((90, 60), 60).convert("RGB")
    prepared = prepare_images([picture], tiny_model.bundle.size.image_size).without_pictures()
    assert prepared.sizes == [(90, 60)]
    (view,) = tiny_model.encode_prepared(prepared)
    assert view.run("OD", options=SHORT) == tiny_model.run(picture, "OD", options=SHORT)
    with pytest.raises(RequestError, match="Only the size"):
        _ = view.image
