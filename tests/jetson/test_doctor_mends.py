"""Whatever is not well says what to do about it: over recorded boards and invented troubles."""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from florence_edge.bundle import Bundle
from florence_edge.errors import BackendError, BundleError
from florence_edge_jetson.doctor import bundles, examine, hardware, software
from florence_edge_jetson.doctor.finding import Finding
from florence_edge_jetson.doctor.smoke import Trial
from florence_edge_jetson.machine.board import Board
from florence_edge_jetson.machine.clocks import GpuClock, PowerMode
from florence_edge_jetson.machine.jetpack import Release, jetpack_of
from florence_edge_jetson.machine.memory import Memory
from florence_edge_jetson.machine.thermal import Zone

from .recorded import BOARDS, board_tree
from .test_doctor import DEVICE, store_engines

COMMANDS = r"(sudo|pip|docker|rm -r|free|tegrastats|nvidia-smi|florence-\w+|/usr/bin/python3\.10)\b"
SENTENCE = r"[A-Z].*(\.|https://\S+|: florence-.*)$"
PC = Board(name="A PC")
MISSING = BackendError("It is not there.")
CLOCK = GpuClock(now=1, limit=1, most=2, governor=None)


def jetson(*release: int) -> Board:
    number = Release(release)
    return Board(name="x", chip="Orin", release=number, jetpack=jetpack_of(number))


NANO = jetson(36, 4, 3)


def check(finding: Finding) -> None:
    if finding.state == "ok":
        assert finding.mend == ""
    else:
        assert re.match(f"{COMMANDS}|{SENTENCE}", finding.mend), finding


@pytest.mark.parametrize("name", BOARDS)
def test_every_finding_of_a_recorded_board_has_its_mend(name: str, tmp_path: Path) -> None:
    for finding in examine.examine(board_tree(name, tmp_path), tmp_path / "no-bundle"):
        check(finding)


TROUBLES = [
    hardware.check_board(replace(PC, chip="Xavier")),
    hardware.check_jetpack(replace(NANO, release=None, jetpack=None)),
    hardware.check_jetpack(jetson(40, 1)),
    hardware.check_jetpack(jetson(36, 3)),
    hardware.check_memory(None, 0, PC),
    hardware.check_memory(Memory(total=2, available=1, swap=0, disk_swap=0), 9, PC),
    hardware.check_memory(Memory(total=2, available=1, swap=0, disk_swap=0), 0, NANO),
    hardware.check_swap(Memory(total=2, available=1, swap=0, disk_swap=0), NANO),
    hardware.check_power_mode(None, (), NANO),
    hardware.check_power_mode(PowerMode(1, "7W"), [PowerMode(0, "MAXN")], NANO),
    hardware.check_gpu_clock(CLOCK, (), NANO),
    hardware.check_gpu_clock(CLOCK, [PowerMode(0, "MAXN")], NANO),
    hardware.check_temperature([Zone(name="tj", celsius=94)]),
    hardware.check_temperature([Zone(name="tj", celsius=105, critical=104)]),
    hardware.check_throttling(["gpu"], {}, NANO),
    hardware.check_throttling([], {"oc1": 1}, NANO),
    hardware.check_rails([], NANO),
    hardware.check_rails(["VDD_FOO"], NANO),
    software.check_python((3, 13), NANO),
    software.check_gpu(MISSING, NANO),
    software.check_gpu(MISSING, PC, driver=True),
    software.check_cuda(None, True, NANO),
    software.check_cuda(None, True, PC),
    software.check_cuda("13.0", True, NANO),
    software.check_tensorrt(MISSING, True, NANO),
    software.check_tensorrt(MISSING, True, PC),
    software.check_tensorrt_library(None, NANO),
    *software.check_onnxruntime(MISSING, version="", tensorrt=True),
    *software.check_onnxruntime(MISSING, version="", tensorrt=False),
    *software.check_onnxruntime([Trial("CPUExecutionProvider", "x")], version="", tensorrt=False),
    *software.check_onnxruntime([Trial("CUDAExecutionProvider", "x")], version="", tensorrt=True),
    software.check_disk(0, "/"),
    software.check_disk(2**30, "/"),
    software.check_cameras({"/dev/video0": "x"}, ["/dev/video0"]),
    bundles.load_bundle(Path("/nowhere/a bundle"))[1],
    bundles.judge_answers({"image_features": 1.0}, "cpu"),
]


@pytest.mark.parametrize("finding", TROUBLES)
def test_every_invented_trouble_has_its_mend(finding: Finding | None) -> None:
    assert finding is not None
    assert finding.state != "ok"
    check(finding)


def test_troubles_of_a_bundle_have_their_mend(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bundle = Bundle.load(shutil.copytree(tiny_bundle, tmp_path / "a bundle"))

    def broken(*_: object, **__: object) -> object:
        raise BundleError("It does not load.")

    monkeypatch.setattr(bundles, "open_backend", broken)
    (bundle.folder / "engines").mkdir()
    folder = store_engines(bundle, DEVICE)
    (folder / "decoder.plan").write_bytes(b"")
    found = [
        bundles.check_answers(bundle, "cpu"),
        bundles.check_answers(bundle, "tensorrt"),
        *bundles.check_engines(bundle, DEVICE),
        *bundles.check_engines(bundle, MISSING, needed=True),
    ]
    assert {each.state for each in found} == {"fail", "warn"}
    for finding in found:
        check(finding)
