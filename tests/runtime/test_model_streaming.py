"""`on_text`: the pieces of an answer while it is made."""

import re
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from florence_edge import TASKS, Florence2, GenerationOptions, Result

Ask = Callable[..., Result]

MARKERS = re.compile("<s>|</s>|<pad>")
NUM_BEAMS = [1, 3]


@pytest.fixture(scope="module")
def miniature(miniature_bundle: Path) -> Florence2:
    return Florence2.load(miniature_bundle, threads=1)


@pytest.fixture(scope="module")
def scene() -> Any:
    scenes = pytest.importorskip("florence_edge_calibration.scenes")
    return scenes.generate_scene(11)


@pytest.fixture(scope="module")
def picture(scene: Any, miniature: Florence2) -> Image.Image:
    scenes = pytest.importorskip("florence_edge_calibration.scenes")
    drawn: Image.Image = scenes.draw_scene(scene, miniature.bundle.size.image_size)
    return drawn


@pytest.fixture(scope="module")
def noise() -> Image.Image:
    rng = np.random.default_rng(5)
    return Image.fromarray(rng.integers(0, 256, (50, 70, 3), dtype=np.uint8))


def streamed(ask: Ask, *arguments: Any, **options: Any) -> tuple[Result, list[str]]:
    """An answer and its pieces, which must make its text; it is the answer of a plain run."""
    pieces: list[str] = []
    result = ask(*arguments, **options, on_text=pieces.append)
    assert "".join(pieces) == MARKERS.sub("", result.raw_text)
    assert all(pieces)
    assert not any(MARKERS.search(piece) for piece in pieces)
    assert result == ask(*arguments, **options)
    return result, pieces


@pytest.mark.parametrize("num_beams", NUM_BEAMS)
def test_the_pieces_of_every_task_are_its_text(
    miniature: Florence2, scene: Any, picture: Image.Image, num_beams: int
) -> None:
    scenes = pytest.importorskip("florence_edge_calibration.scenes")
    options = GenerationOptions(num_beams=num_beams, max_new_tokens=80)
    view = miniature.encode(picture, options=options)
    counts = {}
    for asked in scenes.ask_everything(scene):
        result, pieces = streamed(view.run, asked.task, asked.text or None)
        said = [token for token in result.token_ids if token > 3]
        counts[asked.task] = len(said), len(pieces)
        if num_beams == 1 and len(said) > 1:  # each token at once, where it ends no character
            assert len(pieces) >= len(said) / 2
    assert len(counts) == 15
    long = [pieces for said, pieces in counts.values() if said > 15]
    assert len(long) >= 3
    # Beams that left the best one early may live to the end, and then all comes at once.
    assert (min if num_beams == 1 else max)(long) > 1


@pytest.mark.parametrize("num_beams", NUM_BEAMS)
@pytest.mark.parametrize("task", TASKS)
def test_the_pieces_of_an_answer_at_random_are_its_text(
    tiny_model: Florence2, noise: Image.Image, task: str, num_beams: int
) -> None:
    """The tiny model writes what no text is: half characters, locations, end tokens forced."""
    options = GenerationOptions(num_beams=num_beams, max_new_tokens=40)
    given = {
        "text": "a car" if TASKS[task].needs.value == "text" else None,
        "region": (1, 2, 30, 40) if TASKS[task].needs.value == "region" else None,
    }
    _, pieces = streamed(tiny_model.run, noise, task, options=options, **given)
    assert num_beams > 1 or len(pieces) > 1


def test_a_prompt_of_ones_own_is_streamed_by_model_and_view(
    tiny_model: Florence2, noise: Image.Image
) -> None:
    options = GenerationOptions(num_beams=1, max_new_tokens=12)
    view = tiny_model.encode(noise)
    asked = streamed(tiny_model.ask, noise, "What?", options=options)
    assert asked == streamed(view.ask, "What?", options=options)


@pytest.mark.parametrize("num_beams", NUM_BEAMS)
def test_a_piece_comes_before_the_next_token_is_made(
    miniature: Florence2, picture: Image.Image, num_beams: int
) -> None:
    """Cancelled from the callback, an answer ends with the step after it."""
    options = GenerationOptions(num_beams=num_beams, max_new_tokens=80)
    whole, pieces = streamed(miniature.run, picture, "MORE_DETAILED_CAPTION", options=options)
    cancel, given = threading.Event(), list[str]()

    def stop(piece: str) -> None:
        given.append(piece)
        cancel.set()

    cut = miniature.run(
        picture, "MORE_DETAILED_CAPTION", options=options, cancel=cancel, on_text=stop
    )
    assert len(pieces) > 1
    assert cut.status == "truncated"
    assert len(cut.token_ids) < len(whole.token_ids) - 5
    assert "".join(given) == MARKERS.sub("", cut.raw_text)
    assert MARKERS.sub("", whole.raw_text).startswith(given[0])


@pytest.mark.parametrize("num_beams", NUM_BEAMS)
@pytest.mark.parametrize("steps", [1, 2, 9])
def test_an_answer_that_time_cuts_short_is_given_whole(
    tiny_model: Florence2,
    noise: Image.Image,
    monkeypatch: pytest.MonkeyPatch,
    num_beams: int,
    steps: int,
) -> None:
    options = GenerationOptions(num_beams=num_beams, max_new_tokens=40)
    made = iter(range(1, 99))
    monkeypatch.setattr(
        "florence_edge.questions.stop_after",
        lambda *_: lambda: "time" if next(made) == steps else None,
    )
    pieces: list[str] = []
    result = tiny_model.run(noise, "CAPTION", options=options, on_text=pieces.append)
    assert (result.status, len(result.token_ids)) == ("truncated", 1 + steps)
    assert "".join(pieces) == MARKERS.sub("", result.raw_text)


@pytest.mark.parametrize("num_beams", NUM_BEAMS)
def test_max_time_and_a_cancelled_event_stream_what_there_is(
    tiny_model: Florence2, noise: Image.Image, num_beams: int
) -> None:
    options = GenerationOptions(num_beams=num_beams, max_new_tokens=40)
    cancel = threading.Event()
    cancel.set()
    for more in ({"options": replace(options, max_time=1e-9)}, {"options": options}):
        given = {**more, "cancel": cancel} if more["options"].max_time is None else more
        pieces: list[str] = []
        run: Any = tiny_model.run
        result = run(noise, "CAPTION", **given, on_text=pieces.append)
        assert (result.status, result.token_ids) == ("truncated", (2, 0))
        assert pieces == []  # <s> alone is no text


def test_an_answer_of_markers_alone_has_no_pieces(tiny_bundle: Path, noise: Image.Image) -> None:
    with Florence2.load(tiny_bundle, threads=1) as model:
        options = GenerationOptions(num_beams=1, max_new_tokens=2, forced_eos_token_id=2)
        result, pieces = streamed(model.run, noise, "CAPTION", options=options)
    assert (result.token_ids, result.status) == ((2, 0, 2), "truncated")
    assert pieces == []
