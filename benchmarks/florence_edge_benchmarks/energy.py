"""Joules per image and per token: a bundle that answers in a closed loop beside a power meter."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from florence_edge import Florence2, GenerationOptions
from florence_edge.image import load_image
from florence_edge.tasks import Task
from florence_edge_jetson.machine.board import read_board
from florence_edge_jetson.machine.clocks import read_gpu_clock
from florence_edge_jetson.machine.thermal import read_zones
from florence_edge_jetson.machine.tree import Tree
from florence_edge_jetson.power.energy import Energy, Plan, Work, measure
from florence_edge_jetson.power.meter import Meter

from .machine import describe_machine
from .results.energy import EnergyResult, Figures

_WARM_UP = 3  # answers before anything is measured: kernels are chosen, clocks rise


def answering(
    model: Florence2, picture: Path, task: str | Task, text: str | None, options: GenerationOptions
) -> Callable[[], Work]:
    """One answer a call: the picture's file is read and looked at anew each time.

    Tokens are those that were generated: all but the one that every answer starts with.
    """

    def answer() -> Work:
        result = model.run(task, load_image(picture), text, options=options)
        return Work(images=1, tokens=len(result.token_ids) - 1)

    return answer


def measure_energy(
    answer: Callable[[], Work],
    meter: Meter,
    plan: Plan,
    settings: Mapping[str, Any],
    tree: Tree | None = None,
) -> EnergyResult:
    """Warm up, measure, and state the machine beside it.

    Args:
        answer: one answer a call.
        meter: what power is read from.
        plan: how long, and how often the meter is read.
        settings: what was asked for, as plain JSON; kept with the result.
        tree: where the system's files are found; another one in tests.
    """
    tree = Tree() if tree is None else tree
    for _ in range(_WARM_UP):
        answer()
    before = _hottest(tree)
    energy = measure(meter, answer, plan)
    board = read_board(tree)
    clock = read_gpu_clock(tree)
    return EnergyResult(
        settings=settings,
        machine={
            **describe_machine(tree.root),
            "board": board.name,
            "l4t": None if board.release is None else str(board.release),
            "jetpack": None if board.jetpack is None else board.jetpack.version,
            "gpu_clock": None if clock is None else asdict(clock),
            "hottest_celsius": (before, _hottest(tree)),
        },
        plan=asdict(plan),
        energy=_figures(energy),
    )


def _figures(energy: Energy) -> Figures:
    return {
        "source": energy.source,
        "rails": energy.rails,
        "covers": energy.covers,
        "method": energy.method,
        "samples": energy.samples,
        "idle_watts": energy.idle_watts,
        "load_watts": energy.load_watts,
        "seconds": energy.seconds,
        "gross_joules": energy.gross_joules,
        "net_joules": energy.net_joules,
        "images": energy.images,
        "tokens": energy.tokens,
        "throttling": energy.throttling,
        "joules_per_image": energy.per_image,
        "joules_per_token": energy.per_token,
    }


def _hottest(tree: Tree) -> float | None:
    return max((zone.celsius for zone in read_zones(tree)), default=None)
