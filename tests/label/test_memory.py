"""Memory of driver and worker over 20,000 pictures, and of an export of them."""

import gc
import subprocess
import sys
import time
from pathlib import Path

import pytest

from florence_edge_label.formats.view import ExportView, with_classes
from florence_edge_label.labelled import LabelledSet
from florence_edge_label.thresholds import Thresholds

from .conftest import draw

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads Linux's /proc"),
]

PICTURES = 20_000
MOST_GROWTH = 12.0  # MB between a fifth of the way and its end


def resident(process: int | str) -> float:
    """MB."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * 4096 / 1e6


def children(process: int) -> list[int]:
    found = Path(f"/proc/{process}/task").glob("*/children")
    return [int(child) for each in found for child in each.read_text().split()]


def test_twenty_thousand_pictures_take_no_more_than_four_thousand(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    pictures, output = tmp_path / "pictures", tmp_path / "out"
    first = draw(pictures, ["00000.png"]) / "00000.png"
    for number in range(1, PICTURES):
        (pictures / f"{number:05}.png").hardlink_to(first)
    command = [
        sys.executable, "-m", "florence_edge_label", str(tiny_bundle), str(pictures),
        "--output", str(output), "--task", "OD", "--beams", "1", "--max-new-tokens", "2",
        "--workers", "1", "--shard-size", "256",
    ]  # fmt: skip
    parts = output / "parts"
    memory: dict[int, dict[str, float]] = {}
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as driver:
        while driver.poll() is None:
            done = len(list(parts.glob("part-*"))) if parts.exists() else 0
            workers = children(driver.pid)
            if done and workers:
                try:
                    both = {"driver": resident(driver.pid), "worker": resident(workers[0])}
                except (OSError, IndexError):  # it has just ended
                    break
                memory[done] = both
            time.sleep(0.2)
    assert driver.returncode == 0
    fifth = memory[min(memory, key=lambda done: abs(done - 16))]
    last = memory[max(done for done in memory if done < 79)]
    growth = {name: last[name] - fifth[name] for name in last}
    print("MB at a fifth", fifth, "growth", growth)  # noqa: T201 - the figure
    assert max(growth.values()) < MOST_GROWTH
    _check_export(output)


def _check_export(output: Path) -> None:
    view = ExportView(labelled=LabelledSet(output), task="OD", thresholds=Thresholds())
    seen: list[float] = []
    for number, _ in enumerate(with_classes(view).pictures()):
        if number in (PICTURES // 5, PICTURES - 1):
            gc.collect()
            seen.append(resident("self"))
    print("MB of an export", seen)  # noqa: T201 - the figure
    assert seen[1] - seen[0] < MOST_GROWTH
