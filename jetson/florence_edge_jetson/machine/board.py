"""Which machine this is: a Jetson, which one, and which JetPack it runs; or something else."""

import platform
import re
from dataclasses import dataclass

from florence_edge.tensorrt.driver import L4T_RELEASE, l4t_release

from .system import Tree, cpu_model


@dataclass(frozen=True, slots=True)
class Release:
    """A release of Jetson Linux (L4T), such as R36.4.3."""

    numbers: tuple[int, ...]

    def __str__(self) -> str:
        return "R" + ".".join(map(str, self.numbers))


@dataclass(frozen=True, slots=True, kw_only=True)
class JetPack:
    """A JetPack and the versions in it; `usable` means TensorRT 10.3 or later."""

    version: str
    cuda: str
    tensorrt: str
    python: str
    usable: bool = True


def _jetpack_6(version: str) -> JetPack:
    return JetPack(version=version, cuda="12.6", tensorrt="10.3", python="3.10")


# First release of Jetson Linux that belongs to each JetPack. Versions: NVIDIA's release notes and
# logs from devices, collected in the project's design notes.
_FIRST_RELEASES: dict[tuple[int, ...], JetPack] = {
    (32, 1): JetPack(version="4.x", cuda="10.2", tensorrt="8.2", python="3.6", usable=False),
    (34, 1): JetPack(version="5.x", cuda="11.4", tensorrt="8.5", python="3.8", usable=False),
    (36, 2): JetPack(version="6.0", cuda="12.2", tensorrt="8.6", python="3.10", usable=False),
    (36, 4): _jetpack_6("6.1"),
    (36, 4, 3): _jetpack_6("6.2"),
    (36, 4, 4): _jetpack_6("6.2.1"),
    (36, 5): _jetpack_6("6.2.2"),
    (38, 2): JetPack(version="7.0", cuda="13.0", tensorrt="10.13", python="3.12"),
    (38, 4): JetPack(version="7.1", cuda="13.0", tensorrt="10.13", python="3.12"),
    (39, 2): JetPack(version="7.2", cuda="13.2", tensorrt="10.16", python="3.12"),
}


def read_release(tree: Tree) -> Release | None:
    """The release in the first line of /etc/nv_tegra_release; None where there is none.

    "# R36 (release), REVISION: 4.3, GCID: 38968081, ..." is R36.4.3.
    """
    numbers = l4t_release(tree.path(L4T_RELEASE.as_posix()))
    return None if numbers is None else Release(tuple(map(int, numbers.split("."))))


def jetpack_of(release: Release) -> JetPack | None:
    """The JetPack of a release; None for one that is newer than this table.

    A revision that the table does not list belongs to the JetPack before it (R36.4.7 to 6.2.1).
    """
    majors = {first[0] for first in _FIRST_RELEASES}
    older = [first for first in _FIRST_RELEASES if first <= release.numbers]
    if release.numbers[0] not in majors and release.numbers[0] > max(majors):
        return None
    return _FIRST_RELEASES[max(older)] if older else None


# Compute capability of each Tegra: https://developer.nvidia.com/cuda-gpus
_CHIPS = {
    "tegra210": ("X1", "5.3"),
    "tegra186": ("Parker", "6.2"),
    "tegra194": ("Xavier", "7.2"),
    "tegra234": ("Orin", "8.7"),
    "tegra264": ("Thor", "11.0"),
}

# Part numbers of modules, as NVIDIA's device trees spell them.
_MODULES = {
    "p3701-0000": "AGX Orin 32GB",  # developer kit of 2022
    "p3701-0004": "AGX Orin 32GB",
    "p3701-0005": "AGX Orin 64GB",
    "p3701-0008": "AGX Orin Industrial",
    "p3767-0000": "Orin NX 16GB",
    "p3767-0001": "Orin NX 8GB",
    "p3767-0003": "Orin Nano 8GB",
    "p3767-0004": "Orin Nano 4GB",
    "p3767-0005": "Orin Nano 8GB",  # developer kit
    "p3834-0000": "Thor T4000 or T5000",
    "p3834-0008": "Thor T5000",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """A machine. Everything but `name` is None where it is not a Jetson or is not known.

    `chip` is "Orin" or "Thor", `compute_capability` such as "8.7", `module` the module on the
    carrier board.
    """

    name: str
    chip: str | None = None
    compute_capability: str | None = None
    module: str | None = None
    release: Release | None = None
    jetpack: JetPack | None = None

    @property
    def is_jetson(self) -> bool:
        return self.chip is not None or self.release is not None


def read_board(tree: Tree) -> Board:
    """Recognise the machine by its device tree and release file.

    A container hides the device tree (/sys/firmware is masked): the chip's own files under
    /sys/devices/soc0 remain.
    """
    compatible = _compatible(tree)
    name = (
        tree.text("/proc/device-tree/model")
        or tree.text("/sys/devices/soc0/machine")
        or _computer(tree)
    )
    chip, capability = _chip(compatible, tree)
    release = read_release(tree)
    return Board(
        name=name,
        chip=chip,
        compute_capability=capability,
        module=next((_MODULES[part] for part in _parts(compatible) if part in _MODULES), None),
        release=release,
        jetpack=None if release is None else jetpack_of(release),
    )


def _compatible(tree: Tree) -> str:
    return (tree.text("/proc/device-tree/compatible") or "").replace("\0", " ")


def _chip(compatible: str, tree: Tree) -> tuple[str | None, str | None]:
    # /sys/devices/soc0/soc_id holds the chip's number in decimal: 35 is 0x23, Tegra234.
    number = {33: "tegra210", 24: "tegra186", 25: "tegra194", 35: "tegra234", 38: "tegra264"}
    family = tree.text("/sys/devices/soc0/family")
    soc_id = tree.number("/sys/devices/soc0/soc_id") if family == "Tegra" else None
    named = re.search(r"tegra[0-9]+", compatible)
    chip = named[0] if named else number.get(soc_id or 0, "")
    return _CHIPS.get(chip, (None, None))


def _parts(compatible: str) -> list[str]:
    """Part numbers in "nvidia,p3768-0000+p3767-0005-super nvidia,tegra234": those of modules."""
    return re.findall(r"p[0-9]{4}-[0-9]{4}", compatible)


def _computer(tree: Tree) -> str:
    """What a PC or a virtual machine calls itself."""
    product = tree.text("/sys/class/dmi/id/product_name")
    names = [name for name in (product, cpu_model(tree)) if name]
    return ", ".join(names) or (platform.machine() if tree.live else "an unknown machine")
