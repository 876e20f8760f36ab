"""One model and several threads; its end; and what a callback may not do."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from florence_edge import (
    TASKS,
    BackendError,
    Florence2,
    GenerationOptions,
    Needs,
    RequestError,
    run_many,
    watch,
)

from .scripted_machine import Machine

SHORT = GenerationOptions(num_beams=1, max_new_tokens=10)
BEAMS = GenerationOptions(num_beams=3, max_new_tokens=10)
CLOSED = r"^This model was closed\. Load it again\.$"
THREADS = 8


@pytest.fixture
def model(tiny_bundle: Path) -> Iterator[Florence2]:
    """A model that a test may close."""
    with Florence2.load(tiny_bundle, threads=1) as model:
        yield model


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    rng = np.random.default_rng(3)
    noise = [Image.fromarray(rng.integers(0, 256, (5, 4, 3), dtype=np.uint8)) for _ in range(4)]
    return [image.resize((60 + 5 * n, 50)) for n, image in enumerate(noise)]


def question(number: int, images: list[Image.Image]) -> dict[str, Any]:
    """The arguments of a `run`: another one for each number."""
    task = list(TASKS.values())[number % 15]
    return {
        "image": images[number % len(images)],
        "task": task.name,
        "text": f"thing number {number}" if task.needs is Needs.TEXT else None,
        "region": (1, 2, 20 + number, 40) if task.needs is Needs.REGION else None,
        "options": BEAMS if number % 2 else SHORT,
    }


# Several threads.


def test_threads_get_the_answers_of_a_serial_run(
    tiny_model: Florence2, images: list[Image.Image]
) -> None:
    rounds = 4
    expected = [tiny_model.run(**question(n, images)) for n in range(THREADS * rounds)]
    together = threading.Barrier(THREADS)

    def ask(thread: int) -> list[Any]:
        answers = []
        for turn in range(rounds):
            together.wait(60)
            answers.append(tiny_model.run(**question(turn * THREADS + thread, images)))
        return answers

    with ThreadPoolExecutor(THREADS) as pool:
        by_thread = list(pool.map(ask, range(THREADS)))
    found = [by_thread[n % THREADS][n // THREADS] for n in range(THREADS * rounds)]
    assert found == expected
    assert len({result.token_ids for result in expected}) > THREADS


def test_threads_share_the_buffers_of_a_gpu_without_mixing_them_up(
    machine: Machine, images: list[Image.Image]
) -> None:
    """On a GPU all answers go through the same caches and staging buffers."""
    threads, rounds = 4, 2
    with machine.load() as model:
        expected = [model.run(**question(n, images)) for n in range(threads * rounds)]
        together = threading.Barrier(threads)

        def ask(thread: int) -> list[Any]:
            together.wait(60)
            numbers = range(thread, threads * rounds, threads)
            return [model.run(**question(n, images)) for n in numbers]

        with ThreadPoolExecutor(threads) as pool:
            by_thread = list(pool.map(ask, range(threads)))
    assert [by_thread[n % threads][n // threads] for n in range(threads * rounds)] == expected


def test_threads_may_share_a_view(tiny_model: Florence2, images: list[Image.Image]) -> None:
    view = tiny_model.encode(images[0], options=SHORT)
    tasks = ["OD", "CAPTION", "OCR", "REGION_PROPOSAL"] * 4
    expected = [view.run(task) for task in tasks]
    with ThreadPoolExecutor(THREADS) as pool:
        assert list(pool.map(view.run, tasks)) == expected


def test_threads_that_encode_get_the_features_of_their_own_images(
    tiny_model: Florence2, images: list[Image.Image]
) -> None:
    expected = [np.array(tiny_model.encode(image).features) for image in images]
    together = threading.Barrier(THREADS)

    def encode(number: int) -> Any:
        together.wait(60)
        return tiny_model.encode(images[number % len(images)])

    with ThreadPoolExecutor(THREADS) as pool:
        views = list(pool.map(encode, range(THREADS)))
    for number, view in enumerate(views):
        assert view.size == images[number % len(images)].size
        np.testing.assert_array_equal(view.features, expected[number % len(images)])


def test_two_series_of_many_images_run_at_once(
    tiny_model: Florence2, images: list[Image.Image]
) -> None:
    def answer(task: str) -> list[Any]:
        return [each.results[0] for each in run_many(tiny_model, images, task, options=SHORT)]

    expected = [answer("OD"), answer("CAPTION")]
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(answer, ["OD", "CAPTION"])) == expected


def test_the_time_of_an_answer_begins_with_its_turn(
    model: Florence2, images: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a call waits for others counts in none of its `max_time`."""
    begun: list[bool] = []

    def stop_after(max_time: float | None, cancel: object) -> Callable[[], None]:
        begun.append(model._lock.busy)
        return lambda: None

    monkeypatch.setattr("florence_edge.questions.stop_after", stop_after)
    model.run(images[0], "OD", options=SHORT)
    assert begun == [True]


# The end of a model.


def test_a_with_block_frees_the_engine_also_where_it_fails(tiny_bundle: Path) -> None:
    with Florence2.load(tiny_bundle, threads=1) as model:
        pass
    with pytest.raises(BackendError, match=CLOSED):
        model.self_test()

    def fail(model: Florence2) -> None:
        with model:
            raise ZeroDivisionError

    failed = Florence2.load(tiny_bundle, threads=1)
    with pytest.raises(ZeroDivisionError):
        fail(failed)
    with pytest.raises(BackendError, match=CLOSED):
        failed.self_test()


def test_closing_frees_the_backend_once_and_may_be_repeated(
    model: Florence2, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    monkeypatch.setattr(model.backend, "close", lambda: calls.append("close"))
    model.close()
    model.close()
    with model:
        pass
    assert calls == ["close"]


def test_every_use_of_a_closed_model_is_one_error(
    model: Florence2, images: list[Image.Image]
) -> None:
    view = model.encode(images[0], options=SHORT)
    going = run_many(model, images, "OD", options=SHORT)
    next(going)
    watching = watch(model, images, "OD", options=SHORT)
    next(watching)
    model.close()
    uses: list[Callable[[], object]] = [
        lambda: model.run(images[0], "OD"),
        lambda: model.run(images, ["OD"]),
        lambda: model.run("gone.jpg", "OD"),
        lambda: model.ask(images[0], "What?"),
        lambda: model.encode(images[0]),
        lambda: model.encode(images),
        lambda: model.self_test(),
        lambda: model.answer([view], []),
        lambda: view.run("OD"),
        lambda: view.ask("What?"),
        lambda: view.caption(),
        lambda: run_many(model, images, "OD"),
        lambda: watch(model, images, "OD"),
        lambda: next(going),
        lambda: next(watching),
    ]
    for use in uses:
        with pytest.raises(BackendError, match=CLOSED):
            use()
    assert view.image.tobytes() == images[0].tobytes()  # what is on the host stays


def test_closing_waits_for_the_call_that_is_running(
    model: Florence2, images: list[Image.Image]
) -> None:
    expected = model.run(images[0], "OD", options=SHORT)
    running, go_on = threading.Event(), threading.Event()

    def hold(_: str) -> None:
        running.set()
        go_on.wait(60)

    with ThreadPoolExecutor(2) as pool:
        answer = pool.submit(model.run, images[0], "OD", options=SHORT, on_text=hold)
        assert running.wait(60)
        closing = pool.submit(model.close)
        with pytest.raises(FutureTimeoutError):
            closing.result(timeout=0.2)
        go_on.set()
        assert answer.result(timeout=60) == expected
        closing.result(timeout=60)
    with pytest.raises(BackendError, match=CLOSED):
        model.run(images[0], "OD")


# What a callback may not do.


def test_a_callback_that_uses_its_own_model_is_refused_and_the_model_works_on(
    tiny_model: Florence2, images: list[Image.Image]
) -> None:
    view = tiny_model.encode(images[0], options=SHORT)
    expected = view.run("OD")
    uses: list[Callable[[str], object]] = [
        lambda _: tiny_model.run(images[1], "OD"),
        lambda _: tiny_model.encode(images[1]),
        lambda _: view.run("CAPTION"),
        lambda _: tiny_model.self_test(),
        lambda _: tiny_model.close(),
    ]
    for use in uses:
        with pytest.raises(RequestError, match="on_text used the model that is calling it"):
            tiny_model.run(images[0], "OD", options=SHORT, on_text=use)
        assert view.run("OD") == expected
        assert tiny_model.run(images[0], "OD", options=SHORT) == expected


@pytest.mark.parametrize("options", [SHORT, BEAMS])
@pytest.mark.parametrize("after", [1, 3])
def test_an_error_of_a_callback_is_raised_and_the_model_answers_rightly_afterwards(
    tiny_model: Florence2, images: list[Image.Image], options: GenerationOptions, after: int
) -> None:
    expected = [tiny_model.run(image, "OCR", options=options) for image in images]
    pieces: list[str] = []
    tiny_model.run(images[0], "OCR", options=options, on_text=pieces.append)
    after = min(after, len(pieces))  # beams may agree late, and all at once
    calls: list[str] = []

    def fail(piece: str) -> None:
        calls.append(piece)
        if len(calls) == after:
            raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        tiny_model.run(images[0], "OCR", options=options, on_text=fail)
    assert len(calls) == after
    assert [tiny_model.run(image, "OCR", options=options) for image in images] == expected


def test_another_thread_may_ask_while_a_callback_runs_and_gets_its_turn_later(
    tiny_model: Florence2, images: list[Image.Image]
) -> None:
    expected = tiny_model.run(images[1], "CAPTION", options=SHORT)
    others: list[Any] = []
    with ThreadPoolExecutor(1) as pool:

        def ask_elsewhere(_: str) -> None:
            if not others:
                others.append(pool.submit(tiny_model.run, images[1], "CAPTION", options=SHORT))

        tiny_model.run(images[0], "OD", options=SHORT, on_text=ask_elsewhere)
        assert others[0].result(timeout=60) == expected
