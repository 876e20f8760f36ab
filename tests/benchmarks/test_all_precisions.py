import json
import shutil
from pathlib import Path

import pytest

from florence_edge.errors import RequestError
from florence_edge_benchmarks.cli import main
from florence_edge_benchmarks.results import SpeedResult
from florence_edge_benchmarks.results_io import read_result
from florence_edge_benchmarks.speed import precisions
from florence_edge_benchmarks.speed.precisions import PrecisionPlan, export_precisions

from ..helpers.manifests import edit_manifest


def test_every_precision_is_a_row_and_what_cannot_be_made_says_why(
    tiny_checkpoint: Path,
    tiny_bundle: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output, work = tmp_path / "result.json", tmp_path / "work"
    made = shutil.copytree(tiny_bundle, work / "fp32")  # with short answers
    edit_manifest(made, lambda manifest: manifest["generation"].update(max_new_tokens=4))
    asked = ["all", str(tiny_checkpoint), "--precision", "fp32,int8", "--work", str(work)]
    quick = ["--tasks", "CAPTION", "--beams", "1", "--rounds", "1", "--threads", "1"]
    assert main([*asked, *quick, "--output", str(output)]) == 0
    printed = capsys.readouterr().out
    row = next(line for line in printed.splitlines() if line.startswith("| fp32 on cpu |"))
    assert row.count(" MB |") == 2
    assert "| int8-cpu on cpu |" in printed
    assert "--calibration-images" in printed
    result = read_result(output)
    assert isinstance(result, SpeedResult)
    assert [row.error is None for row in result.systems] == [True, False]
    assert result.settings["model"] == tiny_checkpoint.name


def test_bundles_of_an_earlier_call_are_taken_as_they_are(
    tiny_bundle: Path, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "fp32").symlink_to(tiny_bundle)
    monkeypatch.setattr(precisions, "export_problem", lambda *_: "exported")
    plan = PrecisionPlan(model=str(tiny_checkpoint), precisions=("fp32", "fp16", "int8"))
    outcomes = {folder.name: problem for folder, problem in export_precisions(plan, tmp_path)}
    assert outcomes == {"fp32": "", "fp16": "exported", "int8-cpu": "exported"}


@pytest.mark.parametrize("changed", ["precision", "checkpoint", "damaged"])
def test_what_is_not_such_a_bundle_is_left_alone(
    tiny_bundle: Path, tiny_checkpoint: Path, tmp_path: Path, changed: str
) -> None:
    folder = tmp_path / ("fp16" if changed == "precision" else "fp32")
    folder.mkdir()
    manifest = json.loads((tiny_bundle / "manifest.json").read_text())
    if changed == "checkpoint":
        manifest["model"]["sha256"] = "0" * 64
    text = "{" if changed == "damaged" else json.dumps(manifest)
    (folder / "manifest.json").write_text(text)
    plan = PrecisionPlan(model=str(tiny_checkpoint), precisions=("fp32", "fp16"))
    with pytest.raises(RequestError, match="choose another --work"):
        list(export_precisions(plan, tmp_path))
    assert (folder / "manifest.json").read_text() == text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "There is no checkpoint folder nowhere"),
        (["miniature", "--precision", "fp8"], "There is no precision 'fp8'"),
        (["miniature", "--device", "tensorrt"], "not on tensorrt"),
        (["miniature", "--data", "nowhere"], "nowhere"),
    ],
)
def test_a_mistake_is_one_sentence(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["all", *arguments, "--work", str(tmp_path / "work")]) == 1
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1
    assert not (tmp_path / "work").exists()
