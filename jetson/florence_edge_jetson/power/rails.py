"""Power rails of a board: the sensors in sysfs, and which rails make up the whole.

    /sys/class/hwmon/hwmon*/      name ina3221: in{1..3}_label, in{n}_input mV, curr{n}_input mA
                                  name ina238:  label or in1_label, power1_input uW

Rails are found by their label: the numbers of hwmon change from one start to the next.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from florence_edge.errors import BackendError, RequestError

from ..machine.system import Tree

_UNUSED = "NC"  # an input of the sensor that is not connected


@dataclass(frozen=True, slots=True, kw_only=True)
class Rail:
    """Where a rail's sensor lies: the hwmon folder, and the number of its channel."""

    label: str
    folder: str
    channel: str


@dataclass(frozen=True, slots=True)
class Total:
    """Rails whose sum stands for more than each: `covers` says what."""

    rails: tuple[str, ...]
    covers: str


# What covers the largest part of the machine comes first. VDDQ_VDD2_1V8AO of AGX Orin is left out:
# VIN_SYS_5V0 feeds it, so it would count twice (NVIDIA's description of the rail). Rails of older
# boards: energymon's list.
_TOTALS = (
    Total(("VIN",), "the whole kit, at its input"),
    Total(("POM_5V_IN",), "the whole kit, at its input"),
    Total(("VDD_IN",), "the module, without its carrier board"),
    Total(("VDD_GPU", "VDD_CPU_SOC_MSS", "VIN_SYS_5V0"), "the module's rails"),
    Total(("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"), "the module's rails"),
    Total(("GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"), "the module's rails"),
)


def find_rails(tree: Tree) -> dict[str, Rail]:
    """The rails that have a sensor in sysfs, by label."""
    rails: dict[str, Rail] = {}
    for name in tree.find("/sys/class/hwmon/hwmon*/name"):
        folder = name.removesuffix("/name")
        if (tree.text(name) or "").startswith("ina"):
            for rail in _rails_of(tree, folder):
                rails.setdefault(rail.label, rail)
    return rails


def read_watts(tree: Tree, rail: Rail) -> float | None:
    """Power of a rail, None if its sensor does not answer; negative near zero is an offset."""
    microwatts = tree.number(f"{rail.folder}/power{rail.channel}_input")
    if microwatts is not None:
        return microwatts / 1e6
    millivolts = tree.number(f"{rail.folder}/in{rail.channel}_input")
    milliamps = tree.number(f"{rail.folder}/curr{rail.channel}_input")
    if millivolts is None or milliamps is None:
        return None
    return millivolts * milliamps / 1e6


def total_of(labels: Collection[str], chosen: Sequence[str] = ()) -> Total:
    """The rails to sum: those requested, or what is known to be the whole of a board.

    Raises:
        RequestError: a requested rail is not there.
        BackendError: the rails are not those of a known board.
    """
    for label in chosen:
        if label not in labels:
            raise RequestError(f"There is no rail {label}. The rails are: {_list(labels)}.")
    if chosen:
        return Total(tuple(dict.fromkeys(chosen)), "the rails that were requested")
    for total in _TOTALS:
        if all(label in labels for label in total.rails):
            return total
    raise BackendError(
        f"The power rails of this board are not known: {_list(labels)}. Name those to sum, none of "
        "them a part of another: --rails A,B."
    )


def _rails_of(tree: Tree, folder: str) -> list[Rail]:
    """The channels that have both a label and a power; INA3221's sum of shunts has none."""
    rails = []
    for file in tree.find(f"{folder}/in*_label"):
        channel = file.rpartition("/in")[2].removesuffix("_label")
        rails.append(Rail(label=tree.text(file) or _UNUSED, folder=folder, channel=channel))
    if not rails:
        label = tree.text(f"{folder}/label") or _UNUSED
        rails.append(Rail(label=label, folder=folder, channel="1"))
    return [rail for rail in rails if rail.label != _UNUSED and _has_power(tree, rail)]


def _has_power(tree: Tree, rail: Rail) -> bool:
    files = (f"curr{rail.channel}_input", f"power{rail.channel}_input")
    return any(tree.path(f"{rail.folder}/{file}").exists() for file in files)


def _list(labels: Collection[str]) -> str:
    return ", ".join(labels) or "none"
