"""Which machine this is: a Jetson and which, or something else."""

import platform
import re
from dataclasses import dataclass

from .jetpack import RELEASE_FILE, JetPack, Release, jetpack_of, release_from_text
from .tree import Tree

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
    """A machine. Everything but `name` is None where it is no Jetson or does not tell.

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
    """Tell the machine from its device tree and release file.

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
    release = release_from_text(tree.text(RELEASE_FILE))
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
    stated = re.search(r"tegra[0-9]+", compatible)
    chip = stated[0] if stated else number.get(soc_id or 0, "")
    return _CHIPS.get(chip, (None, None))


def _parts(compatible: str) -> list[str]:
    """Part numbers in "nvidia,p3768-0000+p3767-0005-super nvidia,tegra234": those of modules."""
    return re.findall(r"p[0-9]{4}-[0-9]{4}", compatible)


def _computer(tree: Tree) -> str:
    """What a PC or a virtual machine calls itself."""
    product = tree.text("/sys/class/dmi/id/product_name")
    processor = re.search(r"^model name\s*:\s*(.+)$", tree.text("/proc/cpuinfo") or "", re.M)
    names = [name for name in (product, processor[1] if processor else None) if name]
    return ", ".join(names) or (platform.machine() if tree.live else "an unknown machine")
