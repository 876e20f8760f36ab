import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from florence_edge import errors
from florence_edge_jetson.machine.system import Tree
from florence_edge_jetson.power.meter import open_meter, sysfs_meter, tegrastats_meter
from florence_edge_jetson.power.nvml import open_gpu
from florence_edge_jetson.power.rails import find_rails, read_watts, total_of

from .recorded_boards import board_tree, write_tree


@pytest.mark.parametrize(
    ("name", "rails", "watts"),
    [
        ("orin-nano", ("VDD_IN",), 4.984 * 1.856),
        ("orin-nx", ("VDD_IN",), 5.016 * 1.148),
        # VDDQ_VDD2_1V8AO is fed by VIN_SYS_5V0 and not counted again
        ("agx-orin", ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"), 2.4 + 0.8 + 4.0),
        ("thor", ("VIN",), 20.986),
    ],
)
def test_each_board_has_its_total(
    name: str, rails: tuple[str, ...], watts: float, tmp_path: Path
) -> None:
    meter = sysfs_meter(board_tree(name, tmp_path))
    assert meter.rails == rails
    assert meter.source == "hwmon"
    assert meter.watts() == pytest.approx(watts)


def test_rails_are_found_by_label_and_not_by_number(tmp_path: Path) -> None:
    tree = board_tree("agx-orin", tmp_path)
    rails = find_rails(tree)
    assert set(rails) == {"VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0", "VDDQ_VDD2_1V8AO"}
    (tmp_path / "sys/class/hwmon/hwmon3").rename(tmp_path / "sys/class/hwmon/hwmon11")
    assert set(find_rails(tree)) == set(rails)
    assert sysfs_meter(tree).watts() == pytest.approx(7.2)


def test_the_sum_of_shunts_is_no_rail(tmp_path: Path) -> None:
    assert set(find_rails(board_tree("orin-nano", tmp_path))) == {
        "VDD_IN",
        "VDD_CPU_GPU_CV",
        "VDD_SOC",
    }


def test_a_rail_near_zero_may_read_negative(tmp_path: Path) -> None:
    tree = board_tree("thor", tmp_path)
    assert read_watts(tree, find_rails(tree)["VDD_GPU"]) == pytest.approx(-0.397, abs=1e-3)


def test_thor_without_the_kits_own_sensor_sums_the_modules_rails(tmp_path: Path) -> None:
    tree = board_tree("thor", tmp_path, hwmon4_name=None)
    assert sysfs_meter(tree).rails == ("VDD_GPU", "VDD_CPU_SOC_MSS", "VIN_SYS_5V0")


def test_a_sensor_that_falls_silent_gives_no_part_of_a_sum(tmp_path: Path) -> None:
    tree = board_tree("agx-orin", tmp_path)
    meter = sysfs_meter(tree)
    tree.path("/sys/class/hwmon/hwmon3/curr2_input").write_text("busy")
    assert meter.watts() is None


def test_rails_can_be_requested(tmp_path: Path) -> None:
    meter = sysfs_meter(board_tree("orin-nano", tmp_path), ["VDD_CPU_GPU_CV"])
    assert meter.rails == ("VDD_CPU_GPU_CV",)
    assert meter.watts() == pytest.approx(4.976 * 0.312)


def test_a_rail_that_is_not_there_is_refused_with_those_that_are() -> None:
    with pytest.raises(errors.RequestError, match=r"There is no rail VIN.* VDD_IN, VDD_SOC"):
        total_of(["VDD_IN", "VDD_SOC"], ["VIN"])


def test_unknown_rails_are_not_added_up_blindly() -> None:
    with pytest.raises(errors.BackendError, match="--rails A,B"):
        total_of(["VDD_FOO", "VDD_FOO_PART"])


def test_alerts_and_counters_come_along(tmp_path: Path) -> None:
    meter = sysfs_meter(board_tree("thor", tmp_path))
    assert meter.alerts() == {"gpu"}
    assert meter.counters() == {"under-voltage": 0, "instantaneous over-current": 179}


def fake_tegrastats(*lines: str) -> list[str]:
    """Says a line every tenth of a second, then nothing."""
    said = f"for line in {lines!r}: print(line, flush=True); time.sleep(0.1)"
    return [sys.executable, "-c", f"import time\n{said}\ntime.sleep(60)"]


def test_tegrastats_is_read_line_by_line_until_it_is_closed(tmp_path: Path) -> None:
    lines = [f"RAM 1/2MB VDD_IN {watts}mW/1mW VDD_SOC 1mW/1mW" for watts in (4000, 5000, 6000)]
    meter = tegrastats_meter(Tree(tmp_path), (), fake_tegrastats(*lines))
    try:
        assert (meter.source, meter.rails, meter.paced) == ("tegrastats", ("VDD_IN",), True)
        assert [meter.watts(), meter.watts()] == [5.0, 6.0]  # the first named the rails
    finally:
        meter.close()
    with pytest.raises(errors.BackendError, match="tegrastats ended"):
        meter.watts()


def test_tegrastats_that_falls_silent_is_an_error_and_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    program = deaf + "print('RAM 1/2MB VDD_IN 5000mW/1mW', flush=True); time.sleep(60)"
    meter = tegrastats_meter(Tree(tmp_path), (), [sys.executable, "-c", program])
    monkeypatch.setattr("florence_edge_jetson.power.tegrastats._SILENCE", 1.0)
    begin = time.monotonic()
    with pytest.raises(errors.BackendError, match="printed nothing for 1 s"):
        meter.watts()
    meter.close()  # which it does not obey
    assert time.monotonic() - begin < 10


def test_lines_of_the_past_are_not_taken_for_the_present(tmp_path: Path) -> None:
    lines = [f"RAM 1/2MB VDD_IN {watts}mW/1mW" for watts in range(1000, 100_000, 1000)]
    meter = tegrastats_meter(Tree(tmp_path), (), fake_tegrastats(*lines))
    try:
        before = meter.watts()
        time.sleep(0.5)  # a warm-up; some five lines are said meanwhile
        after = meter.watts()
    finally:
        meter.close()
    assert before is not None
    assert after is not None
    assert after - before >= 3


def test_tegrastats_that_ends_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(errors.BackendError, match="tegrastats ended"):
        tegrastats_meter(Tree(tmp_path), (), [sys.executable, "-c", ""])
    with pytest.raises(errors.BackendError, match="cannot be started"):
        tegrastats_meter(Tree(tmp_path), (), [str(tmp_path / "tegrastats")])


class FakeNvml(SimpleNamespace):
    class NVMLError(Exception):
        pass

    def __init__(self, *, counts: bool = True, measures: bool = True) -> None:
        super().__init__(counts=counts, measures=measures, closed=False)

    def nvmlInit(self) -> None: ...

    def nvmlShutdown(self) -> None:
        self.closed = True

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        if index != 0:
            raise self.NVMLError("Invalid Argument")
        return index

    def nvmlDeviceGetName(self, handle: int) -> bytes:
        return b"NVIDIA L4"

    def nvmlDeviceGetPowerUsage(self, handle: int) -> int:
        if not self.measures:
            raise self.NVMLError("Not Supported")
        return 31_500

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: int) -> int:
        if not self.counts:
            raise self.NVMLError("Not Supported")
        return 1_234_000

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle: int) -> int:
        return 0x44


def test_a_desktop_gpu_measures_through_nvml() -> None:
    gpu = open_gpu(0, FakeNvml())
    assert gpu.name == "NVIDIA L4"
    assert gpu.watts() == 31.5
    assert gpu.joules is not None
    assert gpu.joules() == 1234.0
    assert gpu.alerts() == {"power limit", "heat, by the hardware"}


def test_an_old_gpu_that_does_not_count_energy_still_has_its_power() -> None:
    gpu = open_gpu(0, FakeNvml(counts=False))
    assert gpu.joules is None
    assert gpu.watts() == 31.5


def test_a_gpu_that_is_not_there_or_measures_nothing_is_an_error() -> None:
    with pytest.raises(errors.BackendError, match="GPU 3: Invalid Argument"):
        open_gpu(3, FakeNvml())
    with pytest.raises(errors.BackendError, match="Not Supported"):
        open_gpu(0, FakeNvml(measures=False))


def test_a_gpu_that_stops_answering_gives_no_sample() -> None:
    nvml = FakeNvml()
    gpu = open_gpu(0, nvml)
    nvml.measures = nvml.counts = False
    assert gpu.watts() is None
    assert gpu.joules is not None
    with pytest.raises(errors.BackendError, match="stopped counting"):
        gpu.joules()


def test_a_machine_without_any_meter_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(errors.MissingPackageError, match=r"pip install .*\[nvml\]'"):
        open_meter(write_tree(tmp_path, {"/proc/uptime": "1"}))


def test_sensors_in_sysfs_come_first(tmp_path: Path) -> None:
    assert open_meter(board_tree("orin-nano", tmp_path)).source == "hwmon"
