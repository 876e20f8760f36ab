"""Joules per image and per token: a bundle that answers in a closed loop beside a power meter."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from florence_edge import Florence2, GenerationOptions
from florence_edge.image import load_image
from florence_edge.tasks import Task
from florence_edge_jetson.board import read_board
from florence_edge_jetson.clocks import read_gpu_clock
from florence_edge_jetson.energy import Energy, Plan, Work, measure
from florence_edge_jetson.meter import Meter
from florence_edge_jetson.thermal import read_zones
from florence_edge_jetson.tree import Tree

from .energy_tables import throttling
from .machine import describe_machine
from .results import write_whole

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
    answer: Callable[[], Work], meter: Meter, plan: Plan, tree: Tree | None = None
) -> dict[str, Any]:
    """Warm up, measure, and state the machine beside it, as plain JSON."""
    tree = Tree() if tree is None else tree
    for _ in range(_WARM_UP):
        answer()
    before = _hottest(tree)
    energy = measure(meter, answer, plan)
    board = read_board(tree)
    clock = read_gpu_clock(tree)
    return {
        "machine": {
            **describe_machine(tree.root),
            "board": board.name,
            "l4t": None if board.release is None else str(board.release),
            "jetpack": None if board.jetpack is None else board.jetpack.version,
            "gpu_clock": None if clock is None else asdict(clock),
            "hottest_celsius": [before, _hottest(tree)],
        },
        "plan": asdict(plan),
        "energy": asdict(energy) | _shares(energy),
    }


def write_energy(path: Path, measured: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Write what was measured; there is either the whole file or what was there before."""
    content = {"florence-bench": "energy", "schema": 1, "settings": dict(settings), **measured}
    write_whole(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def energy_text(measured: Mapping[str, Any]) -> str:
    """What was measured, for people."""
    energy = measured["energy"]
    gross, net = energy["joules_per_image"]
    lines = [
        f"power        {energy['source']}: {' + '.join(energy['rails'])} ({energy['covers']})",
        f"at rest      {energy['idle_watts']:.2f} W",
        f"under load   {energy['load_watts']:.2f} W for {energy['seconds']:.0f} s, "
        f"{energy['images']} images, {energy['tokens']} tokens",
        f"an image     {gross:.3f} J, of which {net:.3f} J above rest",
    ]
    if energy["joules_per_token"] is not None:
        gross, net = energy["joules_per_token"]
        lines.append(f"a token      {gross:.4f} J, of which {net:.4f} J above rest")
    lines.append(f"throttling   {throttling(energy)}")
    return "\n".join(lines)


def _shares(energy: Energy) -> dict[str, Any]:
    """Gross and net joules, by what they are shared among."""
    return {"joules_per_image": energy.per_image, "joules_per_token": energy.per_token}


def _hottest(tree: Tree) -> float | None:
    return max((zone.celsius for zone in read_zones(tree)), default=None)
