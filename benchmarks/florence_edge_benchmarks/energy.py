"""Joules per image and per token: a bundle that answers in a closed loop beside a power meter."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from florence_edge import Florence2, GenerationOptions
from florence_edge.image import load_image
from florence_edge.tasks import Task
from florence_edge_jetson.machine.board import read_board
from florence_edge_jetson.machine.clocks import GpuClock, read_gpu_clock
from florence_edge_jetson.machine.system import LIVE, Tree
from florence_edge_jetson.machine.thermal import read_zones
from florence_edge_jetson.power.energy import EnergyWork, MeasurementPlan, measure
from florence_edge_jetson.power.meter import Meter

from .machine import describe_machine
from .results import EnergyResult

_WARM_UP = 3  # answers before anything is measured: kernels are chosen, clocks rise


def answer_repeatedly(
    model: Florence2, picture: Path, task: str | Task, text: str | None, options: GenerationOptions
) -> Callable[[], EnergyWork]:
    """A function that answers once a call: the picture's file is read and encoded anew each time.

    Tokens are those that were generated: all but the one that every answer starts with.
    """

    def answer() -> EnergyWork:
        result = model.run(load_image(picture, model.image_options), task, text, options=options)
        return EnergyWork(images=1, tokens=len(result.token_ids) - 1)

    return answer


def measure_energy(
    answer: Callable[[], EnergyWork],
    meter: Meter,
    plan: MeasurementPlan,
    settings: Mapping[str, Any],
    tree: Tree = LIVE,
) -> EnergyResult:
    """Warm up, measure, and describe the machine beside it.

    Args:
        answer: one answer a call.
        meter: what power is read from.
        plan: how long, and how often the meter is read.
        settings: what was requested, as plain JSON; kept with the result.
        tree: where the system's files are found; another one in tests.

    Raises:
        BackendError: the meter failed, or gave too few samples to go by.
    """
    for _ in range(_WARM_UP):
        answer()
    before = _hottest(tree)
    energy = measure(meter, answer, plan)
    board = read_board(tree)
    clock = read_gpu_clock(tree)
    return EnergyResult(
        settings=settings,
        machine={
            **describe_machine(tree),
            "board": board.name,
            "l4t": None if board.release is None else str(board.release),
            "jetpack": None if board.jetpack is None else board.jetpack.version,
            "gpu_clock": None if clock is None else _as_stored(clock),
            "hottest_celsius": (before, _hottest(tree)),
        },
        plan=asdict(plan),
        energy=energy,
    )


def _as_stored(clock: GpuClock) -> Mapping[str, int | str | None]:
    """The clock under the names that result files have; MHz."""
    return {
        "now": clock.now, "limit": clock.limit, "most": clock.max, "governor": clock.governor
    }  # fmt: skip


def _hottest(tree: Tree) -> float | None:
    return max((zone.celsius for zone in read_zones(tree)), default=None)
