"""florence-calibrate as a person runs it: tables, a ranking of blocks, and clear refusals."""

import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from florence_edge.bundle import Bundle
from florence_edge_calibration import cli
from florence_edge_calibration.cli import main
from florence_edge_calibration.quantization import recipe, sensitivity
from florence_edge_calibration.quantization.agreement import Agreement
from florence_edge_calibration.quantization.calibration_table import CalibrationTable
from florence_edge_export.export import ExportOptions, export

from ..helpers.paused import start_until_paused, stop
from ..helpers.pictures import paint

Capture = pytest.CaptureFixture[str]

_RUN = "import sys; from florence_edge_calibration.cli import main; sys.exit(main())"


@pytest.fixture(autouse=True)
def _keep_the_signal_handler() -> object:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return paint(tmp_path_factory.mktemp("pictures"), 8)


@pytest.fixture(scope="module")
def called_miniature(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny bundle under the name of the model that has scenes of its own."""
    folder = tmp_path_factory.mktemp("miniature") / "bundle"
    export("miniature", tiny_checkpoint, folder, ExportOptions())
    return folder


@pytest.fixture
def miniature(
    called_miniature: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A tiny bundle in the role of that model, which is known by its weights."""
    monkeypatch.setattr(cli, "_MINIATURE", tiny_checkpoint / "model.safetensors")
    return called_miniature


def refused(arguments: list[str], capsys: Capture, message: str) -> None:
    """One line on stderr, status 1, nothing on stdout."""
    assert main(arguments) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.strip().splitlines()
    assert lines[-1].startswith("florence-calibrate: ")
    assert sum(line.startswith("florence-calibrate: ") for line in lines) == 1
    assert re.search(message, lines[-1]), lines[-1]


def test_a_table_is_written_and_its_use_is_printed(
    floats: Bundle, pictures: Path, tmp_path: Path, capsys: Capture
) -> None:
    output = tmp_path / "two words" / "calibration.json"
    assert main([str(floats.folder), str(pictures), "--output", str(output)]) == 0
    captured = capsys.readouterr()
    assert f"--target portable --calibration '{output}' --calibration-images DIR" in captured.out
    assert captured.err == "\rCalibrating: 6 of 6 pictures\n"  # no terminal: its end alone
    table = CalibrationTable.load(output)
    table.check(floats)
    assert table.pictures == 6  # of 8, a quarter is kept for the gate
    assert [path.name for path in output.parent.iterdir()] == ["calibration.json"]


def test_a_model_that_is_called_miniature_only_needs_pictures(
    called_miniature: Path, tmp_path: Path, capsys: Capture
) -> None:
    arguments = [str(called_miniature), "--output", str(tmp_path / "t.json")]
    refused(arguments, capsys, "miniature needs pictures to calibrate with")


def test_the_miniature_has_scenes_of_its_own(miniature: Path, tmp_path: Path) -> None:
    output = tmp_path / "t.json"
    assert main([str(miniature), "--output", str(output), "--samples", "2"]) == 0
    assert CalibrationTable.load(output).pictures == 2


def test_an_existing_table_is_kept_unless_it_may_be_overwritten(
    miniature: Path, tmp_path: Path, capsys: Capture
) -> None:
    output = tmp_path / "t.json"
    output.write_text("old")
    arguments = [str(miniature), "--output", str(output), "--samples", "1"]
    refused(arguments, capsys, "t.json exists. Choose another --output, or pass --overwrite")
    assert output.read_text() == "old"
    assert main([*arguments, "--overwrite"]) == 0
    assert CalibrationTable.load(output).pictures == 1


def test_nothing_to_do_is_reported(floats: Bundle, capsys: Capture) -> None:
    refused([str(floats.folder)], capsys, "nothing to do: pass --output FILE, --sensitivity")


def test_a_model_without_scenes_needs_pictures(
    floats: Bundle, tmp_path: Path, capsys: Capture
) -> None:
    arguments = [str(floats.folder), "--output", str(tmp_path / "t.json")]
    refused(arguments, capsys, "tiny needs pictures to calibrate with.*at least 8 pictures")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("samples", ["0", "-3"])
def test_an_impossible_number_of_samples_is_refused(
    miniature: Path, tmp_path: Path, capsys: Capture, samples: str
) -> None:
    arguments = [str(miniature), "--output", str(tmp_path / "t.json"), "--samples", samples]
    refused(arguments, capsys, f"--samples is {samples}; it must be 1 or more")


def _nothing(folder: Path) -> None: ...


def _seven(folder: Path) -> None:
    paint(folder, 7)


def _unreadable(folder: Path) -> None:
    paint(folder, 9)
    for name in ("0001.png", "0004.png"):
        (folder / name).write_text("no picture")


@pytest.mark.parametrize(
    ("fill", "message"),
    [
        (_nothing, r"has 0 pictures\. "),
        (_seven, r"has 7 pictures\. .*at least 8"),
        (_unreadable, "has 7 pictures that serve"),
    ],
)
def test_too_few_pictures_are_refused(
    floats: Bundle,
    tmp_path: Path,
    capsys: Capture,
    fill: Callable[[Path], None],
    message: str,
) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    fill(folder)
    refused([str(floats.folder), str(folder), "--output", str(tmp_path / "t")], capsys, message)
    assert not (tmp_path / "t").exists()


def test_paths_without_a_bundle_or_a_folder_are_refused(
    floats: Bundle, tmp_path: Path, capsys: Capture
) -> None:
    output = ["--output", str(tmp_path / "t")]
    refused([str(tmp_path / "none"), *output], capsys, "There is no bundle at .*none")
    missing = str(tmp_path / "missing")
    refused([str(floats.folder), missing, *output], capsys, "There is no folder .*missing")
    assert not list(tmp_path.iterdir())


def test_a_bundle_that_is_not_float32_is_refused(
    tiny_half_bundle: Path, pictures: Path, tmp_path: Path, capsys: Capture
) -> None:
    arguments = [str(tiny_half_bundle), str(pictures), "--output", str(tmp_path / "t")]
    refused(arguments, capsys, "is fp16; calibration needs the float32 model.*florence-export")
    assert not (tmp_path / "t").exists()


@pytest.mark.parametrize("sensitivity", [True, False])
def test_a_table_of_another_model_is_refused(
    floats: Bundle,
    planted_table: CalibrationTable,
    pictures: Path,
    tmp_path: Path,
    capsys: Capture,
    sensitivity: bool,
) -> None:
    planted_table.save(tmp_path / "other.json")
    arguments = [str(floats.folder), str(pictures), "--calibration", str(tmp_path / "other.json")]
    arguments += ["--sensitivity"] if sensitivity else ["--output", str(tmp_path / "t")]
    refused(arguments, capsys, "made from planted, whose weights are not those of tiny")
    assert not (tmp_path / "t").exists()


def test_a_file_that_is_not_a_table_is_refused(
    floats: Bundle, pictures: Path, tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "wrong.json").write_text("{}")
    arguments = [str(floats.folder), str(pictures), "--sensitivity"]
    arguments += ["--calibration", str(tmp_path / "wrong.json")]
    refused(arguments, capsys, "wrong.json is not a calibration table")


@pytest.mark.parametrize("output", ["/proc/nowhere/t.json", "/dev/null/t.json", "x" * 300])
def test_an_impossible_output_is_refused(
    miniature: Path,
    capsys: Capture,
    output: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([str(miniature), "--output", output, "--samples", "1"]) == 1
    lines = capsys.readouterr().err.strip().splitlines()[-1]
    assert lines.startswith("florence-calibrate: ")
    assert "Check the paths" in lines or f"Cannot write {output}" in lines
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "arguments",
    [[], ["a", "b", "c"], ["a", "--samples", "many"], ["a", "--method", "magic"], ["--unknown"]],
    ids=str,
)
def test_wrong_usage_ends_with_status_2(arguments: list[str], capsys: Capture) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: florence-calibrate" in capsys.readouterr().err


@pytest.mark.parametrize("precision", recipe.INTEGER_PRECISIONS)
def test_sensitivity_prints_a_line_for_each_block_that_keep_understands(
    precision: recipe.IntegerPrecision,
    floats: Bundle,
    table: CalibrationTable,
    pictures: Path,
    tmp_path: Path,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    table.save(tmp_path / "t.json")
    swept: list[tuple[object, ...]] = []

    def quick(*arguments: object) -> list[sensitivity.Sensitivity]:
        swept.append(arguments)
        agreement = Agreement(positions=200, equal=190, decided=100, decided_equal=99, drop=4)
        return [
            sensitivity.Sensitivity(
                graph="text_encoder", block=block, error=0.0125, saved=0.1, agreement=agreement
            )
            for block in ("text_encoder.layers.0.fc", "decoder.shared")
        ]

    monkeypatch.setattr(sensitivity, "sweep", quick)
    monkeypatch.setattr(cli, "_JUDGED_PICTURES", 1)
    monkeypatch.setattr(cli, "_MAX_NEW_TOKENS", 3)
    arguments = [str(floats.folder), str(pictures), "--sensitivity", "--target", "cpu"]
    arguments += ["--calibration", str(tmp_path / "t.json"), "--method", "minmax"]
    arguments += ["--precision", precision] if precision == "int4" else []
    assert main(arguments) == 0
    (call,) = swept
    assert call[2] == recipe.Recipe(target="cpu", precision=precision, method="minmax")
    lines = capsys.readouterr().out.splitlines()
    assert f"One block at a time in {precision}, " in "\n".join(lines)
    (header,) = (place for place, line in enumerate(lines) if line.startswith("--keep pattern"))
    assert lines[header].split()[2:] == ["error", "loss", "equal", "saved"]
    rows = [line.split() for line in lines[header + 1 :]]
    assert rows == [
        ["text_encoder.layers.0.fc?", "0.01250", "0.0100", "0.9500", "+10.0%"],
        ["decoder.shared", "0.01250", "0.0100", "0.9500", "+10.0%"],
    ]


def test_a_stopped_calibration_leaves_the_old_table(
    floats: Bundle, pictures: Path, tmp_path: Path
) -> None:
    output = tmp_path / "t.json"
    output.write_text("old")
    program = """
import sys, time
from florence_edge_calibration import cli
def paused(done, count):
    print("paused", flush=True)
    time.sleep(60)
cli._draw_progress = paused
sys.exit(cli.main())
"""
    arguments = [str(floats.folder), str(pictures), "--output", str(output), "--overwrite"]
    status, error = stop(start_until_paused(program, arguments), signal.SIGTERM)
    assert status == 143
    assert error.strip() == "florence-calibrate: stopped."
    assert output.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["t.json"]


@pytest.mark.parametrize("missing", ["onnx_ir", "ml_dtypes", "onnxruntime"])
def test_a_missing_package_is_named_with_what_to_install(
    floats: Bundle, pictures: Path, tmp_path: Path, missing: str
) -> None:
    program = f"import sys; sys.modules[{missing!r}] = None; {_RUN}"
    output = tmp_path / "t.json"
    arguments = [str(floats.folder), str(pictures), "--output", str(output)]
    if missing == "ml_dtypes":
        arguments.append("--sensitivity")
    found = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False
    )
    assert found.returncode == 1
    assert "Traceback" not in found.stderr
    assert f"needs {missing}, which is not installed" in found.stderr
    assert "[cpu,export]" in found.stderr
