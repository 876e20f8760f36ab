"""Whatever is not well says what to do about it: over recorded boards and invented troubles."""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from florence_edge.backends.provider_trial import ProviderTrial
from florence_edge.bundle import Bundle
from florence_edge.devices import Device
from florence_edge.errors import BackendError, BundleError
from florence_edge_jetson.doctor import checks_bundle, checks_hardware, checks_software, examine
from florence_edge_jetson.doctor.findings import Finding
from florence_edge_jetson.machine.board import Board, Release, jetpack_of
from florence_edge_jetson.machine.clocks import GpuClock, PowerMode
from florence_edge_jetson.machine.system import Memory
from florence_edge_jetson.machine.thermal import Zone

from .recorded_boards import BOARDS, board_tree
from .stored_engines import DEVICE, store_engines

COMMANDS = (
    r"(sudo|pip|git|docker|rm -r|free|tegrastats|nvidia-smi|florence-\w+|/usr/bin/python3\.10)\b"
)
SENTENCE = r"[A-Z].*(\.|https://\S+|: florence-.*)$"
PC = Board(name="A PC")
MISSING = BackendError("It is not there.")
CLOCK = GpuClock(now=1, limit=1, max=2, governor=None)


def jetson(*release: int) -> Board:
    number = Release(release)
    return Board(name="x", chip="Orin", release=number, jetpack=jetpack_of(number))


NANO = jetson(36, 4, 3)


def check(finding: Finding) -> None:
    if finding.state == "ok":
        assert finding.fix == ""
    else:
        assert re.match(f"{COMMANDS}|{SENTENCE}", finding.fix), finding


@pytest.mark.parametrize("name", BOARDS)
def test_every_finding_of_a_recorded_board_has_its_fix(name: str, tmp_path: Path) -> None:
    for finding in examine.examine(board_tree(name, tmp_path), tmp_path / "no-bundle"):
        check(finding)


TROUBLES = [
    checks_hardware.check_board(replace(PC, chip="Xavier")),
    checks_hardware.check_jetpack(replace(NANO, release=None, jetpack=None)),
    checks_hardware.check_jetpack(jetson(40, 1)),
    checks_hardware.check_jetpack(jetson(36, 3)),
    checks_hardware.check_memory(None, 0, PC),
    checks_hardware.check_memory(Memory(total=2, available=1, swap=0, disk_swap=0), 9, PC),
    checks_hardware.check_memory(Memory(total=2, available=1, swap=0, disk_swap=0), 0, NANO),
    checks_hardware.check_swap(Memory(total=2, available=1, swap=0, disk_swap=0), NANO),
    checks_hardware.check_power_mode(None, (), NANO),
    checks_hardware.check_power_mode(PowerMode(1, "7W"), [PowerMode(0, "MAXN")], NANO),
    checks_hardware.check_gpu_clock(CLOCK, (), NANO),
    checks_hardware.check_gpu_clock(CLOCK, [PowerMode(0, "MAXN")], NANO),
    checks_hardware.check_temperature([Zone(name="tj", celsius=94)]),
    checks_hardware.check_temperature([Zone(name="tj", celsius=105, critical=104)]),
    checks_hardware.check_throttling(["gpu"], {}, NANO),
    checks_hardware.check_throttling([], {"oc1": 1}, NANO),
    checks_hardware.check_rails([], NANO),
    checks_hardware.check_rails(["VDD_FOO"], NANO),
    checks_software.check_python((3, 13), NANO),
    checks_software.check_gpu(MISSING, NANO),
    checks_software.check_gpu(MISSING, PC, driver=True),
    checks_software.check_cuda(None, True, NANO),
    checks_software.check_cuda(None, True, PC),
    checks_software.check_cuda("13.0", True, NANO),
    checks_software.check_tensorrt(MISSING, True, NANO),
    checks_software.check_tensorrt(MISSING, True, PC),
    checks_software.check_tensorrt_library(None, NANO),
    *checks_software.check_onnxruntime(MISSING, version="", tensorrt=True),
    *checks_software.check_onnxruntime(MISSING, version="", tensorrt=False),
    *checks_software.check_onnxruntime(
        [ProviderTrial("CPUExecutionProvider", "x")], version="", tensorrt=False
    ),
    *checks_software.check_onnxruntime(
        [ProviderTrial("CUDAExecutionProvider", "x")], version="", tensorrt=True
    ),
    checks_software.check_disk(0, "/"),
    checks_software.check_disk(2**30, "/"),
    checks_software.check_cameras({"/dev/video0": "x"}, ["/dev/video0"]),
    checks_bundle.load_bundle(Path("/nowhere/a bundle"))[1],
    checks_bundle.judge_answers({"image_features": 1.0}, Device("cpu")),
]


@pytest.mark.parametrize("finding", TROUBLES)
def test_every_invented_trouble_has_its_fix(finding: Finding | None) -> None:
    assert finding is not None
    assert finding.state != "ok"
    check(finding)


def test_troubles_of_a_bundle_have_their_fix(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bundle = Bundle.load(shutil.copytree(tiny_bundle, tmp_path / "a bundle"))

    def broken(*_: object, **__: object) -> object:
        raise BundleError("It does not load.")

    monkeypatch.setattr(checks_bundle, "open_engine", broken)
    (bundle.folder / "engines").mkdir()
    folder = store_engines(bundle, DEVICE)
    (folder / "decoder.plan").write_bytes(b"")
    found = [
        checks_bundle.check_answers(bundle, Device("cpu")),
        checks_bundle.check_answers(bundle, Device("tensorrt")),
        *checks_bundle.check_engines(bundle, DEVICE),
        *checks_bundle.check_engines(bundle, MISSING, needed=True),
    ]
    assert {each.state for each in found} == {"fail", "warn"}
    for finding in found:
        check(finding)
