import io
import threading
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from florence_edge import Florence2, GenerationOptions, ImageError, RequestError, run_many
from florence_edge.batch import read_ahead

SHORT = GenerationOptions(num_beams=1, max_new_tokens=8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for number in range(5):
        noise = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8))
        noise.resize((80, 60)).save(tmp_path / f"{number}.png")
    return tmp_path


# Many pictures.


def test_answers_come_in_order_and_are_those_of_single_runs(
    tiny_model: Florence2, folder: Path
) -> None:
    paths = sorted(folder.iterdir())
    answers = list(run_many(tiny_model, paths, ["OD", "CAPTION"], options=SHORT))
    assert [each.image for each in answers] == paths
    for path, answered in zip(paths, answers, strict=True):
        for task, result in zip(("OD", "CAPTION"), answered.results, strict=True):
            assert result == tiny_model.run(path, task, options=SHORT)
            assert list(result.seconds) == ["image", "vision", "prefill", "decode", "parse"]
        assert answered.view is not None
        assert answered.view.size == (80, 60)
        assert answered.error is None


def test_a_picture_that_cannot_be_read_has_its_error_and_the_rest_goes_on(
    tiny_model: Florence2, folder: Path
) -> None:
    (folder / "1.png").write_bytes(b"no picture")
    answers = list(run_many(tiny_model, sorted(folder.iterdir()), "OD", options=SHORT))
    assert [bool(each.results) for each in answers] == [True, False, True, True, True]
    assert isinstance(answers[1].error, ImageError)
    assert answers[1].view is None


def test_a_region_that_does_not_fit_one_picture_is_that_pictures_error(
    tiny_model: Florence2, folder: Path
) -> None:
    Image.new("RGB", (20, 20)).save(folder / "0.png")
    tasks = ["REGION_TO_OCR", "OD"]
    region = (0, 0, 50, 50)
    answers = list(
        run_many(tiny_model, sorted(folder.iterdir())[:2], tasks, region=region, options=SHORT)
    )
    assert "leaves the picture" in str(answers[0].error)
    assert answers[0].results == ()
    assert [result.task.name for result in answers[1].results] == tasks


def test_of_several_tasks_those_that_take_text_get_it(tiny_model: Florence2, folder: Path) -> None:
    tasks = ["OD", "CAPTION_TO_PHRASE_GROUNDING"]
    (answered,) = run_many(tiny_model, [folder / "0.png"], tasks, "a red car", options=SHORT)
    assert [result.text_input for result in answered.results] == [None, "a red car"]


@pytest.mark.parametrize(
    ("tasks", "text", "message"),
    [
        ("OD", "a car", "takes no text"),
        (["OD", "OCR"], "a car", "None of <OD>, <OCR> takes a text"),
        (["OD", "OPEN_VOCABULARY_DETECTION"], None, "needs a text"),
        ("COUNT", None, "There is no task"),
        ([], None, "No task is named"),
    ],
)
def test_mistakes_that_hold_for_all_are_raised_before_any_is_read(
    tiny_model: Florence2, tasks: Any, text: str | None, message: str
) -> None:
    def unread() -> Iterator[Path]:
        raise AssertionError("read")
        yield

    with pytest.raises(RequestError, match=message):
        run_many(tiny_model, unread(), tasks, text)


def test_few_pictures_are_read_ahead_of_the_answers(tiny_model: Florence2) -> None:
    read: list[int] = []

    def pictures() -> Iterator[np.ndarray]:
        for number in range(50):
            read.append(number)
            yield np.zeros((60, 80, 3), np.uint8)

    for done, _ in enumerate(run_many(tiny_model, pictures(), "OD", options=SHORT), start=1):
        assert len(read) <= done + 3
        if done == 10:
            break
    assert len(read) < 15


def test_an_error_of_the_one_who_gives_the_pictures_is_raised_in_its_place(
    tiny_model: Florence2,
) -> None:
    def pictures() -> Iterator[np.ndarray]:
        yield np.zeros((60, 80, 3), np.uint8)
        raise ZeroDivisionError

    answers = run_many(tiny_model, pictures(), "OD", options=SHORT)
    assert next(answers).results
    with pytest.raises(ZeroDivisionError):
        next(answers)


# In batches.


@pytest.mark.parametrize("batch", [2, 3, 9])
def test_answers_in_batches_are_those_of_single_runs_in_order(
    tiny_model: Florence2, folder: Path, batch: int
) -> None:
    paths = sorted(folder.iterdir())
    tasks = ["OD", "CAPTION"]
    alone = list(run_many(tiny_model, paths, tasks, options=SHORT))
    together = list(run_many(tiny_model, paths, tasks, options=SHORT, batch=batch))
    assert [each.image for each in together] == paths
    for one, other in zip(alone, together, strict=True):
        assert [r.token_ids for r in one.results] == [r.token_ids for r in other.results]
        assert list(other.results[0].seconds) == ["image", "vision", "prefill", "decode", "parse"]


def test_the_engine_sees_whole_batches(tiny_model: Florence2, folder: Path) -> None:
    backend, sizes = Counting(tiny_model.backend), [2, 2, 1]
    model = Florence2(tiny_model.bundle, backend, tiny_model._tokenizer)
    list(run_many(model, sorted(folder.iterdir()), ["OD", "CAPTION"], options=SHORT, batch=2))
    assert backend.encoded == sizes
    assert backend.prefilled == [size for size in sizes for _ in range(2)]


class Counting:
    """A backend that notes how many pictures it is given at once."""

    max_new_tokens: int | None = None
    max_batch: int | None = None

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self.encoded: list[int] = []
        self.prefilled: list[int] = []

    def encode_image(self, pixels: Any) -> Any:
        self.encoded.append(len(pixels))
        return self._backend.encode_image(pixels)

    def prefill(self, features: Any, input_ids: Any, encoder_mask: Any, *, beams: int) -> Any:
        self.prefilled.append(len(input_ids))
        return self._backend.prefill(features, input_ids, encoder_mask, beams=beams)

    def close(self) -> None:
        raise AssertionError("closed")


def test_one_bad_picture_does_not_spoil_its_batch(tiny_model: Florence2, folder: Path) -> None:
    (folder / "1.png").write_bytes(b"no picture")
    Image.new("RGB", (20, 20)).save(folder / "2.png")
    answers = list(
        run_many(
            tiny_model,
            sorted(folder.iterdir()),
            "REGION_TO_OCR",
            region=(0, 0, 50, 50),
            options=SHORT,
            batch=5,
        )
    )
    assert [bool(each.results) for each in answers] == [True, False, False, True, True]
    assert isinstance(answers[1].error, ImageError)
    assert "leaves the picture" in str(answers[2].error)


def test_a_batch_of_bad_pictures_alone_is_no_trouble(tiny_model: Florence2) -> None:
    answers = list(run_many(tiny_model, [b"no", b"none"], "OD", options=SHORT, batch=2))
    assert [isinstance(each.error, ImageError) for each in answers] == [True, True]


def test_a_batch_reads_no_more_than_itself_ahead(tiny_model: Florence2) -> None:
    read: list[int] = []

    def pictures() -> Iterator[np.ndarray]:
        for number in range(50):
            read.append(number)
            yield np.zeros((60, 80, 3), np.uint8)

    answers = run_many(tiny_model, pictures(), "OD", options=SHORT, batch=4)
    for done, _ in enumerate(answers, start=1):
        assert len(read) <= 4 * -(-done // 4) + 4 + 2
        if done == 13:
            break


def test_what_came_before_an_error_is_answered_first(tiny_model: Florence2) -> None:
    def pictures() -> Iterator[np.ndarray]:
        yield np.zeros((60, 80, 3), np.uint8)
        yield np.zeros((60, 80, 3), np.uint8)
        raise ZeroDivisionError

    answers = run_many(tiny_model, pictures(), "OD", options=SHORT, batch=4)
    assert next(answers).results
    assert next(answers).results
    with pytest.raises(ZeroDivisionError):
        next(answers)


def test_leaving_early_ends_in_batches_as_well(tiny_model: Florence2, folder: Path) -> None:
    before = set(threading.enumerate())
    answers = run_many(tiny_model, sorted(folder.iterdir()), "OD", options=SHORT, batch=2)
    next(answers)
    answers.close()  # type: ignore[attr-defined]
    assert set(threading.enumerate()) <= before


def test_a_batch_of_none_is_refused_at_once(tiny_model: Florence2) -> None:
    with pytest.raises(RequestError, match="batch is 0; it must be a whole number from 1 to 1024"):
        run_many(tiny_model, [], "OD", batch=0)


@pytest.mark.parametrize("batch", [1025, 10**6, True, 2.5, "2"])
def test_a_batch_that_no_engine_answers_at_once_is_refused(
    tiny_model: Florence2, batch: int
) -> None:
    with pytest.raises(RequestError, match="must be a whole number from 1 to 1024"):
        run_many(tiny_model, [], "OD", batch=batch)


def test_a_batch_takes_the_memory_of_the_pictures_that_there_are(
    tiny_model: Florence2, folder: Path
) -> None:
    (first, *_) = sorted(folder.iterdir())
    tracemalloc.start()
    try:
        (answered,) = run_many(tiny_model, [first], "OD", options=SHORT, batch=1024)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert answered.results
    assert most < 30_000_000


# What runs ahead.


def test_items_are_made_while_their_consumer_is_busy() -> None:
    made = threading.Semaphore(0)

    def items() -> Iterator[int]:
        for number in range(4):
            yield number
            made.release()

    ahead = read_ahead(items(), 2)
    assert next(ahead) == 0
    assert made.acquire(timeout=5)  # the first is done and the second on its way, unasked
    assert list(ahead) == [1, 2, 3]


def test_the_thread_ends_with_its_consumer() -> None:
    before = set(threading.enumerate())

    def endless() -> Iterator[int]:
        while True:
            time.sleep(0.001)
            yield 1

    ahead = read_ahead(endless(), 3)
    next(ahead)
    ahead.close()
    assert set(threading.enumerate()) <= before
    assert list(read_ahead(iter([]), 2)) == []


@pytest.mark.parametrize(
    "images",
    ["street.jpg", b"bytes", Path("street.jpg"), 5, io.BytesIO(), np.zeros((9, 9, 3), np.uint8)],
)
def test_one_picture_is_not_several(tiny_model: Florence2, images: object) -> None:
    with pytest.raises(RequestError, match="run_many takes several pictures"):
        run_many(tiny_model, images, "OD")  # type: ignore[arg-type]
