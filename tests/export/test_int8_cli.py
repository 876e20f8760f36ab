"""florence-export --precision int8 as a person runs it: refusals, interruptions, and the result."""

import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from florence_edge.bundle import Bundle
from florence_edge_export.cli import main

from ..helpers.paused import start_until_paused, stop
from ..helpers.pictures import paint
from . import folders
from .export_command import PAUSED, RUN, assert_one_message, run_export
from .test_int8_export import fidelity


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return paint(tmp_path_factory.mktemp("pictures"), 8)


def test_an_export_takes_its_options_and_tells_what_it_does(
    tiny_checkpoint: Path, pictures: Path, tmp_path: Path
) -> None:
    output = tmp_path / "b"
    arguments = [str(tiny_checkpoint), "--output", str(output), "--precision", "int8"]
    arguments += ["--target", "cpu", "--calibration-images", str(pictures), "--no-gate"]
    arguments += ["--method", "minmax", "--keep", "decoder.*=fp32"]
    arguments += ["--keep", "vision_encoder.blocks.0.*=fp32"]
    found = run_export(*arguments)
    assert found.returncode == 0, found.stderr
    assert found.stdout.strip().endswith(f"florence-run {output} IMAGE --task OD")
    assert "Calibrating: 8 of 8 pictures" in found.stderr
    assert "The gate is left out" in found.stderr
    bundle = Bundle.load(output)
    assert (bundle.precision, bundle.target) == ("int8", "cpu")
    reported = fidelity(bundle)
    assert reported["method"] == "minmax"
    assert reported["kept"] == {"decoder.*": "fp32", "vision_encoder.blocks.0.*": "fp32"}
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--target", "tpu"],
        ["--method", "magic"],
        ["--samples", "many"],
        ["--budget", "small"],
    ],
    ids=str,
)
def test_wrong_usage_ends_with_status_2(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["miniature", "--output", str(tmp_path / "b"), "--precision", "int8", *arguments])
    assert caught.value.code == 2
    assert "usage: florence-export" in capsys.readouterr().err


Fill = Callable[[Path], object]


def _nothing(folder: Path) -> None: ...


def _seven(folder: Path) -> None:
    paint(folder, 7)


def _unreadable(folder: Path) -> None:
    paint(folder, 9)
    for name in ("0002.png", "0005.png"):
        (folder / name).write_bytes(b"no picture")


def _flat(folder: Path) -> None:
    for index in range(10):
        Image.new("RGB", (8, 8), (index, 0, 0)).save(folder / f"{index}.png")


def _foreign_table(folder: Path) -> None:
    paint(folder, 8)
    (folder / "t.json").write_text('{"format": 7, "contract": 7, "bins": {}}')


def _eight(folder: Path) -> None:
    paint(folder, 8)


_REFUSED: dict[str, tuple[Fill | None, list[str], str]] = {
    "no pictures": (None, [], "needs --calibration-images DIR.*at least 8 pictures.*jpg"),
    "no folder": (None, ["--calibration-images", "none"], "There is no folder none"),
    "pictures of one colour": (_flat, [], "has 0 pictures that serve"),
    "seven pictures": (_seven, [], r"has 7 pictures\. .*at least 8"),
    "an empty folder": (_nothing, [], r"has 0 pictures\. "),
    "unreadable pictures": (_unreadable, [], "has 7 pictures that serve"),
    "a keep that matches nothing": (
        _eight,
        ["--keep", "decoder.layers.7.*=fp16", "--no-gate"],
        r"--keep decoder.layers.7.\* matches no layer",
    ),
    "a keep without a type": (_eight, ["--keep", "decoder.*"], "not of the form PATTERN=fp16"),
    "a keep without a pattern": (_eight, ["--keep", "=fp16"], "not of the form PATTERN=fp16"),
    "a keep of another type": (_eight, ["--keep", "a=int4"], "not of the form PATTERN=fp16"),
    "float16 for the cpu": (
        _eight,
        ["--target", "cpu", "--keep", "decoder.*=fp16"],
        "use --keep PATTERN=fp32",
    ),
    "a negative budget": (_eight, ["--budget", "-0.1"], "The budget is -0.1"),
    "a budget of all": (_eight, ["--budget", "1"], "The budget is 1; .*below 1"),
    "a budget that is no number": (_eight, ["--budget", "nan"], "The budget is nan"),
    "no samples": (_eight, ["--samples", "0"], "--samples is 0; it must be 8 or more"),
    "a missing table": (
        _eight,
        ["--target", "portable", "--calibration", "none.json"],
        "none.json is not a calib",
    ),
    "a foreign table": (
        _foreign_table,
        ["--target", "portable", "--calibration", "pictures/t.json"],
        "table of format 7 for contract 7, expected",
    ),
    "a picture as table": (
        _eight,
        ["--target", "portable", "--calibration", "pictures/0000.png"],
        "is not a calibration table",
    ),
}


@pytest.mark.parametrize("case", _REFUSED)
def test_bad_input_gives_one_clear_message_and_no_bundle(
    tiny_checkpoint: Path,
    tmp_path: Path,
    case: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fill, arguments, message = _REFUSED[case]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    chosen = ["--precision", "int8", *arguments]
    if fill is not None:
        Path("pictures").mkdir()
        fill(Path("pictures"))
        chosen += ["--calibration-images", "pictures"]
    assert main([str(tiny_checkpoint), "--output", "out/b", *chosen]) == 1
    error = capsys.readouterr().err
    found = subprocess.CompletedProcess([], 1, "", error)
    assert_one_message(found, message)
    assert not Path("out").exists() or not list(Path("out").iterdir())


def test_unreadable_pictures_are_named(tiny_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    _unreadable(tmp_path / "pictures")
    arguments = [str(tiny_checkpoint), "--output", str(tmp_path / "b"), "--precision", "int8"]
    found = run_export(*arguments, "--calibration-images", str(tmp_path / "pictures"))
    assert_one_message(found, "has 7 pictures that serve")
    for name in ("0002.png", "0005.png"):
        assert name in found.stderr
    assert not (tmp_path / "b").exists()


_MOMENTS = [
    ("florence_edge_export.quantization.export", "calibrate", "SIGINT"),
    ("florence_edge_export.bundle_writer", "save_graphs", "SIGTERM"),  # of the float bundle
    ("florence_edge_export.quantization.export", "quantize", "SIGTERM"),
    ("florence_edge_export.bundle_writer", "write_manifest", "SIGINT"),
]
_FIRST_AND_OTHERS = [_MOMENTS[0], *(pytest.param(*m, marks=pytest.mark.slow) for m in _MOMENTS[1:])]


@pytest.mark.parametrize(
    ("module", "point", "kind"),
    _FIRST_AND_OTHERS,
    ids=lambda x: x.rpartition(".")[2],
)
def test_a_stopped_export_leaves_what_was_there(
    tiny_checkpoint: Path,
    tiny_bundle: Path,
    pictures: Path,
    tmp_path: Path,
    module: str,
    point: str,
    kind: str,
) -> None:
    old = folders.copy(tiny_bundle, tmp_path / "out")
    before = {path.name: path.read_bytes() for path in old.iterdir()}
    arguments = [str(tiny_checkpoint), "--output", str(old), "--overwrite", "--precision", "int8"]
    arguments += ["--target", "portable", "--calibration-images", str(pictures), "--no-gate"]
    process = start_until_paused(PAUSED.format(module=module, point=point), arguments)
    assert len(list(tmp_path.iterdir())) >= 2  # the old one and the one being written
    status, error = stop(process, signal.Signals[kind])
    assert status == 128 + signal.Signals[kind]
    assert "stopped; nothing was changed" in error
    assert "Traceback" not in error
    assert {path.name: path.read_bytes() for path in old.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.slow
def test_a_sweep_that_is_stopped_leaves_nothing_either(
    tiny_checkpoint: Path, pictures: Path, tmp_path: Path
) -> None:
    """In the midst of ranking the blocks."""
    program = """
import sys
from florence_edge_calibration.quantization import sensitivity
from florence_edge_export.quantization import gate
gate.MIN_POSITIONS, gate.MAX_NEW_TOKENS = 20, 3
gate.Judged.holds = lambda *_: False
gate.Gate.check_trained = lambda *_: None
def paused(*_, timed):
    print("paused", flush=True)
    import time
    time.sleep(60)
sensitivity._FloatGraphs.compare = paused
from florence_edge_export.cli import main
sys.exit(main())
"""
    output = tmp_path / "out"
    arguments = [str(tiny_checkpoint), "--output", str(output), "--precision", "int8"]
    process = start_until_paused(program, [*arguments, "--calibration-images", str(pictures)])
    status, error = stop(process, signal.SIGTERM)
    assert status == 143, error
    assert not list(tmp_path.iterdir())


def test_without_onnx_runtime_it_says_what_to_install(
    tiny_checkpoint: Path, pictures: Path, tmp_path: Path
) -> None:
    arguments = [str(tiny_checkpoint), "--output", str(tmp_path / "out" / "b")]
    arguments += ["--precision", "int8", "--calibration-images", str(pictures)]
    code = f"import sys; sys.modules['onnxruntime'] = None; {RUN}"
    found = run_export(*arguments, code=code)
    assert_one_message(found, r"calibrates with ONNX Runtime, .*pip install .*\[cpu\]")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "arguments",
    [["--target", "cpu"], ["--samples", "8"], ["--no-gate"], ["--keep", "decoder.*=fp16"]],
    ids=str,
)
def test_options_of_int8_without_int8_are_refused(
    arguments: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    assert main(["miniature", "--output", str(tmp_path / "b"), *arguments]) == 1
    assert "but the precision is fp32. Add --precision int8" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_other_precisions_need_no_pictures(tiny_checkpoint: Path, tmp_path: Path) -> None:
    assert run_export(str(tiny_checkpoint), "--output", str(tmp_path / "b")).returncode == 0
    assert Bundle.load(tmp_path / "b").precision == "fp32"
