import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from florence_edge.errors import BackendError
from florence_edge.files import from_json
from florence_edge_benchmarks.speed.process import SystemProcess, command_of
from florence_edge_benchmarks.systems.system import System
from florence_edge_benchmarks.systems.workload import Workload


@pytest.fixture
def system(tiny_bundle: Path) -> System:
    return System(label="fp32 on cpu", kind="bundle", bundle=str(tiny_bundle), threads=1)


@pytest.fixture
def workload(picture: Path) -> Workload:
    return Workload(task="OD", beams=3, new_tokens=5, batch=1, image=str(picture))


def test_a_system_answers_from_a_process_of_its_own(system: System, workload: Workload) -> None:
    with SystemProcess(system) as running:
        timing = running.answer(workload)
        again = running.answer(workload)
        memory = running.memory(forget=True)
    assert timing.tokens == 5
    assert timing.seconds == pytest.approx(sum(timing.stages.values()))
    assert again.token_ids == timing.token_ids
    assert 0 < running.loaded["load_seconds"] < 60
    if sys.platform == "linux":
        assert (memory["peak_bytes"] or 0) >= (memory["resident_bytes"] or 0) > 10_000_000


def test_a_failing_answer_is_an_error_and_the_next_one_goes_on(
    system: System, workload: Workload
) -> None:
    with SystemProcess(system) as running:
        with pytest.raises(BackendError, match=r"There is no file nowhere\.jpg"):
            running.answer(replace(workload, image="nowhere.jpg"))
        with pytest.raises(BackendError, match="max_new_tokens is 5000"):
            running.answer(replace(workload, new_tokens=5000))
        assert running.answer(workload).tokens == 5


def test_last_words_that_are_no_text_are_said_all_the_same(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    dying = [sys.executable, "-c", "import os; os.write(2, b'Error: \\xff'); os._exit(3)"]
    monkeypatch.setattr("florence_edge_benchmarks.speed.process.command_of", lambda _: dying)
    with (
        pytest.raises(BackendError, match="ended with status 3: Error: \ufffd"),
        SystemProcess(system),
    ):
        pass


def test_a_system_that_cannot_be_loaded_says_why(system: System, tmp_path: Path) -> None:
    with (
        pytest.raises(BackendError, match=r"There is no bundle at .*florence-export"),
        SystemProcess(replace(system, bundle=str(tmp_path / "nothing"))),
    ):
        pass
    with (
        pytest.raises(BackendError, match="There is no device 'abacus'"),
        SystemProcess(replace(system, device="abacus")),
    ):
        pass


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_process_that_is_killed_is_a_failure_and_no_crash(
    system: System, workload: Workload
) -> None:
    with SystemProcess(system) as running:
        running._process.send_signal(signal.SIGKILL)
        with pytest.raises(BackendError, match=r"ended by signal 9 .*want of memory"):
            running.answer(workload)


def test_the_last_words_of_a_dying_process_are_reported(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = "import sys; print('first'); sys.exit('the last words')"
    monkeypatch.setattr(
        "florence_edge_benchmarks.speed.process.command_of",
        lambda system: [sys.executable, "-c", program.replace("print('first'); ", "")],
    )
    with (
        pytest.raises(BackendError, match="status 1: the last words"),
        SystemProcess(system),
    ):
        pass


def test_a_system_is_one_argument(system: System) -> None:
    *_, argument = command_of(system)
    assert from_json(System, json.loads(argument)) == system


def test_an_interpreter_that_is_not_there_is_a_failure(system: System) -> None:
    with (
        pytest.raises(BackendError, match=r"optimum cannot be run: .*nowhere/python"),
        SystemProcess(replace(system, label="optimum", kind="optimum", python="nowhere/python")),
    ):
        pass
