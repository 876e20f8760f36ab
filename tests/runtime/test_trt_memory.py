"""Memory of the GPU: freed with the model, and after any call that fails."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from florence_edge import BackendError, Florence2, GenerationOptions
from florence_edge.backends import gpu

from .asking import SHORT, ask, assert_alike
from .scripted_machine import Machine, backend_of


def test_everything_is_freed_with_the_model(machine: Machine, pictures: list[Image.Image]) -> None:
    model = machine.load()
    view = model.encode(pictures[0], options=SHORT)
    for beams in (1, 3):
        view.run("OD", options=replace(SHORT, num_beams=beams))
    backend_of(model).close()
    assert [block.kind for block in machine.cuda.held] == ["device"]  # the view's features
    del view
    assert machine.cuda.held == []


def test_a_model_that_was_closed_is_refused(machine: Machine, pictures: list[Image.Image]) -> None:
    """CUDA itself may not notice that a stream is gone."""
    model = machine.load()
    view = model.encode(pictures[0], options=SHORT)
    side = model.bundle.size.image_size
    features = model.backend.encode_image(np.zeros((1, side, side, 3), dtype=np.uint8))
    ids, mask = np.full((1, 5), 9), np.ones((1, model.bundle.size.image_tokens + 5), dtype=np.int64)
    decoder = model.backend.prefill(features, ids, mask, beams=2)
    (scores,) = decoder.step(np.full((1, 2), 5), np.zeros((1, 2), dtype=np.int64))
    backend_of(model).close()
    before = len(machine.cuda.calls)
    for use in (
        lambda: model.encode(pictures[1]),
        lambda: view.run("OD"),
        lambda: np.asarray(features),
        lambda: features.followed_by([features]),
        lambda: decoder.step(np.full((1, 2), 5), np.zeros((1, 2), dtype=np.int64)),
        lambda: scores.full(),
    ):
        with pytest.raises(BackendError, match=r"^This model was closed\. Load it again\.$"):
            use()
    backend_of(model).close()  # once more does nothing
    assert machine.cuda.calls[before:] == []


def test_a_model_that_nobody_has_any_more_frees_itself(
    machine: Machine, pictures: list[Image.Image]
) -> None:
    model = machine.load()
    model.run(pictures[0], "CAPTION", options=SHORT)
    assert machine.cuda.held
    del model
    assert machine.cuda.held == []


def test_only_a_few_shapes_stay_prepared(machine: Machine, pictures: list[Image.Image]) -> None:
    model = machine.load()
    view = model.encode(pictures[0], options=SHORT)
    held = []
    for tokens in (8, 17, 33, 65, 129, 257, 8):
        size = model.bundle.size
        ids = np.full((1, min(tokens, size.encoder_positions - size.image_tokens)), 5)
        mask = np.ones((1, size.image_tokens + ids.shape[1]), dtype=np.int64)
        for beams in (1, 2, 3):
            decoder = model.backend.prefill(view.features, ids, mask, beams=beams)
            decoder.step(np.full((1, beams), 2), np.zeros((1, beams), dtype=np.int64))
            held.append(len(machine.cuda.held))
    assert max(held[gpu._KEPT :]) == held[gpu._KEPT]


def calls_of(machine: Machine, use: Callable[[], object]) -> int:
    before = len(machine.cuda.calls)
    use()
    return len(machine.cuda.calls) - before


def test_whichever_call_fails_nothing_leaks_and_the_next_answer_is_right(
    machine: Machine, tiny_model: Florence2, pictures: list[Image.Image]
) -> None:
    """Out of memory (or any other failure) at every call there is, one after the other."""
    few = GenerationOptions(num_beams=2, max_new_tokens=6)
    expected = ask(tiny_model, "OD", pictures[0], few)

    def use() -> None:
        assert_alike(ask(machine.load(), "OD", pictures[0], few), expected)

    count = calls_of(machine, use)
    assert machine.cuda.held == []
    given_back = ("cudaFree", "cudaFreeHost", "Destroy", "cuModuleUnload")
    names = machine.cuda.calls[-count:]
    closing = count - 1 - names[::-1].index("cudaSetDevice")
    for number, name in enumerate(names):
        if any(part in name for part in given_back):
            continue  # what fails to be freed is lost by CUDA itself
        if name == "cudaSetDevice" and any(part in names[number + 1] for part in given_back):
            continue  # nor does it keep anything from being freed
        machine.cuda.calls.clear()
        machine.cuda.fails_at = number + 1
        captures = names[: number + 1].count("cudaStreamBeginCapture")
        if number >= closing or captures > names[:number].count("cudaGraphInstantiate"):
            use()  # everything is freed, or steps go on without a graph
        else:
            with pytest.raises(BackendError):
                use()
        machine.cuda.fails_at = None
        machine.cuda.queue.clear()
        assert machine.cuda.held == [], f"call {number}, {name}"


def test_a_model_goes_on_after_a_failure(
    machine: Machine, tiny_model: Florence2, pictures: list[Image.Image]
) -> None:
    options = GenerationOptions(num_beams=2, max_new_tokens=80)
    model = machine.load()
    expected = ask(tiny_model, "CAPTION", pictures[0], options)
    assert_alike(ask(model, "CAPTION", pictures[0], options), expected)  # everything is captured
    for fails_in in (3, 20, 40, 90, 150, 200):
        machine.cuda.fails_at = len(machine.cuda.calls) + fails_in
        with pytest.raises(BackendError):
            ask(model, "CAPTION", pictures[0], options)
        machine.cuda.fails_at = None
        assert_alike(ask(model, "CAPTION", pictures[0], options), expected)
