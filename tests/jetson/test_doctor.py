"""The examination as a whole: recorded boards, this machine, checks_bundle, and the command."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import NoReturn

import pytest

from florence_edge import engine_failures, errors
from florence_edge.bundle import Bundle
from florence_edge.devices import Device
from florence_edge.tensorrt.install import TensorRT
from florence_edge_jetson.doctor import checks_bundle, examine
from florence_edge_jetson.doctor.cli import main
from florence_edge_jetson.doctor.findings import Finding
from florence_edge_jetson.machine.system import Tree

from .recorded_boards import BOARDS, board_tree
from .stored_engines import DEVICE, store_engines


def states(findings: list[Finding]) -> dict[str, str]:
    return {finding.check: finding.state for finding in findings}


def test_an_orin_nano_as_it_comes_has_things_to_fix(tmp_path: Path) -> None:
    found = states(examine.examine(board_tree("orin-nano", tmp_path)))
    assert found == {
        "board": "ok",
        "jetpack": "ok",
        "memory": "ok",
        "swap": "warn",  # zram alone
        "power mode": "warn",  # 25W of MAXN_SUPER
        "clocks": "warn",  # 918 of 1020 MHz
        "temperature": "ok",
        "throttling": "warn",  # over-current since the start
        "power rails": "ok",
        "cuda": "ok",
        "tensorrt": "ok",
        "cameras": "ok",
    }


@pytest.mark.parametrize("name", BOARDS)
def test_every_recorded_board_is_usable(name: str, tmp_path: Path) -> None:
    found = states(examine.examine(board_tree(name, tmp_path)))
    bad = {check for check, state in found.items() if state == "fail"}
    assert bad == set()


def test_an_older_jetpack_fails(tmp_path: Path) -> None:
    release = "# R36 (release), REVISION: 3.0, GCID: 1\n"
    tree = board_tree("orin-nano", tmp_path, etc_nv_tegra_release=release)
    assert states(examine.examine(tree))["jetpack"] == "fail"


def test_versions_are_read_from_the_boards_own_libraries(tmp_path: Path) -> None:
    findings = examine.examine(board_tree("agx-orin", tmp_path))
    found = {finding.check: finding.found for finding in findings}
    assert found["cuda"] == "13.2"
    assert "10.16.2" in found["tensorrt"]


def test_this_machine_is_examined_live(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    monkeypatch.chdir(tmp_path)
    findings = examine.examine(Tree())
    assert any("CPU ran a kernel" in finding.found for finding in findings)
    assert states(findings)["python"] in ("ok", "warn")


def test_a_sound_bundle_passes_its_self_test(tiny_bundle: Path) -> None:
    bundle, finding = checks_bundle.load_bundle(tiny_bundle)
    assert finding.state == "ok"
    assert bundle is not None
    assert checks_bundle.check_answers(bundle, Device("cpu")).state == "ok"


def test_changed_weights_are_found_by_their_hash(tiny_bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, folder)
    weights = bytearray((folder / "weights.bin").read_bytes())
    weights[100] ^= 1
    (folder / "weights.bin").write_bytes(weights)
    bundle, finding = checks_bundle.load_bundle(folder)
    assert (bundle, finding.state) == (None, "fail")
    assert "weights.bin is not what was exported" in finding.found


def test_a_quick_look_at_a_bundle_reads_its_manifest_and_no_weights(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    check_content = Bundle.check_content

    def without_weights(bundle: Bundle, *, weights: bool = True) -> None:
        assert not weights
        check_content(bundle, weights=weights)

    monkeypatch.setattr(Bundle, "check_content", without_weights)
    monkeypatch.setattr(checks_bundle, "check_answers", lambda *_: pytest.fail("it was run"))
    findings = examine.examine(Tree(), folder, scope=examine.Scope(quick=True))
    assert findings[0].check == "bundle"  # what matters most comes first
    assert "the weights were not hashed" in findings[0].found
    assert main([str(folder), "--quick"]) == 0


def test_for_tensorrt_engines_that_do_not_fit_stop_a_quick_start(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    monkeypatch.setattr(examine, "find_tensorrt", lambda: TensorRT(object(), "tensorrt", "10.3.0"))
    monkeypatch.setattr(examine, "this_device", lambda *_: DEVICE)
    assert main([str(folder), "--quick", "--device", "tensorrt"]) == 1
    assert main([str(folder), "--quick"]) == 0
    store_engines(Bundle.load(folder), DEVICE)
    assert main([str(folder), "--quick", "--device", "tensorrt"]) == 0
    no_gpu = errors.BackendError("There is no NVIDIA driver here.")
    (finding,) = checks_bundle.check_engines(Bundle.load(tiny_bundle), no_gpu, needed=True)
    assert finding.state == "fail"
    assert "--device cpu" in finding.fix


def test_the_doctor_never_sends_anybody_to_the_doctor(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = engine_failures.engine_failure(
        "The CPU did not start in ONNX Runtime 1.20", RuntimeError("no"), engine_failures.SEE_DOCTOR
    )

    def refuse(*_: object, **__: object) -> NoReturn:
        raise refused

    bundle = Bundle.load(tiny_bundle)
    monkeypatch.setattr(checks_bundle, "open_engine", refuse)
    no_gpu = errors.BackendError("There is no NVIDIA driver here.")
    for finding in (
        checks_bundle.check_answers(bundle, Device.parse("cpu")),
        *checks_bundle.check_engines(bundle, no_gpu, needed=True),
    ):
        assert finding.state == "fail"
        assert "florence-doctor" not in finding.found + finding.fix


def test_a_quick_examination_is_of_a_bundle() -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--quick"])
    assert stop.value.code == 2


def test_a_bundle_for_another_engine_is_not_tried_here(tiny_bundle: Path) -> None:
    bundle = replace(Bundle.load(tiny_bundle), target="tensorrt")
    finding = checks_bundle.check_answers(bundle, Device("cpu"))
    assert (finding.state, finding.found) == ("ok", "not done: the bundle is for tensorrt")


def test_answers_far_from_the_exporters_are_doubtful() -> None:
    assert checks_bundle.judge_answers({"image_features": 1e-5}, Device("cpu")).state == "ok"
    far = checks_bundle.judge_answers({"image_features": 1e-5, "top_log_probs": 0.2}, Device("cpu"))
    assert (far.state, "top_log_probs within 2.0e-01" in far.found) == ("warn", True)


def test_engines_that_fit_this_device_are_named(tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = Bundle.load(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    store_engines(bundle, DEVICE)
    stored, fits = checks_bundle.check_engines(bundle, DEVICE)
    assert stored.found.startswith(
        "0123456789abcdef: Orin (SM 8.7), tensorrt 10.3.0, fp32; batch 1"
    )
    assert (fits.state, fits.found) == ("ok", "0123456789abcdef fits this device")


def test_engines_may_lie_beside_a_bundle_that_cannot_be_written(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    bundle = Bundle.load(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    store_engines(bundle, DEVICE)
    elsewhere = (bundle.folder / "engines").rename(tmp_path / "elsewhere")
    assert checks_bundle.check_engines(bundle, DEVICE, elsewhere)[-1].state == "ok"
    assert checks_bundle.check_engines(bundle, DEVICE)[-1].state == "warn"


def test_engines_that_fit_are_tested_as_well(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    store_engines(Bundle.load(folder), DEVICE)
    tested: list[str] = []

    def check_answers(bundle: Bundle, device: Device, engine_dir: Path | None = None) -> Finding:
        tested.append(str(device))
        return Finding(f"self-test {device}", "ok", "")

    monkeypatch.setattr(checks_bundle, "check_answers", check_answers)
    monkeypatch.setattr(examine, "this_device", lambda *_: DEVICE)
    monkeypatch.setattr(
        examine, "find_tensorrt", lambda: TensorRT(object(), "tensorrt", DEVICE.tensorrt)
    )
    examine.examine(Tree(), folder)
    assert tested[-1] == "tensorrt"


def test_engines_of_another_tensorrt_are_doubtful(tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = Bundle.load(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    store_engines(bundle, replace(DEVICE, tensorrt="10.16.2"))
    finding = checks_bundle.check_engines(bundle, DEVICE)[-1]
    assert finding.state == "warn"
    assert "TensorRT tensorrt 10.16.2, here tensorrt 10.3.0" in finding.found
    assert finding.fix.startswith("florence-build ")


def test_damaged_engines_are_named(tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = Bundle.load(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    folder = store_engines(bundle, DEVICE)
    (folder / "decoder.plan").write_bytes(b"")
    stored, missing = checks_bundle.check_engines(bundle, DEVICE)
    assert (stored.state, "decoder.plan was cut short" in stored.found) == ("warn", True)
    assert missing.state == "warn"


def test_without_a_gpu_no_engines_are_missed(tiny_bundle: Path) -> None:
    no_gpu = errors.BackendError("There is no NVIDIA driver here.")
    (finding,) = checks_bundle.check_engines(Bundle.load(tiny_bundle), no_gpu)
    assert finding.state == "ok"


def test_the_command_prints_a_table_and_ends_with_0_for_warnings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    board_tree("orin-nano", tmp_path)
    assert main(["--root", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "-> sudo nvpmodel -m 2" in out
    assert out.endswith("8 ok, 4 warnings.\n")


def test_the_command_ends_with_1_where_a_check_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    board_tree("orin-nano", tmp_path)
    assert main([str(tmp_path / "no-bundle"), "--root", str(tmp_path)]) == 1
    assert "There is no bundle at" in capsys.readouterr().out


def test_json_has_the_same_findings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree = board_tree("thor", tmp_path)
    assert main(["--json", "--root", str(tmp_path)]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["state"] == "warn"  # hot, which is no reason for a service not to start
    assert content["findings"] == [asdict(finding) for finding in examine.examine(tree)]


def test_a_root_that_is_not_there_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--root", str(tmp_path / "nowhere")]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_the_status_is_that_of_the_findings_though_nobody_reads_them(tmp_path: Path) -> None:
    board_tree("orin-nano", tmp_path)
    program = "import sys; from florence_edge_jetson.doctor.cli import main; sys.exit(main())"
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as pipe:
        done = subprocess.run(
            [sys.executable, "-c", program, "--root", str(tmp_path)],
            check=False,
            stdout=pipe,
            stderr=subprocess.PIPE,
        )
    assert (done.returncode, done.stderr) == (0, b"")


def test_stopping_it_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("florence_edge_jetson.doctor.cli.examine", interrupt)
    assert main(["--root", str(tmp_path)]) == 130
    assert capsys.readouterr().err == "florence-doctor: stopped.\n"
