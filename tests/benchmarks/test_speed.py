import argparse
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from florence_edge.errors import BackendError
from florence_edge_benchmarks.accuracy import run as accuracy
from florence_edge_benchmarks.cli import main
from florence_edge_benchmarks.commands import speed as command
from florence_edge_benchmarks.results import SpeedResult
from florence_edge_benchmarks.results_io import read_result
from florence_edge_benchmarks.speed.run import Rounds, baseline_of, measure_speed
from florence_edge_benchmarks.systems.system import System
from florence_edge_benchmarks.systems.workload import Workload
from florence_edge_benchmarks.timing import STAGES, Timing

from .conftest import STORED


@pytest.fixture
def system(tiny_bundle: Path) -> System:
    return System(label="fp32 on cpu", kind="bundle", bundle=str(tiny_bundle), threads=1)


def test_what_cannot_start_is_a_row_and_the_rest_is_measured(system: System, picture: Path) -> None:
    broken = replace(system, label="gone", bundle="nowhere")
    unmade = replace(system, label="int8", bundle="int8")
    workloads = [
        Workload(task="CAPTION", beams=beams, new_tokens=tokens, batch=1, image=str(picture))
        for beams, tokens in ((1, 4), (3, 2000))
    ]
    result = measure_speed(
        [system, broken, unmade], workloads[:1], Rounds(timed=2), {"threads": 1}, {"int8": "why"}
    )
    first, second, third = result.systems
    assert first.start is not None
    assert first.error is None
    assert first.start.disk_bytes == sum(p.stat().st_size for p in _files(system))
    assert first.start.import_seconds is not None
    assert first.start.first_answer_seconds > first.start.load_seconds > 0
    assert (second.start, third.error) == (None, "why")
    assert "There is no bundle at nowhere" in str(second.error)
    (run,) = result.runs
    assert run.label == result.baseline == "fp32 on cpu"
    assert [each.tokens for each in run.rounds] == [4, 4]
    assert len(run.steps) == 4
    assert run.step_count == 8
    assert tuple(run.rounds[0].stages) == STAGES
    assert run.workload.image == picture.name, "no path of this machine is kept"


def _files(system: System) -> list[Path]:
    return [path for path in Path(system.bundle).iterdir() if path.name != "manifest.json"]


def test_the_baseline_is_transformers_if_it_is_there(system: System) -> None:
    def named(*names: str) -> list[System]:
        return [
            replace(system, label=f"{name}!", variant=name if "transformers" in name else "")
            for name in names
        ]

    both = named("fp32 on cpu", "transformers-bf16", "transformers")
    assert baseline_of(both) == "transformers!"
    assert baseline_of(named("fp32 on cpu", "transformers-bf16")) == "transformers-bf16!"
    assert baseline_of(named("fp32 on cpu", "int8 on cpu")) == "fp32 on cpu!"
    assert baseline_of([]) == ""


def test_one_run_holds_several_engines_and_precisions(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    openvino = pytest.importorskip("openvino")
    able = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    output = tmp_path / "result.json"
    arguments = ["speed", f"{tiny_bundle}@cpu,openvino", str(tiny_bundle), "--device", "openvino"]
    arguments += ["--engine-precision", "bf16", "--tasks", "CAPTION", "--beams", "1"]
    arguments += ["--rounds", "1", "--threads", "1", "--new-tokens", "3"]
    assert main([*arguments, "--output", str(output)]) == 0
    result = read_result(output)
    assert isinstance(result, SpeedResult)
    labels = ["fp32 on cpu", "fp32 on openvino", "fp32 on openvino, bf16"]
    assert [row.system.label for row in result.systems] == labels
    assert [run.label for run in result.runs] == (labels if "BF16" in able else labels[:-1])
    assert all(run.rounds for run in result.runs)
    if "BF16" not in able:
        assert "has no bfloat16 here" in str(result.systems[-1].error)
    assert "| fp32 on openvino, bf16 |" in capsys.readouterr().out


def test_the_command_measures_a_random_model_in_every_precision(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "result.json"
    arguments = ["speed", "--architecture", "tiny", "--image-size", "64", "--threads", "1"]
    arguments += ["--precision", "fp32,fp17", "--tasks", "caption", "--beams", "2"]
    arguments += ["--rounds", "2", "--new-tokens", "5", "--output", str(output)]
    assert main(arguments) == 0
    result = read_result(output)
    assert isinstance(result, SpeedResult)
    fp32, fp17 = result.systems
    assert fp32.model == result.models == "random tiny (seed 0, 64 px)"
    assert "There is no precision 'fp17'" in str(fp17.error)
    assert result.settings["threads"] == "1"
    assert [run.workload.name for run in result.runs] == ["CAPTION, 2 beams, 5 tokens"]
    printed = capsys.readouterr().out
    assert "| CAPTION, 2 beams, 5 tokens | fp32 on cpu |" in printed
    assert "fp17" in printed


def test_accuracy_stands_beside_speed_where_truth_is_given(
    miniature_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pycocotools")
    from florence_edge_calibration.scenes.held_out import FOLDER

    output = tmp_path / "result.json"
    arguments = ["speed", str(miniature_bundle), "--tasks", "OD", "--beams", "1,2", "--rounds", "1"]
    arguments += ["--threads", "1", "--data", str(FOLDER), "--data-limit", "3"]
    assert main([*arguments, "--output", str(output)]) == 0
    result = read_result(output)
    assert isinstance(result, SpeedResult)
    assert [(each.beams, each.images) for each in result.accuracy] == [(1, 3), (2, 3)]
    assert {each.fingerprint for each in result.accuracy} == {result.systems[0].fingerprint}
    printed = capsys.readouterr().out
    for each in result.accuracy:
        beams = "greedy" if each.beams == 1 else "2 beams"
        (row,) = (line for line in printed.splitlines() if line.count("|") == 11 and beams in line)
        assert row.endswith(f"| AP50:95 {each.figures['OD']['AP50:95']:.3f} |")
    assert "Accuracy against speed" in _page(output)


def test_accuracy_that_fails_is_a_row_and_the_speed_is_kept(
    miniature_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("pycocotools")
    from florence_edge_calibration.scenes.held_out import FOLDER

    def fail(*_: object, **__: object) -> None:
        raise BackendError("The engine fell over.")

    monkeypatch.setattr(accuracy, "measure_accuracy", fail)
    output = tmp_path / "result.json"
    arguments = ["speed", str(miniature_bundle), "--tasks", "OD", "--beams", "1", "--rounds", "1"]
    arguments += ["--threads", "1", "--data", str(FOLDER), "--data-limit", "3"]
    assert main([*arguments, "--output", str(output)]) == 0
    result = read_result(output)
    assert isinstance(result, SpeedResult)
    assert result.runs[0].rounds
    label = result.systems[0].system.label
    row = f"| {label} | accuracy, greedy | The engine fell over. |"
    assert row in capsys.readouterr().out
    assert "The engine fell over." in _page(output)


def _page(result: Path) -> str:
    pytest.importorskip("matplotlib")
    from florence_edge_benchmarks.report.html import page_of

    return page_of([read_result(result)])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["speed"], "Name a BUNDLE, or give --architecture"),
        (["speed", "x", "--compare", "keras"], "There is no 'keras'"),
        (["speed", "x", "--engine-precision", "bf16"], "--engine-precision is for openvino"),
        (["speed", "x@abacus"], "There is no device 'abacus'"),
        (["speed", "x", "--device", "abacus"], "There is no device 'abacus'"),
        (["speed", "x@"], "There is no device ''"),
        (["speed", "x", "--compare", "optimum"], "--optimum-python"),
        (["speed", "x", "--new-tokens", "many"], "'many' is not a number of new tokens"),
        (
            ["speed", "x", "--tasks", "CAPTION", "--new-tokens", "OD:20"],
            "--new-tokens is for OD, which is not among --tasks: CAPTION",
        ),
        (["speed", "x", "--image", "nowhere.jpg"], "There is no file nowhere.jpg"),
        (["accuracy", "x", "--data", "nowhere"], "There is no folder nowhere"),
        (["accuracy", "nowhere", "--data", str(STORED)], "has no table `images`"),
    ],
)
def test_bad_input_gives_one_line_and_status_1(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line]
    assert len(lines) == 1
    assert lines[0].startswith("florence-bench: ")
    assert message in lines[0]


@pytest.mark.parametrize("beams", ["1", "99"])
def test_what_no_bundle_can_answer_is_reported_once_and_replaces_nothing(
    beams: str, tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "result.json"
    output.write_text("measured before")
    bundle = tiny_bundle if beams == "99" else tmp_path / "none"
    assert main(["speed", str(bundle), "--beams", beams, "--output", str(output)]) == 1
    (message,) = capsys.readouterr().err.splitlines()
    assert message.startswith("florence-bench: No bundle was measured. ")
    assert ("There is no bundle at" in message) == (beams == "1")
    assert ("num_beams" in message) == (beams == "99")
    assert output.read_text() == "measured before"


def test_a_run_in_which_every_answer_failed_replaces_nothing(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "result.json"
    output.write_text("measured before")
    nowhere = f"{tiny_bundle}@openvino:GPU.7"  # whether OpenVINO is installed or not
    requested = ["speed", nowhere, "--tasks", "OD", "--beams", "1"]
    assert main([*requested, "--output", str(output)]) == 1
    messages = capsys.readouterr().err
    assert "rounds" not in messages, "no turns are taken where nobody takes part"
    assert messages.splitlines()[-1] == (
        "florence-bench: No bundle was measured; why stands above. No result was written."
    )
    assert output.read_text() == "measured before"


@pytest.mark.parametrize(
    ("data", "message"),
    [(None, "There is no folder"), ("[]", "has no table `images`"), ("", "There is no truth in")],
)
def test_data_without_truth_is_an_error_before_anything_is_measured(
    data: str | None,
    message: str,
    tiny_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(command, "measure_speed", None)
    folder = tmp_path / "data"
    if data is not None:
        folder.mkdir()
    if data:
        (folder / "truth.json").write_text(data)
    assert main(["speed", str(tiny_bundle), "--data", str(folder)]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_tokens_are_the_same_only_if_they_are_in_every_round(
    system: System, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def timing(token: int) -> Timing:
        stages = {"decoder": 1.0, "search": 0.1}
        return Timing(seconds=2.0, stages=stages, steps=(1.0,), token_ids=((2, token),))

    def scripted(running: Mapping[str, object], some: object, rounds: object) -> object:
        answers = {"a": (5, 5), "b": (5, 5), "c": (5, 6)}
        return [{label: [timing(token) for token in answers[label]] for label in running}]

    monkeypatch.setattr("florence_edge_benchmarks.speed.run.run_rounds", scripted)
    workload = Workload(task="CAPTION", beams=1, new_tokens=1, batch=1, image=str(picture))
    systems = [replace(system, label=label) for label in "abc"]
    result = measure_speed(systems, [workload], Rounds(timed=2), {"threads": 1}, {})
    assert [run.same_tokens for run in result.runs] == [None, True, False]


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["measure"],
        ["speed", "x", "--tasks", "FLY"],
        ["speed", "x", "--beams", "0"],
        ["speed", "x", "--rounds", "-1"],
        ["speed", "x", "--batch", "100000"],
        ["speed", "--architecture", "tiny", "--seed", "-1"],
        ["energy", "x", "--load", "nan"],
        ["energy", "x", "--idle", "0"],
        ["energy", "x", "--hertz", "inf"],
        ["energy", "x", "--gpu", "-1"],
        ["speed", "x", "--compare", ","],
        ["accuracy", "x"],
        ["accuracy", "x", "--data", "d", "--tasks", "NONE"],
    ],
)
def test_wrong_usage_ends_with_status_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: florence-bench" in capsys.readouterr().err


def test_what_is_named_twice_is_measured_once() -> None:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    given = ["x", "--tasks", "CAPTION,<caption>,OD", "--beams", "3,1,03", "--device", "cpu,cpu"]
    found = parser.parse_args(given)
    assert (found.tasks, found.beams, found.device) == (["CAPTION", "OD"], [3, 1], ["cpu"])


def test_every_argument_of_speed_is_explained() -> None:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    text = parser.format_help()
    assert not [action.dest for action in parser._actions if not action.help]
    assert "benchmarks/README.md" in text
    assert "default CAPTION,OD,OCR_WITH_REGION" in " ".join(text.split())


def test_a_result_of_speed_is_plain_json(system: System) -> None:
    content = json.loads((STORED / "speed.json").read_text())
    assert content["florence-bench"] == "speed"
    assert {"machine", "settings", "baseline", "systems", "runs"} <= set(content)
