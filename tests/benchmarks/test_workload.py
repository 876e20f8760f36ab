from dataclasses import replace
from typing import Any

import pytest

from florence_edge.errors import RequestError
from florence_edge_benchmarks.systems.workload import Workload, new_tokens_by_task, workloads


def test_all_combinations_are_measured() -> None:
    found = workloads(["CAPTION", "OD"], [1, 3], [1, 4], {"CAPTION": 20, "OD": None}, "a.jpg")
    assert len(found) == 8
    assert found[0].name == "CAPTION, greedy, 20 tokens"
    assert found[-1].name == "OD, 3 beams, batch of 4"
    assert (found[0].options.num_beams, found[0].options.max_new_tokens) == (1, 20)


def test_random_weights_get_a_number_of_tokens_and_others_end_themselves() -> None:
    tasks = ["CAPTION", "OD", "REGION_TO_OCR"]
    assert new_tokens_by_task(tasks, None, endless=True) == {
        "CAPTION": 20, "OD": 100, "REGION_TO_OCR": 40
    }  # fmt: skip
    assert new_tokens_by_task(tasks, None, endless=False) == dict.fromkeys(tasks)


def test_the_number_of_tokens_is_given_for_all_or_by_task() -> None:
    assert new_tokens_by_task(["CAPTION", "OD"], "7", endless=False) == {"CAPTION": 7, "OD": 7}
    by_task = new_tokens_by_task(["CAPTION", "OD"], "OD:9", endless=False)
    assert by_task == {"CAPTION": None, "OD": 9}


@pytest.mark.parametrize("given", ["many", "0", "-3", "OD:", "OD:x", "OD=3"])
def test_what_is_not_a_number_of_tokens_says_how_to_write_one(given: str) -> None:
    with pytest.raises(RequestError, match="--new-tokens CAPTION:20,OD:100"):
        new_tokens_by_task(["OD"], given, endless=True)


def test_tokens_for_a_task_that_is_not_asked_are_refused() -> None:
    with pytest.raises(RequestError, match="--new-tokens is for OD, which is not among --tasks"):
        new_tokens_by_task(["CAPTION"], "OD:20", endless=False)


@pytest.mark.parametrize("wrong", [{"task": "FLY"}, {"beams": 0}, {"batch": -1}, {"new_tokens": 0}])
def test_a_workload_that_cannot_be_asked_is_none(wrong: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match=r"no task|expected 1 or more"):
        replace(Workload(task="OD", beams=1, new_tokens=None, batch=1, image="x"), **wrong)


@pytest.mark.parametrize("task", ["OD", "CAPTION_TO_PHRASE_GROUNDING", "REGION_TO_SEGMENTATION"])
def test_a_workload_brings_what_its_task_needs(task: str) -> None:
    from florence_edge.tasks import prompt_for

    workload = Workload(task=task, beams=1, new_tokens=3, batch=1, image="a.jpg")
    assert prompt_for(task, workload.text, None, (640, 480)).wording
