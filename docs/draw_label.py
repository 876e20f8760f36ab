"""The figure and the figures of docs/label.md: how labelling scales, and 126 million pictures.

    python docs/draw_label.py      # after new results: draws, and fills the page in

Beyond the two cores that were at hand all is simulated, from measured figures in results/.
"""

import heapq
import json
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from florence_edge_label.plan import default_shard_size

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "label.md"
FIGURE = ROOT / "docs" / "images" / "label_scaling.svg"
PICTURES = 126_000_000  # of Florence-2's own data set, FLD-5B (arXiv 2311.06242)
WORKERS = tuple(2**power for power in range(15))
BATCH = 8


def measured() -> dict[str, Any]:
    """What florence-label took on one machine."""
    found: dict[str, Any] = read("label/throughput.json")
    return found


def measured_part() -> int:
    """Pictures of the parts that were measured."""
    return int(measured().get("pictures a part", BATCH))


def seconds_by_part() -> list[float]:
    """Of one worker with two threads."""
    found: list[float] = measured()[f"seconds by shard of {measured_part()}, 1 worker of 2 threads"]
    return found


def read(name: str) -> Any:
    """A file of results/."""
    return json.loads((ROOT / "results" / name).read_text(encoding="utf-8"))


def seconds_a_picture(label: str, task: str) -> float:
    """Of base, three beams, batches of 4, on two threads of a Xeon: the median of the rounds."""
    for run in read("speed/base_beams_batches_cpu.json")["runs"]:
        asked = run["workload"]
        if (run["label"], asked["task"], asked["beams"], asked["batch"]) == (label, task, 3, 4):
            return float(statistics.median(each["seconds"] for each in run["rounds"])) / 4
    raise LookupError(f"{label}, {task}")


def makespan(workers: int, shards: Sequence[float], writing: float) -> float:
    """Seconds until the last part is written, by an event-driven simulation.

    Each worker takes the next shard as soon as it has answered one; a single driver writes the
    parts one after the other.
    """
    free = [0.0] * min(workers, len(shards))
    heapq.heapify(free)
    answered = []
    for seconds in shards:
        done = heapq.heappop(free) + seconds
        answered.append(done)
        heapq.heappush(free, done)
    driver = 0.0
    for done in sorted(answered):
        driver = max(driver, done) + writing
    return driver


def speedup(workers: int, mean: float, shards: int) -> float:
    """How many times faster than one worker; shards take as unequally long as those measured."""
    found = measured()
    spread = seconds_by_part()
    whole = statistics.mean(spread)
    times = [mean * spread[number % len(spread)] / whole for number in range(shards)]
    writing = found["seconds to write a part, fsync and rename"]
    return makespan(1, times, writing) / makespan(workers, times, writing)


def on_paper() -> list[str]:
    """The rows of the table: 126 million pictures, by what answers."""
    rows = []
    for label in ("fp32 on cpu", "int8 on cpu"):
        for task in ("CAPTION", "OD"):
            seconds = seconds_a_picture(label, task)
            years = PICTURES * seconds / 3600 / 24 / 365
            machines = math.ceil(PICTURES * seconds / 3600 / 24 / 30)
            shard = default_shard_size(PICTURES, BATCH) * seconds / 3600
            rows.append(
                f"| base, {label.partition(' ')[0]} | {task} | {1 / seconds:.2f} | {years:,.1f} | "
                f"{machines:,} | {shard:.1f} h |"
            )
    return rows


def totals() -> dict[str, Any]:
    """Parts, bytes and hours of one driver for 126 million pictures."""
    found = measured()
    size = default_shard_size(PICTURES, BATCH)
    parts = math.ceil(PICTURES / size)
    answer = found[f"bytes of a part of {measured_part()}"] / measured_part()
    return {
        "pictures a part": size,
        "parts": parts,
        "gigabytes of parts": PICTURES * answer / 1e9,
        "gigabytes of the list": PICTURES * found["bytes of the list by picture"] / 1e9,
        "minutes to list": PICTURES * found["seconds to list a picture of a folder"] / 60,
        "minutes to write": parts * found["seconds to write a part, fsync and rename"] / 60,
    }


def blocks() -> dict[str, str]:
    """What docs/label.md says of these figures, by the names of its places for them."""
    found, whole = measured(), totals()
    rounds = found["ratio of 2 workers to florence-run"]
    return {
        "ratio": f"{found['median ratio']:.2f} of its pictures a second (by round "
        f"{', '.join(f'{each:.2f}' for each in rounds)})",
        "totals": f"they are {whole['parts']:,} parts of {whole['pictures a part']:,} pictures: "
        f"{whole['gigabytes of parts']:.0f} GB where answers are as long as the miniature's to OD, "
        f"and a list of {whole['gigabytes of the list']:.1f} GB where names count up in one folder "
        "and all files are of one size, as where it was measured (others compress less). One "
        f"driver lists a local folder of them in {whole['minutes to list']:.0f} minutes and spends "
        f"{whole['minutes to write']:.1f} minutes of the whole run on writing. Resuming lists the "
        f"whole source again, to see that it is the same: {whole['minutes to list']:.0f} minutes "
        "before the first worker starts, on every machine that does so.",
        "table": "\n\n" + "\n".join([*_HEAD, *on_paper()]) + "\n\n",
        "limit": f"{1 / found['seconds to write a part, fsync and rename']:,.0f} parts a second",
    }


_HEAD = (
    "| model | task | pictures/s, 2 threads | years on one such machine | machines for 30 days | "
    "a lost shard costs |",
    "| --- | --- | --- | --- | --- | --- |",
)


def filled(page: str) -> str:
    """The page with what belongs between its `<!-- name -->` and `<!-- /name -->`."""
    for name, text in blocks().items():
        begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
        before, _, rest = page.partition(begin)
        page = before + begin + text + end + rest.partition(end)[2]
    return page


def draw(target: Path) -> None:
    """Draw speed-up by workers."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    mpl.rcParams["svg.hashsalt"] = "florence-edge"
    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    axes = figure.subplots()
    small = statistics.mean(seconds_by_part())
    large = 256 * seconds_a_picture("fp32 on cpu", "OD")
    for name, mean in (
        (f"the miniature, parts of {measured_part()} ({small:.1f} s)", small),
        (f"base in float32, parts of 256 ({large / 60:.0f} min)", large),
    ):
        points = [speedup(workers, mean, 20_000) for workers in WORKERS]
        axes.plot(WORKERS, points, marker="o", markersize=3, label=name)
    axes.plot(WORKERS, WORKERS, color="0.6", linewidth=0.8, linestyle=":", label="ideal")
    axes.axvspan(WORKERS[0], 2, color="0.5", alpha=0.15, linewidth=0)
    axes.set(xscale="log", yscale="log", xlabel="workers", ylabel="times one worker")
    axes.set_title("Simulated; two cores were at hand (grey)", fontsize=10, loc="left")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(target, metadata={"Date": None})


if __name__ == "__main__":
    draw(FIGURE)
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
