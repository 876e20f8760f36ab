import json
from dataclasses import asdict

import pytest

from florence_edge_benchmarks.gauges.stages import STAGES, Call, Timing, stages_from_calls

CALLS = [
    Call("look", 5.0, 9.0),
    Call("read", 10.0, 12.0),
    Call("step", 13.0, 14.0),
    Call("step", 14.5, 16.5),
]


def test_the_time_of_a_run_is_told_apart_by_its_calls() -> None:
    assert stages_from_calls(CALLS, begin=1.0, decoded=3.0, end=20.0) == {
        "decode image": 2.0,
        "resize": 2.0,
        "vision": 4.0,
        "text encoder": 3.0,
        "decoder": 3.0,
        "search": 1.5,
        "post-process": 3.5,
    }


def test_the_stages_add_up_to_the_whole() -> None:
    stages = stages_from_calls(CALLS, begin=1.0, decoded=3.0, end=20.0)
    assert tuple(stages) == STAGES
    assert sum(stages.values()) == pytest.approx(19.0)


def test_several_looks_are_one_stage() -> None:
    calls = [Call("look", 1.0, 2.0), Call("look", 3.0, 5.0), *CALLS[1:]]
    stages = stages_from_calls(calls, begin=0.0, decoded=0.5, end=20.0)
    assert (stages["vision"], stages["resize"]) == (3.0, 1.5)


def test_a_timing_survives_json() -> None:
    timing = Timing(
        seconds=1.5, stages={"vision": 1.0}, steps=(0.25, 0.25), token_ids=((2, 0, 7, 2), (2, 2))
    )
    assert Timing.from_json(json.loads(json.dumps(asdict(timing)))) == timing
    assert timing.tokens == 3
