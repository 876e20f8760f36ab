"""A view's own methods: a name for each task, with options and a way to cancel."""

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from florence_edge import TASKS, Florence2, GenerationOptions, RequestError, Result

SHORT = GenerationOptions(max_new_tokens=12)
REGION = (10, 20, 60, 45)


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    noise = np.random.default_rng(1).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    return [Image.fromarray(noise)]


def test_the_methods_of_a_view_ask_their_tasks(
    tiny_model: Florence2, pictures: list[Image.Image]
) -> None:
    view = tiny_model.encode(pictures[0], options=GenerationOptions(max_new_tokens=2, num_beams=1))
    asked = {
        "CAPTION": view.caption(),
        "DETAILED_CAPTION": view.caption(detail=2),
        "MORE_DETAILED_CAPTION": view.caption(detail=3),
        "OD": view.detect(),
        "OPEN_VOCABULARY_DETECTION": view.detect(["cat", "dog"]),
        "CAPTION_TO_PHRASE_GROUNDING": view.ground("a cat and a dog"),
        "REFERRING_EXPRESSION_SEGMENTATION": view.segment("the left cat"),
        "REGION_TO_SEGMENTATION": view.segment(region=REGION),
        "OCR": view.ocr(),
        "OCR_WITH_REGION": view.ocr(regions=True),
        "REGION_TO_OCR": view.read(REGION),
        "REGION_TO_DESCRIPTION": view.describe(REGION),
        "REGION_TO_CATEGORY": view.categorize(REGION),
        "REGION_PROPOSAL": view.propose(),
        "DENSE_REGION_CAPTION": view.dense_captions(),
    }
    assert {task: result.task.name for task, result in asked.items()} == {t: t for t in TASKS}
    assert asked["OPEN_VOCABULARY_DETECTION"].text_input == "cat<and>dog"
    assert view.detect("cat").text_input == "cat"


def test_the_methods_of_a_view_take_options_and_a_way_to_cancel(
    tiny_model: Florence2, pictures: list[Image.Image]
) -> None:
    view = tiny_model.encode(pictures[0], options=SHORT)
    asked: list[tuple[Callable[..., Result], tuple[object, ...]]] = [
        (view.caption, ()), (view.detect, ()), (view.detect, ("cat",)), (view.ground, ("a cat",)),
        (view.segment, ("a cat",)), (view.segment, (REGION,)), (view.ocr, ()), (view.ocr, (True,)),
        (view.read, (REGION,)), (view.describe, (REGION,)), (view.categorize, (REGION,)),
        (view.propose, ()), (view.dense_captions, ()),
    ]  # fmt: skip
    two, cancel = GenerationOptions(max_new_tokens=2, num_beams=1), threading.Event()
    cancel.set()
    for method, given in asked:
        assert len(method(*given, options=two).token_ids) == 1 + 2
        assert method(*given, options=two, cancel=cancel).cut_off == "cancel"


def test_a_view_refuses_what_its_methods_cannot_ask(
    tiny_model: Florence2, pictures: list[Image.Image]
) -> None:
    view = tiny_model.encode(pictures[0], options=SHORT)
    detail: Any
    for detail in (0, 4, 1.5, [1]):
        with pytest.raises(RequestError, match=r"detail is .* a whole number from 1 to 3"):
            view.caption(detail=detail)
    for phrase, region in ((None, None), ("cat", REGION)):
        with pytest.raises(RequestError, match="a phrase or a region, one of the two"):
            view.segment(phrase, region=region)
    with pytest.raises(RequestError, match="detect got no phrase"):
        view.detect([])
    phrases: Any
    for phrases in ("", " ", ["cat", ""], [1]):
        with pytest.raises(RequestError, match="each phrase must be a text"):
            view.detect(phrases)
