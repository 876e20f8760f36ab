"""Checks of the board: what it is, its memory, clocks, temperature and power.

Each is a function of values that were read before, so that every outcome can be tested.
"""

from collections.abc import Collection, Mapping, Sequence

from florence_edge.errors import FlorenceEdgeError
from florence_edge.extras import newer_release

from ..machine.board import Board
from ..machine.clocks import GpuClock, PowerMode, fastest
from ..machine.system import GIB, Memory
from ..machine.thermal import Zone
from ..power.rails import total_of
from .findings import Finding, fail, ok, warn

_CHIPS = ("Orin", "Thor")
_NEWEST_KNOWN = "7.2"
_SPARE = GIB  # beside the weights: activations, caches, Python
_SMALL_BOARD = 17 * GIB  # building engines on boards up to 16 GB needs swap
_BUILD_SWAP = 4 * GIB
_MAKE_SWAP = (
    "sudo fallocate -l 8G /swapfile && sudo chmod 600 /swapfile && sudo mkswap /swapfile && "
    "sudo swapon /swapfile"
)
_DEFAULT_LIMIT = 95.0  # degrees Celsius, where a board does not say when it throttles
_NEAR_LIMIT = 10.0
_COOL = "Cool the board: fan, heat sink, a lower power mode."


def check_board(board: Board) -> Finding:
    """A Jetson must be an Orin or a Thor; other machines are fine."""
    if not board.is_jetson:
        return ok("board", f"{board.name} (not a Jetson)")
    facts = [board.module, f"SM {board.compute_capability}" if board.compute_capability else None]
    known = ", ".join(fact for fact in facts if fact)
    found = f"{board.name} ({known})" if known else board.name
    if board.chip is not None and board.chip not in _CHIPS:
        return fail(
            "board",
            f"{found}: JetPack 6.1, the oldest with TensorRT 10.3, does not exist for it.",
            "Use an Orin or a Thor, or the CPU engine.",
        )
    return ok("board", found)


def check_jetpack(board: Board) -> Finding | None:
    """JetPack 6.1 or newer, on a Jetson."""
    if not board.is_jetson:
        return None
    if board.release is None:
        return warn(
            "jetpack",
            "There is no /etc/nv_tegra_release; in a container it has to be passed in.",
            "docker run ... -v /etc/nv_tegra_release:/etc/nv_tegra_release:ro",
        )
    if board.jetpack is None:
        return warn(
            "jetpack",
            f"L4T {board.release} is not known here; JetPack 6.1 to {_NEWEST_KNOWN} are.",
            newer_release(),
        )
    jetpack = board.jetpack
    found = f"JetPack {jetpack.version} (L4T {board.release}), TensorRT {jetpack.tensorrt}"
    if not jetpack.usable:
        return fail(
            "jetpack",
            f"{found}: TensorRT 10.3 is needed.",
            "Flash JetPack 6.2 or newer: https://developer.nvidia.com/embedded/jetpack",
        )
    return ok("jetpack", found)


def check_memory(memory: Memory | None, needed: int, board: Board) -> Finding:
    """Room for `needed` bytes of weights, and a gibibyte beside them."""
    if memory is None:
        return warn("memory", "This system does not report how much there is.", "free -h")
    found = f"{_gib(memory.available)} of {_gib(memory.total)} GiB free"
    if memory.available >= needed + _SPARE:
        return ok("memory", found)
    fix = "sudo systemctl isolate multi-user.target" if board.is_jetson else "Close programs."
    shortage = f"{found}; {_gib(needed + _SPARE)} are needed"
    if memory.available < needed:
        return fail("memory", f"{shortage}, {_gib(needed)} for the weights alone.", fix)
    return warn("memory", f"{shortage} to be at ease.", fix)


def check_swap(memory: Memory | None, board: Board) -> Finding | None:
    """Swap on a disk, on boards where building engines takes more than there is."""
    if memory is None or not board.is_jetson:
        return None
    found = f"{_gib(memory.disk_swap)} GiB on disk"
    zram = memory.swap - memory.disk_swap
    if zram > 0:
        found += f", {_gib(zram)} GiB zram (in memory)"
    if memory.total <= _SMALL_BOARD and memory.disk_swap < _BUILD_SWAP:
        return warn("swap", f"{found}: building engines may run out of memory.", _MAKE_SWAP)
    return ok("swap", found)


def check_power_mode(
    mode: PowerMode | None, modes: Sequence[PowerMode], board: Board
) -> Finding | None:
    """The mode without a power limit is the fastest; another may be what the battery allows."""
    if not board.is_jetson:
        return None
    if mode is None:
        return warn("power mode", "It cannot be read.", "sudo nvpmodel -q")
    best = fastest(tuple(modes))
    if best is None or best == mode:
        return ok("power mode", str(mode))
    return warn("power mode", f"{mode}; the fastest is {best.name}", _choose(best))


def check_gpu_clock(
    clock: GpuClock | None, modes: Sequence[PowerMode], board: Board
) -> Finding | None:
    """Whether the GPU may run as fast as it can; it is the power mode that holds it back."""
    if clock is None or not board.is_jetson:
        return None
    governor = f", governor {clock.governor}" if clock.governor else ""
    found = f"GPU {clock.now} MHz now, up to {clock.limit} MHz{governor}"
    if clock.limit < clock.max:
        best = fastest(tuple(modes))
        fix = _choose(best) if best is not None else "sudo jetson_clocks"
        return warn("clocks", f"{found}; the chip can do {clock.max} MHz.", fix)
    return ok("clocks", found)


def check_temperature(zones: Sequence[Zone]) -> Finding | None:
    """The zone that is nearest to its limit; where no zone has one, the hottest."""
    if not zones:
        return None
    limited = [zone for zone in zones if zone.throttles or zone.critical]
    zone = min(limited or zones, key=lambda zone: _limit(zone) - zone.celsius)
    if zone.throttles:
        meaning = f"slowed down from {zone.throttles:.0f} C"
    else:
        unknown = f"no known limit, {_DEFAULT_LIMIT:.0f} C assumed"
        meaning = f"off at {zone.critical:.0f} C" if zone.critical else unknown
    found = f"{zone.name} {zone.celsius:.0f} C, {meaning}"
    if zone.critical and zone.celsius >= zone.critical:
        return fail("temperature", found, _COOL)
    if zone.celsius >= _limit(zone) - _NEAR_LIMIT:
        return warn("temperature", found, _COOL)
    return ok("temperature", found)


def check_throttling(
    alerts: Collection[str], events: Mapping[str, int], board: Board
) -> Finding | None:
    """Whether the board is, or was since its start, slowed down; it answers all the same."""
    if not board.is_jetson:
        return None
    happened = [f"{count} x {name}" for name, count in events.items() if count]
    if alerts:
        return warn(
            "throttling",
            f"Slowed down by heat right now: {', '.join(sorted(alerts))}.",
            _COOL,
        )
    if happened:
        return warn(
            "throttling",
            f"Since the start: {', '.join(happened)}.",
            "Give it a stronger power supply or cable, or a lower power mode.",
        )
    return ok("throttling", "none")


def check_rails(labels: Collection[str], board: Board) -> Finding | None:
    """Whether the energy of answers can be measured, and on which rails."""
    if not board.is_jetson:
        return None
    if not labels:
        return warn(
            "power rails", "No sensor in /sys/class/hwmon; tegrastats may have more.", "tegrastats"
        )
    try:
        total = total_of(labels)
    except FlorenceEdgeError as error:
        fix = "florence-bench energy BUNDLE --task OD --rails A,B"
        return warn("power rails", str(error), fix)
    return ok("power rails", f"{' + '.join(total.rails)}: {total.covers}")


def _choose(mode: PowerMode) -> str:
    return f"sudo nvpmodel -m {mode.number}"


def _limit(zone: Zone) -> float:
    return zone.throttles or zone.critical or _DEFAULT_LIMIT


def _gib(size: int) -> str:
    return f"{size / GIB:.1f}"
