from dataclasses import replace
from pathlib import Path

import pytest

from florence_edge import Florence2
from florence_edge.errors import BackendError
from florence_edge_benchmarks.systems.bundle import BundleSystem
from florence_edge_benchmarks.systems.workload import Workload
from florence_edge_benchmarks.timing import Calls

from .scripted_time import Clock


@pytest.fixture(scope="module")
def system(tiny_bundle: Path) -> BundleSystem:
    return BundleSystem(Florence2.load(tiny_bundle, threads=1), Calls(Clock()))


@pytest.fixture
def caption(picture: Path) -> Workload:
    return Workload(task="CAPTION", beams=1, new_tokens=6, batch=1, image=str(picture))


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("new_tokens", [1, 2, 3, 40])
def test_answers_have_as_many_tokens_as_asked_for(
    system: BundleSystem, caption: Workload, beams: int, new_tokens: int
) -> None:
    timing = system.answer(replace(caption, beams=beams, new_tokens=new_tokens))
    assert timing.tokens == len(timing.steps) == new_tokens
    (ids,) = timing.token_ids
    assert 2 not in ids[1:-1], "the end token came before the end"


def test_a_clock_that_ticks_once_a_reading_counts_the_calls(
    system: BundleSystem, caption: Workload
) -> None:
    timing = system.answer(caption)
    # Readings: begin, decoded, encode_image, prefill and six steps of two each, end.
    assert timing.seconds == 1 + 2 * (1 + 1 + 6) + 1
    assert timing.steps == (1.0,) * 6
    assert timing.stages == {
        "decode image": 1,
        "resize": 1,
        "vision": 1,
        "text encoder": 2,
        "decoder": 6,
        "search": 6,
        "post-process": 1,
    }


def test_without_a_number_of_tokens_answers_are_those_of_the_model(
    system: BundleSystem, caption: Workload, tiny_model: Florence2
) -> None:
    free = replace(caption, new_tokens=None)
    expected = tiny_model.run(caption.image, "CAPTION", options=free.options)
    assert system.answer(free).token_ids == (expected.token_ids,)


def test_a_batch_holds_the_picture_several_times(system: BundleSystem, caption: Workload) -> None:
    timing = system.answer(replace(caption, batch=3))
    assert timing.token_ids == system.answer(caption).token_ids * 3
    assert len(timing.steps) == 6


@pytest.mark.parametrize("task", ["CAPTION_TO_PHRASE_GROUNDING", "REGION_TO_OCR"])
def test_tasks_that_need_something_beside_the_picture_get_it(
    system: BundleSystem, caption: Workload, task: str
) -> None:
    assert system.answer(replace(caption, task=task)).tokens == 6


def test_closing_the_model_closes_the_engine_behind_the_recorded_one(
    tiny_bundle: Path, caption: Workload, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Florence2.load(tiny_bundle, threads=1)
    closed = []
    monkeypatch.setattr(model.backend, "close", lambda: closed.append(True))
    system = BundleSystem(model, Calls())
    system.answer(caption)
    system.model.close()
    assert closed == [True]
    with pytest.raises(BackendError, match="was closed"):
        system.answer(caption)
