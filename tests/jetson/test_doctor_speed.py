"""florence-doctor --speed: turns, who is sent away, the table, and what is remembered."""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from florence_edge.backends import auto
from florence_edge.bundle import Bundle
from florence_edge.cpu import Cores
from florence_edge.devices import Device, EngineSettings
from florence_edge.errors import BackendError, RequestError
from florence_edge.extras import pip_install
from florence_edge_jetson.doctor import speed, speed_candidates
from florence_edge_jetson.doctor.cli import main
from florence_edge_jetson.doctor.speed import Candidate, Limits, keep, measure
from florence_edge_jetson.doctor.speed_process import EngineProcess
from florence_edge_jetson.doctor.speed_table import speed_json, speed_text
from florence_edge_jetson.doctor.speed_worker import Job

pytest.importorskip("onnxruntime")

STAGES = {
    **{"processor": 1.5, "image": 0.0, "vision": 0.1, "prefill": 0.05},
    **{"decode": 0.4, "token": 0.01},
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "florence-edge" / "speed"


@pytest.fixture
def bundle(tiny_bundle: Path) -> Bundle:
    return Bundle.load(tiny_bundle)


class Course:
    """Scripted engines: seconds of each answer by device, and in which order they were asked."""

    def __init__(self, seconds: Mapping[str, Sequence[float | str]]) -> None:
        self.seconds = {device: iter(values) for device, values in seconds.items()}
        self.asked: list[str] = []
        self.closed: list[str] = []
        self.now = 0.0

    def open(self, job: Job) -> "ScriptedEngine":
        if job.device not in self.seconds:
            raise BackendError("It does not load.")
        return ScriptedEngine(self, job.device)

    def clock(self) -> float:
        return self.now


class ScriptedEngine:
    def __init__(self, course: Course, device: str) -> None:
        self.course, self.device = course, device

    def answer(self) -> Mapping[str, float]:
        self.course.asked.append(self.device)
        seconds = next(self.course.seconds[self.device])
        if isinstance(seconds, str):
            raise BackendError(seconds)
        self.course.now += seconds
        return {"seconds": seconds, **STAGES}

    def close(self) -> None:
        self.course.closed.append(self.device)


def candidate(bundle: Bundle, device: str, *, rounds_more: bool = False) -> Candidate:
    settings = EngineSettings(
        device=Device.parse(device), precision="bf16" if rounds_more else None
    )
    return Candidate(bundle=bundle, settings=settings, rounds_more=rounds_more)


def race(
    bundle: Bundle, seconds: float, **times: Sequence[float | str]
) -> tuple[speed.SpeedReport, Course]:
    course = Course(times)
    wanted = [candidate(bundle, device) for device in times]
    report = measure(wanted, Limits(seconds=seconds), course.open, course.clock)  # type: ignore[arg-type]
    return report, course


def devices(report: speed.SpeedReport) -> list[str]:
    return [each.engine.device for each in report.measured]


def test_they_take_turns_every_other_round_backwards(bundle: Bundle) -> None:
    _, course = race(bundle, 3.0, cpu=[1.0] * 9, cuda=[1.1] * 9, tensorrt=[1.2] * 9)
    one = ["cpu", "cuda", "tensorrt"]
    assert course.asked == [*one, *one[::-1], *one], "a round to warm up, and at least two timed"
    assert set(course.closed) == set(one)


def test_the_first_round_is_not_timed(bundle: Bundle) -> None:
    report, _ = race(bundle, 0.0, cpu=[9.0, 1.0, 1.0], cuda=[0.1, 1.3, 1.2])
    assert devices(report) == ["cpu", "cuda"]
    assert report.measured[0].engine.seconds == 1.0
    assert report.measured[1].engine.times_fastest == pytest.approx(1.25)


def test_who_is_behind_in_every_round_is_sent_away(bundle: Bundle) -> None:
    report, course = race(bundle, 10.0, cpu=[1.0] * 9, cuda=[1.2] * 9, openvino=[1.5] * 2)
    assert course.closed[0] == "openvino"
    assert devices(report) == ["cpu", "cuda", "openvino"]
    assert [each.engine.rounds for each in report.measured] == [3, 3, 1]


def test_one_slow_round_sends_nobody_away(bundle: Bundle) -> None:
    report, _ = race(bundle, 4.0, cpu=[1.0, 1.0, 5.0, 1.0], cuda=[1.0, 1.1, 1.1, 1.1])
    assert min(each.engine.rounds for each in report.measured) >= 2


def test_it_ends_when_one_is_left(bundle: Bundle) -> None:
    report, _ = race(bundle, 1000.0, cpu=[1.0] * 4, cuda=[2.0] * 4)
    assert report.rounds == 2


def test_what_fails_is_said_and_the_others_go_on(bundle: Bundle) -> None:
    course = Course({"cpu": [1.0] * 5, "cuda": [1.0, "It broke."]})
    wanted = [candidate(bundle, name) for name in ("tensorrt", "cuda", "cpu")]
    report = measure(wanted, Limits(seconds=0), course.open, course.clock)  # type: ignore[arg-type]
    assert devices(report) == ["cpu"]
    assert [reason.rpartition(": ")[2] for reason in report.left_out] == [
        "It does not load.",
        "It broke.",
    ]


def test_where_nothing_answers_the_first_reason_is_given(bundle: Bundle) -> None:
    with pytest.raises(BackendError, match=r"No engine answered\. .* It does not load"):
        measure([candidate(bundle, "cpu")], Limits(), Course({}).open)  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="No engine is installed"):
        measure([], Limits())


def test_an_engine_that_memory_is_short_for_is_not_started(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = replace(
        bundle, files={"weights.bin": replace(bundle.files["weights.bin"], bytes=1 << 50)}
    )
    course = Course({"cpu": [1.0] * 5, "cuda": [1.0] * 5})
    wanted = [candidate(large, "cuda"), candidate(bundle, "cpu")]
    report = measure(wanted, Limits(seconds=0), course.open, course.clock)  # type: ignore[arg-type]
    assert devices(report) == ["cpu"]
    assert "GiB are free" in report.left_out[0]


def rounding_wins(bundle: Bundle) -> speed.SpeedReport:
    course = Course({"cpu": [1.0] * 5, "openvino": [0.8] * 5})
    wanted = [candidate(bundle, "cpu"), candidate(bundle, "openvino", rounds_more=True)]
    return measure(wanted, Limits(seconds=0), course.open, course.clock)  # type: ignore[arg-type]


def test_what_rounds_more_wins_only_in_words(bundle: Bundle) -> None:
    report = rounding_wins(bundle)
    text = speed_text(report, [Path("/cache/x.json")])
    assert "bf16 (rounds)" in text
    assert f"Use: florence-run {bundle.folder} PICTURE --task OD --device cpu\n" in text
    assert "if answers may be rounded to bfloat16" in text
    assert "--device auto) takes it from now on: /cache/x.json" in text
    found = speed_json(report, [])
    assert found["use"].endswith("--device cpu")
    assert [each["rounds_more"] for each in found["engines"]] == [True, False]


def rounding_runs(
    bundle: Bundle, seconds: float, rounds: int = 9, **times: float
) -> tuple[speed.SpeedReport, Course]:
    """Devices that keep the bundle's precision beside openvino, which does not."""
    course = Course({device: [each] * rounds for device, each in times.items()})
    wanted = [candidate(bundle, device, rounds_more=device == "openvino") for device in times]
    return measure(wanted, Limits(seconds=seconds), course.open, course.clock), course  # type: ignore[arg-type]


def test_what_rounds_more_sends_nobody_away_who_does_not(bundle: Bundle) -> None:
    """Whatever is the fastest: device="auto" takes from those that keep the precision."""
    report, course = rounding_runs(bundle, 12.0, openvino=0.5, cpu=1.0, cuda=1.1, tensorrt=1.5)
    assert course.closed[0] == "tensorrt", "1.5 times its rivals' fastest"
    rounds = {each.engine.device: each.engine.rounds for each in report.measured}
    assert rounds == {"openvino": 3, "cpu": 3, "cuda": 3, "tensorrt": 1}
    assert report.best is not None
    assert report.best.engine.device == "cpu"


def test_a_faster_bundle_beside_it_sends_nobody_away(bundle: Bundle) -> None:
    smaller = replace(bundle, folder=bundle.folder / "int8")
    course = Course({"cpu": [0.5] * 9, "cuda": [1.0] * 9, "openvino": [1.1] * 9})
    wanted = [candidate(smaller, "cpu"), candidate(bundle, "cuda"), candidate(bundle, "openvino")]
    report = measure(wanted, Limits(seconds=9), course.open, course.clock)  # type: ignore[arg-type]
    assert {each.engine.rounds for each in report.measured} == {3}


def test_where_only_what_rounds_more_answers_there_is_no_best(bundle: Bundle) -> None:
    report, _ = rounding_runs(bundle, 0.0, openvino=0.5)
    assert report.best is None
    text, found = speed_text(report, [Path("/cache/x.json")]), speed_json(report, [])
    assert "Nothing answered that keeps the bundle's precision." in text
    assert "Remembered for --device auto --engine-precision bf16: /cache/x.json" in text
    assert "  If answers may be rounded to bfloat16: florence-run" in text
    assert found["use"] is None
    assert found["model"] == bundle.model


def test_what_was_loaded_ends_where_the_next_is_interrupted(bundle: Bundle) -> None:
    course = Course({"cpu": [1.0]})

    def interrupted(job: Job) -> ScriptedEngine:
        if job.device == "cuda":
            raise KeyboardInterrupt
        return course.open(job)

    with pytest.raises(KeyboardInterrupt):
        measure([candidate(bundle, "cpu"), candidate(bundle, "cuda")], Limits(), interrupted)  # type: ignore[arg-type]
    assert course.closed == ["cpu"]


def test_auto_takes_what_was_kept(bundle: Bundle) -> None:
    (path,) = keep(rounding_wins(bundle))
    assert path.is_file()
    assert auto.choose(bundle).device == Device("cpu")
    assert auto.choose(bundle, may_round=True).precision == "bf16"


# Candidates.


@pytest.mark.parametrize(
    ("cores", "expected"),
    [
        (Cores(1, 1, 1), [(1, False)]),
        (Cores(2, 2, 2), [(2, False), (2, True), (1, False)]),
        (Cores(4, 8, 4), [(4, False), (4, True), (2, False), (8, False)]),
        (Cores(2, 8, 4, 1.5), [(2, False), (2, True), (1, False)]),
    ],
)
def test_the_threads_that_are_tried(cores: Cores, expected: list[tuple[int, bool]]) -> None:
    found = speed_candidates._ways_on_cpu(cores)
    assert [(each.threads, each.spinning) for each in found] == expected


def test_bfloat16_is_tried_where_openvino_has_it(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    able = {"CPU": ("FP32", "BF16"), "GPU.1": ("FP32",)}
    monkeypatch.setattr(speed_candidates, "device_capabilities", lambda: able)
    monkeypatch.setattr(
        speed_candidates, "find_spec", lambda name: name if name == "openvino" else None
    )
    monkeypatch.setattr(speed_candidates, "usable_cores", lambda: Cores(1, 1, 1))
    left_out: list[str] = []
    found = speed_candidates.candidates([bundle], None, left_out)
    assert [(str(each.settings.device), each.settings.precision, each.rounds_more)
            for each in found] == [
        ("openvino", "fp32", False),
        ("openvino", "bf16", True),
        ("openvino:GPU.1", "fp32", False),
    ]  # fmt: skip
    assert left_out == [f"cpu: ONNX Runtime is not installed ({pip_install('cpu')})"]


def test_bundles_of_another_checkpoint_are_refused(bundle: Bundle) -> None:
    with pytest.raises(RequestError, match="another checkpoint"):
        speed_candidates.candidates([bundle, replace(bundle, checkpoint="0" * 64)], None, [])


# Processes, and the command.


def test_an_engine_answers_from_a_process_of_its_own(tiny_bundle: Path) -> None:
    engine = EngineProcess(Job(bundle=str(tiny_bundle), device="cpu", tokens=5, threads=1))
    try:
        assert engine.loaded["settings"] == {"device": "cpu", "threads": 1, "spinning": False}
        seconds = engine.answer()
        assert seconds["token"] == pytest.approx(seconds["decode"] / 5)
        assert sum(seconds[name] for name in ("vision", "prefill", "decode")) < seconds["seconds"]
    finally:
        engine.close()
        engine.close()


def test_a_bundle_that_is_gone_is_said_by_the_process(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="There is no bundle at"):
        EngineProcess(Job(bundle=str(tmp_path / "b"), device="cpu", tokens=5))


def test_a_process_that_dies_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    from florence_edge_jetson.doctor import speed_process

    monkeypatch.setattr(speed_process, "_PROGRAM", "florence_edge_jetson.doctor.nothing")
    with pytest.raises(BackendError, match=r"ended with status 1: .*No module named"):
        EngineProcess(Job(bundle="b", device="cpu", tokens=5))


def test_last_words_that_are_no_text_are_said_all_the_same(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "dying.py").write_text("import os; os.write(2, b'Error: \\xff'); os._exit(3)")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("florence_edge_jetson.doctor.speed_process._PROGRAM", "dying")
    with pytest.raises(BackendError, match="ended with status 3: Error: \ufffd"):
        EngineProcess(Job(bundle="b", device="cpu", tokens=5))


def test_the_command_measures_prints_and_remembers(
    tiny_bundle: Path,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    one = EngineSettings(device=Device("cpu"), threads=1, spinning=False)
    monkeypatch.setattr(speed_candidates, "_ways_on_cpu", lambda _: iter([one]))
    monkeypatch.setattr(
        speed_candidates, "find_spec", lambda name: name if name == "onnxruntime" else None
    )
    assert main([str(tiny_bundle), "--speed", "--seconds", "1", "--json"]) == 0
    (found,) = [json.loads(capsys.readouterr().out)["speed"]]
    assert [each["device"] for each in found["engines"]] == ["cpu"]
    assert found["left_out"] == [f"openvino: it is not installed ({pip_install('openvino')})"]
    assert found["remembered"] == [str(path) for path in cache.iterdir()]
    assert str(auto.choose(Bundle.load(tiny_bundle)).device) == "cpu"


def test_what_cannot_be_remembered_is_printed_all_the_same(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    report = rounding_wins(bundle)
    monkeypatch.setattr("florence_edge_jetson.doctor.cli.measure", lambda *_: report)
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/no-folder")
    assert main([str(bundle.folder), "--speed"]) == 0
    printed = capsys.readouterr()
    assert "times the fastest" in printed.out
    assert "was not remembered" in printed.err


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--speed"], "--speed measures a bundle: name one"),
        (["bundle", "--also", "other"], "--also needs --speed"),
        (["bundle", "--speed", "--seconds", "0"], "is not a time"),
        (["bundle", "--speed", "--seconds", "soon"], "is not a time"),
    ],
)
def test_wrong_usage_is_said(
    arguments: list[str], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert problem in capsys.readouterr().err


def test_importing_the_command_opens_no_engine() -> None:
    program = (
        "import sys, florence_edge_jetson.doctor.cli; "
        "print([name for name in ('onnxruntime', 'openvino') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
