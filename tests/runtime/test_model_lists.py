"""`Florence2.run` and `encode` with lists of images and of tasks."""

from typing import Any

import numpy as np
import pytest
from PIL import Image

from florence_edge import Florence2, GenerationOptions, RequestError, Result, request_for

SHORT = GenerationOptions(num_beams=1, max_new_tokens=8)
DETECT = "OPEN_VOCABULARY_DETECTION"
BOXES = [(0, 0, 40, 40), (5, 6, 30, 50), (10, 0, 55, 45)]


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    rng = np.random.default_rng(7)
    sizes = [(80, 60), (60, 80), (64, 64)]
    noise = [Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)) for _ in sizes]
    return [image.resize(size) for image, size in zip(noise, sizes, strict=True)]


def alike(ours: Result, theirs: Result) -> bool:
    """Equal but for the last bits of scores, which depend on the batch's shape."""
    exact = ("task", "token_ids", "text_input", "status", "image_size", "convention")
    assert ours.token_log_probs == pytest.approx(theirs.token_log_probs, rel=1e-4, abs=1e-4)
    return ours.to_hf() == theirs.to_hf() and all(
        getattr(ours, name) == getattr(theirs, name) for name in exact
    )


# What is given decides what comes back.


def test_a_list_of_images_gives_a_list_of_the_answers_of_single_runs(
    tiny_model: Florence2, images: list[Image.Image], encoded: list[int]
) -> None:
    results = tiny_model.run(images, "OD", options=SHORT)
    assert encoded == [3]
    for image, result in zip(images, results, strict=True):
        assert alike(result, tiny_model.run(image, "OD", options=SHORT))


def test_a_list_of_tasks_gives_their_answers_in_order_for_one_encoding(
    tiny_model: Florence2, images: list[Image.Image], encoded: list[int]
) -> None:
    tasks = ["CAPTION", "OD", "<OCR>", "OD"]
    results = tiny_model.run(images[0], tasks, options=SHORT)
    assert encoded == [1]
    assert results == [tiny_model.run(images[0], task, options=SHORT) for task in tasks]


def test_lists_of_both_give_a_list_of_lists(
    tiny_model: Florence2, images: list[Image.Image], encoded: list[int]
) -> None:
    tasks = ["CAPTION", "OD"]
    rows = tiny_model.run(images, tasks, options=SHORT)
    assert encoded == [3]
    assert [[result.task.name for result in row] for row in rows] == [tasks] * 3
    for image, row in zip(images, rows, strict=True):
        for task, result in zip(tasks, row, strict=True):
            assert alike(result, tiny_model.run(image, task, options=SHORT))


def test_a_list_of_one_is_a_list_and_a_tuple_is_one_too(
    tiny_model: Florence2, images: list[Image.Image]
) -> None:
    alone = tiny_model.run(images[0], "OD", options=SHORT)
    assert tiny_model.run([images[0]], "OD", options=SHORT) == [alone]
    assert tiny_model.run((images[0],), "OD", options=SHORT) == [alone]
    assert tiny_model.run(images[0], ["OD"], options=SHORT) == [alone]
    assert tiny_model.run(images[0], ("OD",), options=SHORT) == [alone]
    assert tiny_model.run([images[0]], ["OD"], options=SHORT) == [[alone]]


def test_bytes_and_arrays_are_single_images(
    tiny_model: Florence2, images: list[Image.Image]
) -> None:
    array = np.asarray(images[0])
    alone = tiny_model.run(images[0], "OD", options=SHORT)
    assert tiny_model.run(array, "OD", options=SHORT) == alone
    assert tiny_model.run([array], "OD", options=SHORT) == [alone]


def test_a_request_of_several_tasks_loses_none_of_its_answers(
    tiny_model: Florence2, images: list[Image.Image]
) -> None:
    request: Any = request_for(["OD", "CAPTION"])
    results = tiny_model.run(images[0], request, options=SHORT)
    assert [result.task.name for result in results] == ["OD", "CAPTION"]


def test_nothing_has_no_answers(tiny_model: Florence2) -> None:
    assert tiny_model.run([], "OD") == []
    assert tiny_model.run([], ["OD", "CAPTION"]) == []
    assert tiny_model.run([], DETECT, "a car") == []
    assert tiny_model.run([], DETECT, []) == []
    assert tiny_model.run([], "REGION_TO_OCR", region=[]) == []
    with pytest.raises(RequestError, match="There is no task 'COUNT'"):
        tiny_model.run([], "COUNT")


def test_no_task_is_refused(tiny_model: Florence2, images: list[Image.Image]) -> None:
    with pytest.raises(RequestError, match="No task is named"):
        tiny_model.run(images[0], [])
    with pytest.raises(RequestError, match="No task is named"):
        tiny_model.run([], [])


@pytest.mark.parametrize("task", [5, None, ["OD", 5]])
def test_what_is_not_a_task_is_refused(
    tiny_model: Florence2, images: list[Image.Image], task: Any
) -> None:
    with pytest.raises(RequestError, match="A task is expected as a string"):
        tiny_model.run(images[0], task)


# Texts and regions: one for all, or one for each.


def test_one_text_holds_for_all_images(tiny_model: Florence2, images: list[Image.Image]) -> None:
    results = tiny_model.run(images, DETECT, "a red car", options=SHORT)
    assert [result.text_input for result in results] == ["a red car"] * 3


def test_a_list_of_texts_has_one_for_each_image(
    tiny_model: Florence2, images: list[Image.Image]
) -> None:
    texts = ["a car", "two dogs and a cat", "x"]
    results = tiny_model.run(images, DETECT, texts, options=SHORT)
    assert [result.text_input for result in results] == texts
    for image, text, result in zip(images, texts, results, strict=True):
        assert alike(result, tiny_model.run(image, DETECT, text, options=SHORT))


def test_one_region_holds_for_all_images(tiny_model: Florence2, images: list[Image.Image]) -> None:
    for region in (BOXES[0], list(BOXES[0]), np.array(BOXES[0])):
        given: Any = region
        results = tiny_model.run(images, "REGION_TO_OCR", region=given, options=SHORT)
        for image, result in zip(images, results, strict=True):
            alone = tiny_model.run(image, "REGION_TO_OCR", region=BOXES[0], options=SHORT)
            assert alike(result, alone)


def test_a_list_of_regions_has_one_for_each_image(
    tiny_model: Florence2, images: list[Image.Image]
) -> None:
    results = tiny_model.run(images, "REGION_TO_OCR", region=BOXES, options=SHORT)
    for image, region, result in zip(images, BOXES, results, strict=True):
        assert alike(result, tiny_model.run(image, "REGION_TO_OCR", region=region, options=SHORT))


def test_of_several_tasks_those_that_take_text_or_region_get_it(
    tiny_model: Florence2, images: list[Image.Image]
) -> None:
    tasks = ["OD", DETECT, "REGION_TO_OCR"]
    texts = ["a car", "a dog", "a cat"]
    rows = tiny_model.run(images, tasks, texts, region=BOXES, options=SHORT)
    assert [[result.text_input for result in row[:2]] for row in rows] == [
        [None, text] for text in texts
    ]
    for image, region, row in zip(images, BOXES, rows, strict=True):
        alone = tiny_model.run(image, "REGION_TO_OCR", region=region, options=SHORT)
        assert row[2].text_input == alone.text_input


@pytest.mark.parametrize("count", [1, 2, 4])
def test_a_wrong_number_of_texts_or_regions_is_refused(
    tiny_model: Florence2, images: list[Image.Image], count: int
) -> None:
    with pytest.raises(RequestError, match="text must be one for all of the 3 images, or a list"):
        tiny_model.run(images, DETECT, ["a car"] * count)
    with pytest.raises(RequestError, match="region must be one for all of the 3 images, or a li"):
        tiny_model.run(images, "REGION_TO_OCR", region=[BOXES[0]] * count)


def test_an_image_without_its_text_is_refused(
    tiny_model: Florence2, images: list[Image.Image]
) -> None:
    with pytest.raises(RequestError, match="needs a text"):
        tiny_model.run(images, DETECT, ["a car", None, "a dog"])


def test_one_image_takes_no_list_of_texts(tiny_model: Florence2, images: list[Image.Image]) -> None:
    with pytest.raises(RequestError, match=r"The text for <\w+> is \['a car'\], expected a string"):
        tiny_model.run(images[0], DETECT, ["a car"])


def test_text_while_it_is_made_is_for_one_image_and_one_task(
    tiny_model: Florence2, images: list[Image.Image]
) -> None:
    run: Any = tiny_model.run
    for image, task in ((images, "OD"), (images[0], ["OD"]), (images, ["OD"]), ([], "OD")):
        with pytest.raises(RequestError, match="on_text needs one picture and one task"):
            run(image, task, on_text=print)


# Encoding.


def test_a_list_of_images_is_encoded_in_one_run_to_a_list_of_views(
    tiny_model: Florence2, images: list[Image.Image], encoded: list[int]
) -> None:
    views = tiny_model.encode(images, options=SHORT)
    assert encoded == [3]
    assert [view.size for view in views] == [image.size for image in images]
    for image, view in zip(images, views, strict=True):
        assert view.image.tobytes() == image.tobytes()
        assert view.run("OD").token_ids == tiny_model.run(image, "OD", options=SHORT).token_ids
    assert tiny_model.encode([]) == []
    assert len(tiny_model.encode((images[0],))) == 1


def test_one_unreadable_image_of_a_list_is_named(
    tiny_model: Florence2, images: list[Image.Image]
) -> None:
    with pytest.raises(RequestError, match=r"There is no file gone\.jpg"):
        tiny_model.run([images[0], "gone.jpg"], "OD")


# The convention is the model's.


def test_the_convention_is_given_when_the_model_is_loaded(
    tiny_model: Florence2, images: list[Image.Image]
) -> None:
    folder = tiny_model.bundle.folder
    with Florence2.load(folder, threads=1, convention="microsoft") as model:
        assert (tiny_model.convention, model.convention) == ("native", "microsoft")
        view = model.encode(images[0], options=SHORT)
        results = [view.run("OD"), view.ask("What?"), *model.run(images, "OD", options=SHORT)]
        assert {result.convention for result in results} == {"microsoft"}
    unknown: Any = "torch"
    with pytest.raises(RequestError, match="no coordinate convention 'torch'"):
        Florence2.load(folder, convention=unknown)
