"""Temperatures, and signs that the board slows itself down."""

import re
from dataclasses import dataclass

from .system import Tree

_ZONES = "/sys/class/thermal/thermal_zone*"
_COOLERS = "/sys/class/thermal/cooling_device*"
_OFF = -256_000  # a sensor of a part without power; millidegrees

# Orin's over-current lines: Jetson Linux Developer Guide, Platform Power and Performance.
_OVER_CURRENT = {
    "oc1": "under-voltage",
    "oc2": "average over-current",
    "oc3": "instantaneous over-current",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Zone:
    """A thermal zone; degrees Celsius.

    `throttles` is where the clocks go down, `critical` where the board switches itself off.
    """

    name: str
    celsius: float
    throttles: float | None = None
    critical: float | None = None


def read_zones(tree: Tree) -> tuple[Zone, ...]:
    """The zones that answer, hottest first."""
    zones = []
    for folder in tree.find(_ZONES):
        name, millidegrees = tree.text(f"{folder}/type"), tree.number(f"{folder}/temp")
        if name is None or millidegrees is None or millidegrees <= _OFF:
            continue
        zones.append(
            Zone(
                name=name.removesuffix("-thermal"),
                celsius=millidegrees / 1000,
                throttles=_lowest_trip(tree, folder, "passive"),
                critical=_lowest_trip(tree, folder, "critical"),
            )
        )
    return tuple(sorted(zones, key=lambda zone: -zone.celsius))


def active_alerts(tree: Tree) -> frozenset[str]:
    """Parts that are being slowed down right now, by heat: "gpu", "cpu", "hot-surface", ..."""
    active = set()
    for folder in tree.find(_COOLERS):
        name = tree.text(f"{folder}/type") or ""  # fans and frequency steps are coolers as well
        if name.endswith("-alert") and (tree.number(f"{folder}/cur_state") or 0) > 0:
            active.add(name.removesuffix("-alert").removesuffix("-throttle"))
    return frozenset(active)


def over_current_events(tree: Tree) -> dict[str, int]:
    """How often each limit of the power supply was hit since the board was started."""
    events = {}
    for file in tree.find("/sys/class/hwmon/hwmon*/oc*_event_cnt"):
        line = re.sub(r".*/(oc[0-9]+)_event_cnt", r"\1", file)
        count = tree.number(file)
        if count is not None:
            events[_OVER_CURRENT.get(line, line)] = count
    return events


def _lowest_trip(tree: Tree, folder: str, kind: str) -> float | None:
    kinds = tree.find(f"{folder}/trip_point_*_type")
    points = [
        tree.number(file.removesuffix("_type") + "_temp")
        for file in kinds
        if tree.text(file) == kind
    ]
    degrees = [point / 1000 for point in points if point is not None and point > 0]
    return min(degrees, default=None)
