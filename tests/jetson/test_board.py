from pathlib import Path

import pytest

from florence_edge_jetson.machine.board import Release, jetpack_of, read_board, read_release
from florence_edge_jetson.machine.clocks import (
    PowerMode,
    fastest,
    read_gpu_clock,
    read_power_mode,
    read_power_modes,
)
from florence_edge_jetson.machine.system import GIB, Tree, read_memory
from florence_edge_jetson.machine.thermal import active_alerts, over_current_events, read_zones

from .recorded_boards import board_tree, write_tree


@pytest.mark.parametrize(
    ("name", "chip", "capability", "module", "release", "jetpack", "tensorrt", "python"),
    [
        ("orin-nano", "Orin", "8.7", "Orin Nano 8GB", "R36.4.3", "6.2", "10.3", "3.10"),
        ("orin-nx", "Orin", "8.7", "Orin NX 16GB", "R36.4.7", "6.2.1", "10.3", "3.10"),
        ("agx-orin", "Orin", "8.7", "AGX Orin 64GB", "R39.2.0", "7.2", "10.16", "3.12"),
        ("thor", "Thor", "11.0", "Thor T5000", "R38.4.0", "7.1", "10.13", "3.12"),
    ],
)
def test_each_board_is_told_from_its_files(
    name: str,
    chip: str,
    capability: str,
    module: str,
    release: str,
    jetpack: str,
    tensorrt: str,
    python: str,
    tmp_path: Path,
) -> None:
    board = read_board(board_tree(name, tmp_path))
    assert board.name.startswith("NVIDIA Jetson")
    assert (board.chip, board.compute_capability, board.module) == (chip, capability, module)
    assert board.is_jetson
    assert str(board.release) == release
    assert board.jetpack is not None
    assert board.jetpack.usable
    assert (board.jetpack.version, board.jetpack.tensorrt) == (jetpack, tensorrt)
    assert board.jetpack.python == python


def test_a_container_that_masks_the_device_tree_still_shows_the_chip(tmp_path: Path) -> None:
    tree = write_tree(
        tmp_path,
        {
            "/sys/devices/soc0/family": "Tegra\n",
            "/sys/devices/soc0/soc_id": "35\n",
            "/sys/devices/soc0/machine": "NVIDIA Jetson Orin Nano Developer Kit\n",
        },
    )
    board = read_board(tree)
    assert (board.name, board.chip) == ("NVIDIA Jetson Orin Nano Developer Kit", "Orin")
    assert board.release is None


def test_a_pc_is_no_jetson(tmp_path: Path) -> None:
    cpuinfo = "processor\t: 0\nmodel name\t: Some CPU @ 3.00GHz\n"
    board = read_board(write_tree(tmp_path, {"/proc/cpuinfo": cpuinfo}))
    assert board.name == "Some CPU @ 3.00GHz"
    assert not board.is_jetson
    assert board.compute_capability is None


def test_an_arm_board_of_another_maker_is_no_jetson(tmp_path: Path) -> None:
    files = {
        "/proc/device-tree/model": "Raspberry Pi 5 Model B\0",
        "/proc/device-tree/compatible": "raspberrypi,5-model-b\0brcm,bcm2712\0",
    }
    board = read_board(write_tree(tmp_path, files))
    assert (board.name, board.is_jetson) == ("Raspberry Pi 5 Model B", False)


@pytest.mark.parametrize(
    ("numbers", "version", "usable"),
    [
        ((32, 7, 4), "4.x", False),
        ((35, 6, 1), "5.x", False),
        ((36, 3, 0), "6.0", False),
        ((36, 4, 0), "6.1", True),
        ((36, 5, 2), "6.2.2", True),
        ((38, 2, 1), "7.0", True),
        ((39, 2, 1), "7.2", True),
    ],
)
def test_releases_belong_to_a_jetpack(numbers: tuple[int, ...], version: str, usable: bool) -> None:
    jetpack = jetpack_of(Release(numbers))
    assert jetpack is not None
    assert (jetpack.version, jetpack.usable) == (version, usable)


def test_releases_beyond_the_table_have_no_jetpack() -> None:
    assert jetpack_of(Release((40, 1, 0))) is None
    assert jetpack_of(Release((28, 2, 1))) is None


def test_a_release_file_of_something_else_is_none(tmp_path: Path) -> None:
    assert read_release(write_tree(tmp_path, {"/etc/nv_tegra_release": "not a release\n"})) is None
    assert read_release(Tree(tmp_path / "nowhere")) is None


def test_swap_on_disk_is_told_from_swap_in_memory(tmp_path: Path) -> None:
    nano = read_memory(board_tree("orin-nano", tmp_path / "nano"))
    nx = read_memory(board_tree("orin-nx", tmp_path / "nx"))
    assert nano is not None
    assert nx is not None
    assert nano.total == 7650336 << 10
    assert nano.available == 5101244 << 10
    assert (nano.disk_swap, round(nano.swap / GIB, 1)) == (0, 3.6)
    assert round(nx.disk_swap / GIB, 1) == 8.0
    assert read_memory(Tree(tmp_path / "nowhere")) is None


def test_the_power_mode_comes_with_this_boards_own_numbers(tmp_path: Path) -> None:
    nano = board_tree("orin-nano", tmp_path / "nano")
    thor = board_tree("thor", tmp_path / "thor")
    assert read_power_mode(nano) == PowerMode(1, "25W")
    assert fastest(read_power_modes(nano)) == PowerMode(2, "MAXN_SUPER")
    assert read_power_mode(thor) == PowerMode(1, "120W")
    assert fastest(read_power_modes(thor)) == PowerMode(0, "MAXN")


def test_a_live_machine_is_asked_by_nvpmodel() -> None:
    assert read_power_mode(Tree(), lambda: "NV Power Mode: MAXN_SUPER\n2\n") == PowerMode(
        2, "MAXN_SUPER"
    )


def test_a_recording_is_never_asked(tmp_path: Path) -> None:
    def query() -> str:
        raise AssertionError("asked")

    assert read_power_mode(board_tree("orin-nx", tmp_path), query) == PowerMode(0, "MAXN")
    assert read_power_mode(Tree(tmp_path / "nowhere"), query) is None


def test_modes_are_read_whatever_the_order_of_their_fields(tmp_path: Path) -> None:
    conf = "< POWER_MODEL NAME=MAXN ID=3 >\n<POWER_MODEL ID=x NAME=BROKEN>\n< PARAM NAME=Y >\n"
    tree = write_tree(tmp_path, {"/etc/nvpmodel.conf": conf})
    assert read_power_modes(tree) == (PowerMode(3, "MAXN"),)


def test_the_gpus_clock_is_found_among_the_others(tmp_path: Path) -> None:
    nano = read_gpu_clock(board_tree("orin-nano", tmp_path / "nano"))
    thor = read_gpu_clock(board_tree("thor", tmp_path / "thor"))
    assert nano is not None
    assert thor is not None
    assert (nano.now, nano.limit, nano.max, nano.governor) == (306, 918, 1020, "nvhost_podgov")
    assert (thor.now, thor.limit, thor.max, thor.governor) == (315, 1575, 1575, None)
    assert read_gpu_clock(board_tree("orin-nx", tmp_path / "nx")) is None


def test_zones_come_hottest_first_without_those_that_are_off(tmp_path: Path) -> None:
    nano = read_zones(board_tree("orin-nano", tmp_path / "nano"))
    agx = read_zones(board_tree("agx-orin", tmp_path / "agx"))
    assert [zone.name for zone in nano] == ["tj", "cpu"]  # cv0 does not answer
    assert (nano[0].celsius, nano[0].throttles, nano[0].critical) == (64.125, 99.0, 104.5)
    assert [zone.name for zone in agx] == ["cpu"]  # the GPU says -256


def test_only_alerts_count_as_throttling_not_fans_and_frequency_steps(tmp_path: Path) -> None:
    assert active_alerts(board_tree("thor", tmp_path / "thor")) == {"gpu"}
    assert active_alerts(board_tree("orin-nano", tmp_path / "nano")) == frozenset()


def test_over_current_events_have_names(tmp_path: Path) -> None:
    assert over_current_events(board_tree("orin-nano", tmp_path)) == {
        "under-voltage": 1,
        "average over-current": 0,
        "instantaneous over-current": 2,
    }
