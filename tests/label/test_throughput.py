"""florence-label beside `florence-run --batch 8`, by turns; what a driver spends on a part.

With FLORENCE_EDGE_RECORD=1 the figures are written to results/label/throughput.json.
"""

import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from florence_edge_label.parts import part_path, write_part
from florence_edge_label.picture_list import write_list
from florence_edge_label.sources.find import SourceOptions, find_source

from ..helpers.circumstances import circumstances
from .conftest import draw

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "results" / "label" / "throughput.json"
COMMAND = "FLORENCE_EDGE_RECORD=1 python -m pytest -m slow tests/label/test_throughput.py"
PICTURES = ROOT / "calibration" / "held_out" / "pictures"
COUNT, BATCH, SHARD, ROUNDS = 200, 8, 16, 2
TURN = 2.0  # seconds
RUN = "florence-run --batch 8"
LABEL_TWO = "florence-label, 2 workers of 1 thread"
LABEL_ONE = "florence-label, 1 worker of 2 threads"
LISTED = 20_000
AT_LEAST = 0.95


class Contestant:
    """A command that labels, halted while others have their turn; seconds are those of its own."""

    def __init__(
        self, command: list[str], count: Callable[[], int], output: Path, workers: int = 1
    ) -> None:
        self._workers = workers
        self.moments: list[tuple[float, int]] = []
        """Seconds of its own, and the pictures that were done by then."""
        self._count = count
        self._own = 0.0
        with output.open("wb") as file:
            self._process = subprocess.Popen(
                command, stdout=file, stderr=subprocess.DEVNULL, start_new_session=True
            )
        self.turn(None)  # loaded, and the first batch done
        self.start = self._own

    @property
    def done(self) -> bool:
        """Whether all pictures are."""
        return bool(self.moments) and self.moments[-1][1] >= COUNT

    def turn(self, seconds: float | None) -> None:
        """Run for a while, or until there is something."""
        os.killpg(self._process.pid, signal.SIGCONT)
        begin = time.perf_counter()
        while not self.done:
            own = time.perf_counter() - begin
            found = self._count()
            if found > (self.moments[-1][1] if self.moments else 0):
                self.moments.append((self._own + own, found))
            if own > (seconds or 0) and (seconds or self.moments):
                break
            time.sleep(0.005)
        os.killpg(self._process.pid, signal.SIGSTOP)
        self._own += time.perf_counter() - begin

    def rate(self) -> float:
        """Pictures a second, once every worker has been through its first ones."""
        (first, done), (last, total) = self.moments[self._workers - 1], self.moments[-1]
        return (total - done) / (last - first)

    def close(self) -> None:
        """End it, wherever it is."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def florence_run(bundle: Path, folder: Path) -> Contestant:
    """Counted by the lines that it prints, one a picture, as batches are answered."""
    code = "import sys; from florence_edge.cli.main import main; sys.exit(main())"
    command = [
        sys.executable, "-c", code, str(bundle), str(PICTURES),
        "--task", "OD", "--batch", str(BATCH), "--json",
    ]  # fmt: skip
    output = folder / "florence-run.jsonl"
    return Contestant(command, lambda: output.read_bytes().count(b"\n"), output)


def florence_label(bundle: Path, folder: Path, workers: int, threads: int) -> Contestant:
    """Counted by the parts, as they come."""
    output = folder / f"{workers}-of-{threads}"
    command = [
        sys.executable, "-m", "florence_edge_label", str(bundle), str(PICTURES),
        "--output", str(output), "--task", "OD", "--batch", str(BATCH), "--shard-size", str(SHARD),
        "--workers", str(workers), "--threads", str(threads),
    ]  # fmt: skip
    parts = output / "parts"
    return Contestant(
        command,
        lambda: min(COUNT, SHARD * len(list(parts.glob("part-*")))),
        folder / f"{workers}.log",
        workers,
    )


def one_round(bundle: Path, folder: Path) -> dict[str, Contestant]:
    """All of them by turns of two seconds, until all are done."""
    folder.mkdir()
    made: dict[str, Contestant] = {}
    try:
        made[LABEL_TWO] = florence_label(bundle, folder, 2, 1)
        made[RUN] = florence_run(bundle, folder)
        made[LABEL_ONE] = florence_label(bundle, folder, 1, 2)
        while working := [each for each in made.values() if not each.done]:
            for each in working:
                each.turn(TURN)
    finally:
        for each in made.values():
            each.close()
    return made


def test_a_box_labels_as_fast_as_florence_run(miniature_bundle: Path, tmp_path: Path) -> None:
    rounds = [one_round(miniature_bundle, tmp_path / f"{n}") for n in range(ROUNDS)]
    rates = [{name: each.rate() for name, each in made.items()} for made in rounds]
    ratios = [each[LABEL_TWO] / each[RUN] for each in rates]
    moments = [[at for at, _ in made[LABEL_ONE].moments] for made in rounds]
    figures = {
        "what": "pictures a second by turns of 2 s, behind the first part or batch: starts are "
        "left out",
        "command": COMMAND,
        **circumstances("onnxruntime", "pyarrow"),
        "model": "miniature, fp32, 3 beams",
        "task": "OD",
        "pictures a part": SHARD,
        "rounds": rates,
        "ratio of 2 workers to florence-run": ratios,
        "median ratio": statistics.median(ratios),
        "seconds to the first part": statistics.median(made[LABEL_TWO].start for made in rounds),
        f"seconds by shard of {SHARD}, 1 worker of 2 threads": [
            round(later - sooner, 4) for some in moments for sooner, later in pairwise(some)
        ],
        **driver_costs(tmp_path),
    }
    print(json.dumps(figures, indent=1))  # noqa: T201 - the figures
    if os.environ.get("FLORENCE_EDGE_RECORD"):
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    assert statistics.median(ratios) >= AT_LEAST


def driver_costs(folder: Path) -> dict[str, float]:
    """What a driver does for each picture and each part, alone."""
    some = sorted((folder / "0" / "2-of-1" / "parts").glob("part-*"))
    sizes = [path.stat().st_size for path in some]
    content, target = some[0].read_bytes(), folder / "written"
    target.mkdir()
    begin = time.perf_counter()
    for number in range(100):
        write_part(target, number, content)
    writing = (time.perf_counter() - begin) / 100
    assert part_path(target, 99).read_bytes() == content
    pictures = folder / "listed"
    first = draw(pictures, ["00000.png"]) / "00000.png"
    for number in range(1, LISTED):
        (pictures / f"{number:05}.png").hardlink_to(first)
    source = find_source(str(pictures), SourceOptions())
    begin = time.perf_counter()
    listed = write_list(folder / "list.parquet", source.list_entries())
    listing = (time.perf_counter() - begin) / listed.count
    return {
        f"bytes of a part of {SHARD}": statistics.mean(sizes[:-1]),
        "seconds to write a part, fsync and rename": writing,
        "seconds to list a picture of a folder": listing,
        "bytes of the list by picture": (folder / "list.parquet").stat().st_size / listed.count,
    }
