"""florence-doctor among damaged files, unreadable sensors and half installations: no traceback."""

import os
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from florence_edge.bundle import Bundle
from florence_edge.devices import Device
from florence_edge.errors import BundleError
from florence_edge.tensorrt.manifest import ENGINE_MANIFEST
from florence_edge_jetson.doctor import checks_bundle, examine
from florence_edge_jetson.doctor.checks_bundle import check_int8_products, judge_answers
from florence_edge_jetson.doctor.cli import main
from florence_edge_jetson.machine.system import Tree

from .recorded_boards import board_tree

Damage = Callable[[Path], object]

DAMAGES: dict[str, Damage] = {
    "emptied": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "noise": lambda path: path.write_bytes(random.Random(1).randbytes(path.stat().st_size)),
    "nested": lambda path: path.write_bytes(b"[" * 100_000),
    "not UTF-8": lambda path: path.write_bytes(b'{"a": "\xe9"}'),
    "gone": Path.unlink,
    "a folder": lambda path: instead(path, Path.mkdir),
    "a pipe": lambda path: instead(path, os.mkfifo),
    "a link to itself": lambda path: instead(path, lambda gone: gone.symlink_to(gone.name)),
}


def instead(path: Path, make: Damage) -> None:
    path.unlink()
    make(path)


@pytest.fixture(autouse=True)
def no_providers(monkeypatch: pytest.MonkeyPatch) -> None:
    """What this machine has is another test's matter."""
    pytest.importorskip("onnxruntime")


@pytest.mark.parametrize("damage", DAMAGES)
def test_every_damaged_file_of_a_bundle_is_one_finding_with_a_fix(
    damage: str, tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in sorted(path.name for path in tiny_bundle.iterdir() if path.is_file()):
        folder = shutil.copytree(tiny_bundle, tmp_path / name)
        DAMAGES[damage](folder / name)
        assert main([str(folder)]) == 1
        printed = capsys.readouterr().out
        failures = [line for line in printed.splitlines() if line.startswith("  fail")]
        assert [line.split()[1] for line in failures] == ["bundle"], name
        assert "-> Copy the bundle again, or: florence-export CHECKPOINT --output NEW" in printed


def test_a_folder_that_is_not_there_can_be_exported_to(tmp_path: Path) -> None:
    bundle, finding = checks_bundle.load_bundle(tmp_path / "none")
    assert bundle is None
    assert finding.fix == f"florence-export CHECKPOINT --output {tmp_path / 'none'}"


def test_a_reference_that_is_damaged_is_a_failed_self_test_with_a_fix(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bundle's hashes fit: it was damaged before it was written, or on purpose."""

    def damaged(*_: object) -> None:
        raise BundleError("reference.npz is not a reference that florence-export writes: zeros")

    monkeypatch.setattr(checks_bundle, "self_test", damaged)
    finding = checks_bundle.check_answers(Bundle.load(tiny_bundle), Device("cpu"))
    assert (finding.state, finding.check) == ("fail", "self-test cpu")
    assert finding.fix == "Copy the bundle again, or: florence-export CHECKPOINT --output NEW"


@pytest.mark.parametrize("order", [(float("nan"), 0.0), (0.0, float("nan"))])
def test_nan_is_not_close(order: tuple[float, float]) -> None:
    errors = dict(zip(("image_features", "top_log_probs"), order, strict=True))
    assert judge_answers(errors, Device("cpu")).state == "warn"


@pytest.mark.parametrize("damage", [*DAMAGES, "digits"])
def test_a_damaged_set_of_engines_is_named(damage: str, tiny_bundle: Path, tmp_path: Path) -> None:
    engines = tmp_path / "engines" / "0123456789abcdef"
    engines.mkdir(parents=True)
    manifest = engines / ENGINE_MANIFEST
    manifest.write_text('{"layout": ' + "9" * 5000 + "}")
    if damage != "digits":
        DAMAGES[damage](manifest)
    device = examine._device(examine._tensorrt(), 0)
    findings = checks_bundle.check_engines(Bundle.load(tiny_bundle), device, tmp_path / "engines")
    if damage not in ("gone", "a link to itself"):
        assert findings[0].state == "warn"
        assert "rm -r" in findings[0].fix


SENSORS = {
    "digits": b"9" * 5000,
    "memory": b"MemTotal: " + b"9" * 5000 + b" kB",
    "swap": b"Filename Type Size\n/dev/x partition " + b"9" * 5000,
    "release": b"# R" + b"9" * 5000 + b" (release), REVISION: 4.3",
    "mode": b"pmode:" + b"9" * 5000,
    "modes": "< POWER_MODEL ID=² NAME=MAXN >".encode(),
    "noise": random.Random(3).randbytes(300),
    "escapes": b"\x1b[31m red \x1b[0m",
    "empty": b"",
}


@pytest.mark.parametrize("board", ["orin-nano", "thor"])
@pytest.mark.parametrize("content", [*SENSORS, "a pipe", "a folder"])
def test_a_board_whose_files_are_garbled_is_examined_all_the_same(
    board: str, content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    board_tree(board, tmp_path)
    for path in [path for path in tmp_path.rglob("*") if path.is_file()]:
        path.unlink()
        if content == "a pipe":
            os.mkfifo(path)
        elif content == "a folder":
            path.mkdir()
        else:
            path.write_bytes(SENSORS[content])
    assert main(["--root", str(tmp_path)]) in (0, 1)
    printed = capsys.readouterr().out
    assert " ok" in printed
    assert "\x1b" not in printed
    assert "could not be checked" not in printed  # every file is read so that it cannot fail


def test_a_check_that_fails_itself_does_not_hide_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("nobody foresaw it")

    monkeypatch.setattr(examine, "read_memory", fail)
    findings = {each.check: each for each in examine.examine(board_tree("thor", tmp_path))}
    assert findings["memory"].state == "warn"
    assert "could not be checked (ZeroDivisionError: nobody foresaw it)" in findings["memory"].found
    assert {"board", "jetpack", "temperature", "cameras"} <= set(findings)


def test_a_bundle_that_cannot_be_read_at_all_fails(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("nobody foresaw it")

    monkeypatch.setattr(Bundle, "load", fail)
    (loaded, *others) = examine.examine(board_tree("thor", tmp_path), tiny_bundle)
    assert (loaded.check, loaded.state) == ("bundle", "fail")
    assert others


def test_a_deleted_working_directory_is_a_finding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    findings = {each.check: each for each in examine.examine(Tree())}
    assert "could not be checked (FileNotFoundError" in findings["disk"].found
    monkeypatch.chdir(tmp_path)


def test_half_an_onnxruntime_is_told_and_not_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise AttributeError("module 'onnxruntime' has no attribute 'get_available_providers'")

    monkeypatch.setattr(examine, "import_onnxruntime", broken)
    installed = examine.read_installed()
    assert "ONNX Runtime does not work (AttributeError" in str(installed.trials)
    assert not installed.runs_on_cpu


def test_the_doctor_asks_for_no_telemetry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
    examine.read_installed()
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY")


@pytest.mark.parametrize("target", ["cpu", "any"])
def test_int8_products_that_saturate_are_explained(tiny_bundle: Path, target: str) -> None:
    floats = Bundle.load(tiny_bundle)
    assert check_int8_products(floats, saturate=True) is None
    exact = replace(floats, precision="int8", target=target)
    older = replace(exact, exact_products=False)
    found = {
        (bundle.exact_products, saturate): check_int8_products(bundle, saturate=saturate)
        for bundle in (exact, older)
        for saturate in (True, False)
    }
    assert {key: each and each.state for key, each in found.items()} == {
        (True, True): "ok",
        (True, False): "ok",
        (False, True): "warn",
        (False, False): "ok",
    }
    worse = found[False, True]
    assert worse is not None
    assert "without VNNI" in worse.found
    assert f"--target {'cpu' if target == 'cpu' else 'portable'}" in worse.fix
