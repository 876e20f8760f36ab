"""Lines of tegrastats as owners of boards have published them; where from stands at each."""

from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from florence_edge_jetson.power.rails import total_of
from florence_edge_jetson.power.tegrastats import parse

LINES = {
    # Orin Nano, JetPack 6 (a test of another tool's parser quotes it)
    "orin-nano": (
        "08-24-2026 11:19:00 RAM 3172/6284MB (lfb 44x4MB) SWAP 0/3142MB (cached 0MB) "
        "CPU [6%@1510,6%@1510,10%@729,7%@729,29%@729,18%@729] EMC_FREQ 0%@2133 "
        "GR3D_FREQ 26%@[306] NVDEC off NVJPG off VIC_FREQ off APE 200 cpu@46.41C soc2@45.34C "
        "soc0@43.62C gpu@46.03C tj@46.41C soc1@44.38C "
        "VDD_IN 4900mW/5000mW VDD_CPU_GPU_CV 924mW/939mW VDD_SOC 1500mW/1600mW"
    ),
    # AGX Orin, L4T 36.4.4: lesomnus/tegra-exporter
    "agx-orin-jetpack6": (
        "05-09-2026 18:42:06 RAM 18207/62841MB (lfb 466x4MB) SWAP 86/31420MB (cached 0MB) "
        "CPU [14%@2188,5%@2112,8%@2035,14%@2201,off,off] EMC_FREQ 3%@2133 GR3D_FREQ 0%@[0,0] "
        "NVENC 79%@166 NVDEC off VIC 36%@115 PVA0_FREQ off APE 174 cpu@52.562C soc2@48.437C "
        "tj@52.562C VDD_GPU_SOC 2412mW/2412mW VDD_CPU_CV 1607mW/1607mW "
        "VIN_SYS_5V0 4707mW/4707mW"
    ),
    # AGX Orin with both sensors, parts without power, inputs that are not connected
    "agx-orin-two-sensors": (
        "04-11-2025 10:36:27 RAM 4321/62801MB (lfb 1759x4MB) SWAP 19/31400MB (cached 0MB) "
        "CPU [0%@729,0%@729] EMC_FREQ 0%@2133 GR3D_FREQ 0%@[0,0] VIC_FREQ 729 APE 174 CV0@-256C "
        "CPU@44.562C Tboard@32C GPU@-256C tj@44.343C VDD_GPU_SOC 2340mW/2340mW "
        "VDD_CPU_CV 390mW/390mW VIN_SYS_5V0 4025mW/4025mW NC 0mW/0mW "
        "VDDQ_VDD2_1V8AO 301mW/301mW NC 0mW/0mW"
    ),
    # AGX Orin, JetPack 7.2: three numbers a rail, two a temperature
    "agx-orin-jetpack7": (
        "07-25-2026 09:08:28 RAM 20642/62817MB (lfb 1x2MB) CPU [23%@2201,10%@2201] "
        "EMC_FREQ 3%@3199 GR3D_FREQ 12%@[1300,1300] NVENC0 off APE 174 cpu@52.968C/52.968C "
        "gpu@47.625C/47.625C VDD_GPU_SOC 5139mW/5139mW/5139mW VDD_CPU_CV 3268mW/3268mW/3268mW "
        "VIN_SYS_5V0 5500mW/5500mW/5500mW"
    ),
    # Thor, JetPack 7.1: clocks of three clusters, no percentage
    "thor-jetpack7.1": (
        "04-21-2026 15:50:52 RAM 105265/125772MB (lfb 34x4MB) CPU [0%@972,8%@972] "
        "EMC_FREQ 0%@2750 GR3D_FREQ @[314,314,314] NVENC0_FREQ @314 VIC off OFA_FREQ @315 "
        "PVA0_FREQ off APE 300 cpu@37.343C tj@38.875C soc012@37.468C gpu@38.875C "
        "VDD_GPU 1962mW/1962mW VDD_CPU_SOC_MSS 5887mW/5887mW VIN_SYS_5V0 5635mW/5635mW "
        "VIN 19780mW/19780mW"
    ),
    # Thor, JetPack 7.2: no GR3D_FREQ (WendyOS)
    "thor-jetpack7.2": (
        "07-02-2026 13:45:44 RAM 36529/125749MB (lfb 12x4MB) SWAP 11/4096MB (cached 9MB) "
        "CPU [2%@972,1%@972] cpu@60.406C tj@63.281C soc012@58.468C gpu@62.906C "
        "VDD_GPU 37528mW/37528mW/37528mW VDD_CPU_SOC_MSS 18961mW/18961mW/18961mW "
        "VIN_SYS_5V0 18331mW/18331mW/18331mW VIN 87426mW/43713mW/87426mW"
    ),
    # Thor at rest: the GPU's rail below zero
    "thor-at-rest": (
        "05-14-2026 21:36:35 RAM 26063/125772MB (lfb 35x4MB) CPU [2%@972] "
        "VDD_GPU -392mW/-392mW VDD_CPU_SOC_MSS 3924mW/3835mW VIN_SYS_5V0 5064mW/5055mW "
        "VIN 15004mW/15096mW"
    ),
    # Jetson Nano, JetPack 4: no unit, no brackets, no time
    "nano-jetpack4": (
        "RAM 1655/3956MB (lfb 311x4MB) SWAP 0/1978MB (cached 0MB) IRAM 0/252kB(lfb 252kB) "
        "CPU [14%@204,14%@204,10%@204,11%@204] EMC_FREQ 3%@1600 GR3D_FREQ 16%@76 APE 25 PLL@36C "
        "CPU@39C iwlwifi@44C PMIC@50C GPU@37C AO@47C thermal@38C POM_5V_IN 2247/2189 "
        "POM_5V_GPU 78/78 POM_5V_CPU 275/275"
    ),
    # Xavier-style rails, JetPack 4 and 5
    "xavier-nx": "RAM 3347/7467MB GR3D_FREQ 61% APE 150 VDD_IN 5336/4970 "
    "VDD_CPU_GPU_CV 2617/2336 VDD_SOC 1478/1318",
    "agx-xavier": "GR3D_FREQ 0%@318 GPU 1082/1082 CPU 154/154 SOC 1239/1239 CV 0/0 "
    "VDDRQ 154/154 SYS5V 1452/1452",
}


@pytest.mark.parametrize(
    ("name", "rails", "watts"),
    [
        ("orin-nano", ("VDD_IN",), 4.9),
        ("agx-orin-jetpack6", ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"), 2.412 + 1.607 + 4.707),
        ("agx-orin-two-sensors", ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"), 6.755),
        ("agx-orin-jetpack7", ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"), 13.907),
        ("thor-jetpack7.1", ("VIN",), 19.78),
        ("thor-jetpack7.2", ("VIN",), 87.426),
        ("thor-at-rest", ("VIN",), 15.004),
        ("nano-jetpack4", ("POM_5V_IN",), 2.247),
        ("xavier-nx", ("VDD_IN",), 5.336),
        ("agx-xavier", ("GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"), 4.081),
    ],
)
def test_the_total_of_each_generation(name: str, rails: tuple[str, ...], watts: float) -> None:
    found = parse(LINES[name]).watts
    total = total_of(found)
    assert total.rails == rails
    assert sum(found[rail] for rail in total.rails) == pytest.approx(watts)


@pytest.mark.parametrize(
    ("name", "percent", "mhz"),
    [
        ("orin-nano", 26, (306,)),
        ("agx-orin-jetpack6", 0, (0, 0)),
        ("agx-orin-jetpack7", 12, (1300, 1300)),
        ("thor-jetpack7.1", None, (314, 314, 314)),
        ("thor-jetpack7.2", None, ()),
        ("nano-jetpack4", 16, (76,)),
        ("xavier-nx", 61, ()),
    ],
)
def test_the_gpus_load_and_clocks_where_they_are_given(
    name: str, percent: int | None, mhz: tuple[int, ...]
) -> None:
    stats = parse(LINES[name])
    assert (stats.gpu_percent, stats.gpu_mhz) == (percent, mhz)


def test_negative_power_is_kept() -> None:
    assert parse(LINES["thor-at-rest"]).watts["VDD_GPU"] == -0.392


def test_only_rails_count_as_rails() -> None:
    assert set(parse(LINES["nano-jetpack4"]).watts) == {"POM_5V_IN", "POM_5V_GPU", "POM_5V_CPU"}
    assert set(parse(LINES["agx-orin-two-sensors"]).watts) == {
        "VDD_GPU_SOC",
        "VDD_CPU_CV",
        "VIN_SYS_5V0",
        "VDDQ_VDD2_1V8AO",
    }


def test_temperatures_come_without_sensors_that_are_off() -> None:
    assert parse(LINES["agx-orin-two-sensors"]).temperatures == {
        "CPU": 44.562,
        "Tboard": 32.0,
        "tj": 44.343,
    }
    assert parse(LINES["agx-orin-jetpack7"]).temperatures == {"cpu": 52.968, "gpu": 47.625}


def test_time_and_memory_where_they_are_given() -> None:
    stats = parse(LINES["thor-jetpack7.2"])
    assert stats.time == datetime(2026, 7, 2, 13, 45, 44)
    assert stats.ram == (36529, 125749)
    assert parse(LINES["nano-jetpack4"]).time is None
    assert parse(LINES["agx-xavier"]).ram is None


@pytest.mark.parametrize("line", ["", "\n", "tegrastats: not found", "RAM x/yMB VDD_IN mW/mW"])
def test_what_is_no_line_of_tegrastats_states_nothing(line: str) -> None:
    stats = parse(line)
    assert stats.watts == {}
    assert stats.temperatures == {}
    assert (stats.time, stats.ram, stats.gpu_percent, stats.gpu_mhz) == (None, None, None, ())


WORDS = sorted({word for line in LINES.values() for word in line.split()})
TEXT = st.lists(st.one_of(st.sampled_from(WORDS), st.text(max_size=12))).map(" ".join)


@given(TEXT)
def test_no_line_is_an_error(line: str) -> None:
    stats = parse(line)
    assert all(isinstance(watts, float) for watts in stats.watts.values())


@given(st.sampled_from(sorted(LINES)), st.integers(0, 600))
def test_a_line_that_was_cut_short_states_no_wrong_power(name: str, length: int) -> None:
    whole = parse(LINES[name]).watts
    cut = LINES[name][:length].rpartition(" ")[0]  # the last word may be half a number
    assert parse(cut).watts.items() <= whole.items()


def test_digits_that_are_no_date_are_passed_over() -> None:
    assert parse("99-99-2026 12:00:00 VDD_IN 4900mW/5000mW").time is None
