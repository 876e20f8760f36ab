"""One power meter, whatever this machine measures with: sysfs, tegrastats, or NVML."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from florence_edge.errors import BackendError, RequestError

from ..machine.system import LIVE, Tree
from ..machine.thermal import active_alerts, over_current_events
from .nvml import open_gpu
from .rails import find_rails, read_watts, total_of
from .tegrastats import Tegrastats

_INTERVAL_MS = 100


def _nothing() -> None:
    return None


def _no_alerts() -> frozenset[str]:
    return frozenset()


def _no_counters() -> Mapping[str, int]:
    return {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Meter:
    """How to read this machine's power, and what the reading stands for.

    Attributes:
        source: "hwmon", "tegrastats" or "nvml".
        rails: the rails that are summed; never some of them only.
        covers: what part of the machine they are.
        watts: their power now; None where a sensor did not answer.
        paced: whether `watts` waits for the next reading, so that nobody else has to.
        joules: a counter of energy, where the sensor has one.
        alerts: what is being slowed down now.
        counters: throttling events since the machine was started.
        close: to be called at the end.
    """

    source: str
    rails: tuple[str, ...]
    covers: str
    watts: Callable[[], float | None]
    paced: bool = False
    joules: Callable[[], float] | None = None
    alerts: Callable[[], frozenset[str]] = _no_alerts
    counters: Callable[[], Mapping[str, int]] = _no_counters
    close: Callable[[], None] = _nothing


def open_meter(tree: Tree | None = None, *, rails: Sequence[str] = (), gpu: int = 0) -> Meter:
    """The best meter of this machine: sensors in sysfs, else tegrastats, else a GPU's own.

    `rails` names the rails to sum, `gpu` the GPU for NVML.

    Raises:
        BackendError: this machine does not measure its power, or its rails are not known.
        MissingPackageError: a GPU would be asked by NVML, and nvidia-ml-py is not installed.
        RequestError: a requested rail is not there.
    """
    tree = LIVE if tree is None else tree
    if find_rails(tree):
        return sysfs_meter(tree, rails)
    command = shutil.which("tegrastats")
    if tree.live and command is not None:
        return tegrastats_meter(tree, rails, [command, "--interval", str(_INTERVAL_MS)])
    device = open_gpu(gpu)
    return Meter(
        source="nvml",
        rails=(device.name,),
        covers="the GPU's board",
        watts=device.watts,
        joules=device.joules,
        alerts=device.alerts,
        close=device.close,
    )


def sysfs_meter(tree: Tree, chosen: Sequence[str] = ()) -> Meter:
    """Reads INA sensors through hwmon: no process, no root, a fraction of a millisecond."""
    rails = find_rails(tree)
    total = total_of(rails, chosen)
    summed = [rails[label] for label in total.rails]

    def watts() -> float | None:
        return _sum([read_watts(tree, rail) for rail in summed])

    return Meter(
        source="hwmon",
        rails=total.rails,
        covers=total.covers,
        watts=watts,
        alerts=lambda: active_alerts(tree),
        counters=lambda: over_current_events(tree),
    )


def tegrastats_meter(tree: Tree, chosen: Sequence[str], command: Sequence[str]) -> Meter:
    """Reads the lines of a tegrastats that runs beside us until `close`."""
    tegrastats = Tegrastats(command)
    try:
        total = total_of(tegrastats.watts(), chosen)
    except (BackendError, RequestError):
        tegrastats.close()
        raise

    def watts() -> float | None:
        found = tegrastats.watts()
        return _sum([found.get(label) for label in total.rails])

    return Meter(
        source="tegrastats",
        rails=total.rails,
        covers=total.covers,
        watts=watts,
        paced=True,
        alerts=lambda: active_alerts(tree),
        counters=lambda: over_current_events(tree),
        close=tegrastats.close,
    )


def _sum(watts: Sequence[float | None]) -> float | None:
    known = [value for value in watts if value is not None]
    return sum(known) if len(known) == len(watts) else None
