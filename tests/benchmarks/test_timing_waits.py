"""Waits for a GPU, over the scripted CUDA of the runtime's tests."""

from dataclasses import replace
from pathlib import Path

import pytest

from florence_edge import Florence2
from florence_edge_benchmarks.systems.bundle import BundleSystem
from florence_edge_benchmarks.systems.workload import Workload
from florence_edge_benchmarks.timing import STAGES, Calls, EngineCall, host_seconds

from ..runtime.fake_ort import script_onnxruntime
from ..runtime.scripted_machine import Machine
from .scripted_time import Clock

TOKENS = 6
ONCE_FOR_ALL = 1  # a reading before the second step, the search fetches and awaits all scores


@pytest.fixture
def caption(picture: Path) -> Workload:
    return Workload(task="CAPTION", beams=1, new_tokens=TOKENS, batch=1, image=str(picture))


def test_the_host_works_from_prefill_to_the_last_step_but_for_waiting() -> None:
    calls = [
        EngineCall("encode_image", 0, 10), EngineCall("wait", 5, 9),
        EngineCall("wait", 12, 19), EngineCall("prefill", 11, 20),
        EngineCall("wait", 22, 25), EngineCall("step", 21, 26),
        EngineCall("wait", 31, 34), EngineCall("step", 30, 35),
    ]  # fmt: skip
    assert host_seconds(calls) == (35 - 20) - 3 - 3
    assert host_seconds([call for call in calls if call.kind != "wait"]) is None


def test_tensorrt_is_launched_and_waited_for(machine: Machine, caption: Workload) -> None:
    system = BundleSystem(machine.load(), Calls(Clock()))
    timing = system.answer(caption)
    assert tuple(timing.stages) == STAGES
    # Readings: after prefill, four a step: its begin, its wait's two, its end.
    assert timing.steps == (3.0,) * TOKENS
    assert timing.host == TOKENS * 3 + ONCE_FOR_ALL
    on_cpu = BundleSystem(Florence2.load(machine.folder, threads=1), Calls())
    expected = on_cpu.answer(caption)
    assert timing.token_ids == expected.token_ids
    assert expected.host is None


def test_onnxruntime_is_launched_and_waited_for(
    monkeypatch: pytest.MonkeyPatch, tiny_bundle: Path, caption: Workload
) -> None:
    script_onnxruntime(monkeypatch)
    system = BundleSystem(Florence2.load(tiny_bundle, "cuda"), Calls(Clock()))
    timing = system.answer(caption)
    assert timing.steps == (3.0,) * TOKENS
    assert timing.host == TOKENS * 3 + ONCE_FOR_ALL


@pytest.mark.parametrize("beams", [1, 3])
def test_what_is_timed_is_the_search_that_runs_ahead_on_the_gpu(
    machine: Machine, caption: Workload, beams: int
) -> None:
    """An answer of a number of tokens is answered as users' are: no step waits for the host."""
    system = BundleSystem(machine.load(), Calls())
    timing = system.answer(replace(caption, beams=beams, new_tokens=20))
    assert timing.tokens == 20
    assert machine.cuda.kernels.count("advance_beams") == 20
    on_cpu = BundleSystem(Florence2.load(machine.folder, threads=1), Calls())
    expected = on_cpu.answer(replace(caption, beams=beams, new_tokens=20))
    assert timing.token_ids == expected.token_ids


def test_everything_is_freed_with_the_model(machine: Machine, caption: Workload) -> None:
    model = machine.load()
    system = BundleSystem(model, Calls())
    system.answer(caption)
    assert machine.cuda.held
    del model, system
    assert machine.cuda.held == []
