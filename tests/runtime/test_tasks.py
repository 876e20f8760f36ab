from typing import get_args

import pytest

from florence_edge import TASKS, RequestError, TaskName
from florence_edge.regions import RelativeBox
from florence_edge.tasks import (
    AnswerKind,
    Needs,
    free_prompt,
    prompt_for,
    request_for,
    requests_for,
)

SIZE = (640, 480)
REGION = (34, 160, 597, 371)
LOCATIONS = "<loc_53><loc_333><loc_932><loc_772>"


def needing(needs: Needs) -> list[str]:
    return [task.token for task in TASKS.values() if task.needs is needs]


def test_there_are_fifteen_tasks() -> None:
    assert len(TASKS) == 15
    assert [len(needing(needs)) for needs in Needs] == [8, 3, 4]


@pytest.mark.parametrize("name", ["OD", "<OD>", "od", " <od> "])
def test_a_task_may_be_written_with_and_without_brackets(name: str) -> None:
    asked = prompt_for(name, None, None, SIZE)
    assert asked.task is TASKS["OD"]
    assert asked.wording == "Locate the objects with category name in the image."


def test_an_unknown_task_is_refused_with_a_list_of_all() -> None:
    with pytest.raises(RequestError, match="no task 'XY'") as refusal:
        prompt_for("XY", None, None, SIZE)
    assert all(name in str(refusal.value) for name in TASKS)


@pytest.mark.parametrize("token", needing(Needs.NOTHING))
def test_a_task_that_takes_nothing_refuses_text_and_region(token: str) -> None:
    assert prompt_for(token, None, None, SIZE).wording == TASKS[token[1:-1]].template
    with pytest.raises(RequestError, match=f"{token} takes no text, but got 'cat'"):
        prompt_for(token, "cat", None, SIZE)
    with pytest.raises(RequestError, match=f"{token} takes no region"):
        prompt_for(token, None, REGION, SIZE)


@pytest.mark.parametrize("token", needing(Needs.TEXT))
def test_a_task_that_takes_text_puts_it_into_the_prompt(token: str) -> None:
    asked = prompt_for(token, "  a {red} car ", None, SIZE)
    assert "a {red} car" in asked.wording
    assert "  a" not in asked.wording
    assert asked.text_input == "  a {red} car "
    for missing in (None, "", "  "):
        with pytest.raises(RequestError, match=rf"{token} needs a text\. .*--text"):
            prompt_for(token, missing, None, SIZE)
    with pytest.raises(RequestError, match="takes no region"):
        prompt_for(token, "car", REGION, SIZE)


@pytest.mark.parametrize("token", needing(Needs.REGION))
def test_a_task_that_takes_a_region_takes_it_in_pixels_or_in_location_tokens(token: str) -> None:
    in_pixels = prompt_for(token, None, REGION, SIZE)
    assert in_pixels == prompt_for(token, LOCATIONS, None, SIZE)
    assert LOCATIONS in in_pixels.wording
    assert in_pixels.text_input == LOCATIONS
    with pytest.raises(RequestError, match=rf"{token} needs a region\. .*--region"):
        prompt_for(token, None, None, SIZE)
    with pytest.raises(RequestError, match="in one way only"):
        prompt_for(token, LOCATIONS, REGION, SIZE)


@pytest.mark.parametrize("text", ["car", LOCATIONS[:-9], LOCATIONS[:-9] + "<loc_1000>"])
def test_a_text_that_is_no_region_is_refused(text: str) -> None:
    with pytest.raises(RequestError, match="needs a region, but got the text"):
        prompt_for("REGION_TO_OCR", text, None, SIZE)


@pytest.mark.parametrize(
    ("region", "message"),
    [
        ((0, 0, 641, 480), "leaves the picture, which is 640 x 480"),
        ((-1, 0, 10, 10), "leaves the picture"),
        ((10, 10, 10, 20), "has no area"),
        ((1, 2, 3), "is not a region"),
        ((0, 0, float("nan"), 5), "is not a region"),
    ],
)
def test_an_impossible_region_is_refused(region: tuple[float, ...], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        prompt_for("REGION_TO_OCR", None, region, SIZE)


def test_words_of_ones_own_pass_through_as_they_are() -> None:
    asked = free_prompt(" <VQA>What is {this}? ")
    assert asked.wording == " <VQA>What is {this}? "
    assert asked.task.answer is AnswerKind.PURE_TEXT
    assert asked.text_input is None


@pytest.mark.parametrize("prompt", ["", "  \n"])
def test_an_empty_prompt_is_refused(prompt: str) -> None:
    with pytest.raises(RequestError, match="The prompt is empty"):
        free_prompt(prompt)


def test_a_region_in_fractions_goes_through_a_request_to_the_tokens() -> None:
    relative = RelativeBox(0.1, 0.2, 0.5, 0.6)
    width, height = 640, 480
    in_pixels = request_for("REGION_TO_OCR", None, (64, 96, 320, 288)).prompts((width, height))
    for request in (
        request_for("REGION_TO_OCR", None, relative),
        *requests_for("REGION_TO_OCR", None, relative, images=1),
        *requests_for("REGION_TO_OCR", None, [relative, relative], images=2),
    ):
        assert request.prompts((width, height)) == in_pixels


def test_fractions_as_pixels_are_refused_before_any_picture_is_read() -> None:
    with pytest.raises(RequestError, match="seems to be in fractions"):
        request_for("REGION_TO_OCR", None, (0.1, 0.2, 0.5, 0.6))
    with pytest.raises(RequestError, match="seems to be in fractions"):
        prompt_for("REGION_TO_OCR", None, (0.1, 0.2, 0.5, 0.6), (640, 480))


def test_the_type_of_task_names_has_those_of_the_table() -> None:
    assert get_args(TaskName) == tuple(TASKS)
