"""Every check, as it comes out good, doubtful and bad."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from florence_edge.backends.provider_trial import ProviderTrial
from florence_edge.errors import BackendError
from florence_edge.tensorrt.driver import GpuInfo
from florence_edge.tensorrt.install import TensorRT
from florence_edge_jetson.doctor import checks_hardware, checks_software
from florence_edge_jetson.doctor.findings import Finding, exit_status, fail, ok, table, warn, worst
from florence_edge_jetson.machine.board import Board, Release, jetpack_of
from florence_edge_jetson.machine.clocks import GpuClock, PowerMode
from florence_edge_jetson.machine.system import GIB, Memory
from florence_edge_jetson.machine.thermal import Zone

PC = Board(name="A PC")
NANO = Board(
    name="Orin Nano",
    chip="Orin",
    compute_capability="8.7",
    module="Orin Nano 8GB",
    release=Release((36, 4, 3)),
    jetpack=jetpack_of(Release((36, 4, 3))),
)
ORIN = GpuInfo(name="Orin", compute_capability="8.7", multiprocessors=8, driver="12.6")
NO_DRIVER = BackendError("There is no NVIDIA driver here.")


def on(*numbers: int) -> Board:
    release = Release(numbers)
    return replace(NANO, release=release, jetpack=jetpack_of(release))


def state(finding: Finding | None) -> str:
    assert finding is not None
    return finding.state


def test_boards() -> None:
    assert checks_hardware.check_board(PC) == ok("board", "A PC (not a Jetson)")
    assert checks_hardware.check_board(NANO) == ok("board", "Orin Nano (Orin Nano 8GB, SM 8.7)")
    xavier = checks_hardware.check_board(
        Board(name="Xavier NX", chip="Xavier", compute_capability="7.2")
    )
    assert xavier.state == "fail"
    assert "JetPack 6.1" in xavier.found


def test_jetpacks() -> None:
    assert checks_hardware.check_jetpack(PC) is None
    assert state(checks_hardware.check_jetpack(NANO)) == "ok"
    assert state(checks_hardware.check_jetpack(on(40, 1))) == "warn"
    old = checks_hardware.check_jetpack(on(36, 3))
    assert old is not None
    assert (old.state, "JetPack 6.0" in old.found) == ("fail", True)
    assert "Flash JetPack 6.2" in old.fix


def test_a_container_without_the_release_file_is_told_how_to_pass_it_in() -> None:
    finding = checks_hardware.check_jetpack(replace(NANO, release=None, jetpack=None))
    assert finding is not None
    assert (finding.state, "-v /etc/nv_tegra_release" in finding.fix) == ("warn", True)


@pytest.mark.parametrize(
    ("available", "needed", "expected"),
    [(3 * GIB, GIB, "ok"), (GIB + 1, GIB, "warn"), (GIB // 2, GIB, "fail"), (GIB, 0, "ok")],
)
def test_memory(available: int, needed: int, expected: str) -> None:
    memory = Memory(total=8 * GIB, available=available, swap=0, disk_swap=0)
    finding = checks_hardware.check_memory(memory, needed, NANO)
    assert finding.state == expected
    assert bool(finding.fix) == (expected != "ok")


def test_memory_that_is_not_known() -> None:
    assert checks_hardware.check_memory(None, GIB, PC).state == "warn"


def test_swap() -> None:
    small = Memory(total=8 * GIB, available=GIB, swap=4 * GIB, disk_swap=0)
    assert checks_hardware.check_swap(small, PC) is None
    assert checks_hardware.check_swap(None, NANO) is None
    finding = checks_hardware.check_swap(small, NANO)
    assert state(finding) == "warn"
    assert finding is not None
    assert "zram" in finding.found
    assert "mkswap" in finding.fix
    assert state(checks_hardware.check_swap(replace(small, disk_swap=4 * GIB), NANO)) == "ok"
    assert state(checks_hardware.check_swap(replace(small, total=64 * GIB), NANO)) == "ok"


def test_power_modes() -> None:
    slow, fast = PowerMode(0, "15W"), PowerMode(2, "MAXN_SUPER")
    assert checks_hardware.check_power_mode(slow, (slow, fast), PC) is None
    assert state(checks_hardware.check_power_mode(fast, (slow, fast), NANO)) == "ok"
    finding = checks_hardware.check_power_mode(slow, (slow, fast), NANO)
    assert finding == warn(
        "power mode", "15W (mode 0); the fastest is MAXN_SUPER", "sudo nvpmodel -m 2"
    )
    assert state(checks_hardware.check_power_mode(None, (), NANO)) == "warn"


def test_clocks() -> None:
    clock = GpuClock(now=306, limit=1020, max=1020, governor="nvhost_podgov")
    assert checks_hardware.check_gpu_clock(clock, (), PC) is None
    assert checks_hardware.check_gpu_clock(None, (), NANO) is None
    assert state(checks_hardware.check_gpu_clock(clock, (), NANO)) == "ok"
    held = replace(clock, limit=624)
    finding = checks_hardware.check_gpu_clock(held, (PowerMode(2, "MAXN_SUPER"),), NANO)
    assert finding is not None
    assert (finding.state, finding.fix) == ("warn", "sudo nvpmodel -m 2")  # as for power mode


@pytest.mark.parametrize(
    ("celsius", "expected"), [(60.0, "ok"), (89.0, "warn"), (99.0, "warn"), (104.5, "fail")]
)
def test_temperatures(celsius: float, expected: str) -> None:
    cool = Zone(name="cpu", celsius=40.0)
    zone = Zone(name="tj", celsius=celsius, throttles=99.0, critical=104.5)
    assert state(checks_hardware.check_temperature([cool, zone])) == expected


def test_the_zone_nearest_to_its_own_limit_is_the_one_that_matters() -> None:
    zones = [
        Zone(name="gpu", celsius=80.0, throttles=114.5),
        Zone(name="board", celsius=70.0, throttles=72.0),
    ]
    finding = checks_hardware.check_temperature(zones)
    assert finding is not None
    assert (finding.state, finding.found.startswith("board 70 C")) == ("warn", True)
    assert checks_hardware.check_temperature([]) is None


def test_a_zone_without_limits_matters_only_where_none_has_any() -> None:
    bare = Zone(name="cpu", celsius=88.0)
    finding = checks_hardware.check_temperature([bare])
    assert finding is not None
    assert (finding.state, finding.found) == ("warn", "cpu 88 C, no known limit, 95 C assumed")
    limited = Zone(name="gpu", celsius=48.0, critical=114.5)
    assert checks_hardware.check_temperature([bare, limited]) == ok(
        "temperature", "gpu 48 C, off at 114 C"
    )


def test_throttling() -> None:
    assert checks_hardware.check_throttling([], {}, PC) is None
    assert state(checks_hardware.check_throttling([], {"under-voltage": 0}, NANO)) == "ok"
    events = checks_hardware.check_throttling([], {"under-voltage": 3, "other": 0}, NANO)
    assert events is not None
    assert (events.state, events.found) == ("warn", "Since the start: 3 x under-voltage.")
    assert state(checks_hardware.check_throttling(["gpu"], {}, NANO)) == "warn"


def test_rails() -> None:
    assert checks_hardware.check_rails(["VDD_IN"], PC) is None
    assert state(checks_hardware.check_rails(["VDD_IN", "VDD_SOC"], NANO)) == "ok"
    assert state(checks_hardware.check_rails([], NANO)) == "warn"
    assert state(checks_hardware.check_rails(["VDD_FOO"], NANO)) == "warn"


def test_pythons() -> None:
    assert checks_software.check_python((3, 13), PC).state == "ok"
    assert checks_software.check_python((3, 10), NANO).state == "ok"
    wrong = checks_software.check_python((3, 12), NANO)
    assert wrong.state == "warn"
    assert wrong.fix == "/usr/bin/python3.10 -m venv --system-site-packages .venv"


def test_gpus() -> None:
    assert checks_software.check_gpu(ORIN, NANO).state == "ok"
    assert checks_software.check_gpu(NO_DRIVER, PC).state == "ok"
    assert checks_software.check_gpu(NO_DRIVER, PC, driver=True).state == "fail"
    assert checks_software.check_gpu(NO_DRIVER, NANO).state == "fail"


def test_cudas() -> None:
    assert checks_software.check_cuda(None, False, PC) is None
    assert state(checks_software.check_cuda(None, True, PC)) == "warn"
    assert state(checks_software.check_cuda(None, True, NANO)) == "fail"
    assert state(checks_software.check_cuda("12.6.11", True, NANO)) == "ok"
    assert state(checks_software.check_cuda("13.0", True, NANO)) == "warn"
    assert state(checks_software.check_cuda("13.0", True, PC)) == "ok"


def test_tensorrts() -> None:
    found = TensorRT(SimpleNamespace(), "tensorrt", "10.3.0")
    missing = BackendError("TensorRT is not installed. apt install python3-libnvinfer")
    assert checks_software.check_tensorrt(found, True, NANO) == ok("tensorrt", "10.3.0")
    assert checks_software.check_tensorrt(missing, False, PC).state == "ok"
    assert checks_software.check_tensorrt(missing, True, NANO).state == "fail"
    assert "pip install" in checks_software.check_tensorrt(missing, True, PC).fix
    assert checks_software.check_tensorrt_library(None, PC) is None
    assert state(checks_software.check_tensorrt_library(None, NANO)) == "fail"
    assert state(checks_software.check_tensorrt_library("10.3.0", NANO)) == "ok"


def test_providers_are_judged_one_by_one() -> None:
    trials = (
        ProviderTrial("CUDAExecutionProvider", "no kernel image"),
        ProviderTrial("CPUExecutionProvider"),
    )
    cuda, cpu = checks_software.check_onnxruntime(trials, version="1.32.0", tensorrt=False)
    assert (cuda.state, "lists CUDA" in cuda.found, "no kernel image" in cuda.found) == (
        "warn",
        True,
        True,
    )
    assert cpu == ok("onnxruntime", "1.32.0: CPU ran a kernel")
    (broken,) = checks_software.check_onnxruntime(
        (ProviderTrial("CPUExecutionProvider", "illegal instruction"),),
        version="1.32.0",
        tensorrt=True,
    )
    assert broken.state == "fail"


def test_no_onnxruntime_is_bad_only_where_it_is_the_only_engine() -> None:
    missing = BackendError("ONNX Runtime cannot be imported.")
    (alone,) = checks_software.check_onnxruntime(missing, version="", tensorrt=False)
    (beside,) = checks_software.check_onnxruntime(missing, version="", tensorrt=True)
    assert (alone.state, beside.state) == ("fail", "warn")
    assert "[cpu]" in alone.fix


@pytest.mark.parametrize(
    ("free", "expected"), [(20 * GIB, "ok"), (3 * GIB, "warn"), (GIB // 4, "fail")]
)
def test_disks(free: int, expected: str) -> None:
    assert checks_software.check_disk(free, "/").state == expected


def test_cameras() -> None:
    cameras = {"/dev/video0": "imx219"}
    assert checks_software.check_cameras({}) == ok("cameras", "none")
    assert checks_software.check_cameras(cameras) == ok("cameras", "/dev/video0 (imx219)")
    closed = checks_software.check_cameras(cameras, ["/dev/video0"])
    assert closed.state == "warn"
    assert "usermod -aG video" in closed.fix


def test_the_worst_finding_decides() -> None:
    assert worst([]) == "ok"
    assert worst([ok("a", ""), warn("b", "", "x")]) == "warn"
    assert worst([warn("b", "", "x"), fail("c", "", "x"), ok("a", "")]) == "fail"


@pytest.mark.parametrize(
    ("bad", "thorough", "quick"),
    [("disk", 1, 0), ("memory", 1, 0), ("gpu", 1, 0), ("bundle", 1, 1), ("engines", 1, 1)],
)
def test_a_quick_examination_fails_for_bundle_and_engines_alone(
    bad: str, thorough: int, quick: int
) -> None:
    findings = [ok("board", ""), warn("swap", "", "x"), fail(bad, "", "x")]
    assert exit_status(findings, quick=False) == thorough
    assert exit_status(findings, quick=True) == quick
    assert exit_status([warn(bad, "", "x")], quick=False) == 0


def test_the_table_shows_what_fixes_below_what_was_found() -> None:
    findings = [ok("gpu", "Orin"), warn("power mode", "15W", "sudo nvpmodel -m 2")]
    findings.append(fail("x", "y", "z"))
    assert table(findings) == (
        "  ok    gpu         Orin\n"
        "  warn  power mode  15W\n"
        "                    -> sudo nvpmodel -m 2\n"
        "  fail  x           y\n"
        "                    -> z\n"
        "\n"
        "  1 ok, 1 warning, 1 failure."
    )


def test_long_findings_wrap_and_commands_do_not() -> None:
    finding = warn("swap", "word " * 30, "sudo " + "x" * 200)
    lines = table([finding], width=60).splitlines()
    assert all(len(line) <= 60 for line in lines if "->" not in line)
    assert any(line.endswith("x" * 200) for line in lines)


def test_colour_only_touches_the_state() -> None:
    plain, coloured = table([ok("gpu", "x")]), table([ok("gpu", "x")], colour=True)
    assert coloured.replace("\033[32m", "").replace("\033[0m", "") == plain
    assert coloured != plain
