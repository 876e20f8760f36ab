"""Memory over many pictures and frames; minutes long, so only where `slow` tests are asked for.

FLORENCE_EDGE_RECORD=runtime/memory_growth.json pytest -m slow tests/runtime/test_memory_growth.py
writes down what the miniature took.
"""

import gc
import itertools
import json
import os
import platform
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from florence_edge import Florence2, GenerationOptions
from florence_edge.video.watch import Watching

from .miniature_answers import export_miniature

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads Linux's /proc"),
]

SHORT = GenerationOptions(num_beams=1, max_new_tokens=4)
MOST_GROWTH = 12.0  # MB between a fifth of the way and its end; one leaked picture has 6


def resident() -> float:
    """MB."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6


@pytest.mark.parametrize("batch", [1, 4])
def test_five_hundred_pictures_take_no_more_than_a_hundred(
    tiny_model: Florence2, tmp_path: Path, batch: int
) -> None:
    rng = np.random.default_rng(0)
    for number in range(500):
        noise = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        noise.resize((1600, 1200)).save(tmp_path / f"{number:03}.jpg")
    memory: list[float] = []
    pictures = sorted(tmp_path.iterdir())
    for _ in tiny_model.run_many(pictures, ["OD", "CAPTION"], options=SHORT, batch=batch):
        memory.append(resident() if len(memory) in (100, 499) else 0.0)
    assert len(memory) == 500
    assert memory[499] - memory[100] < MOST_GROWTH


@pytest.mark.parametrize("live", [False, True])
def test_ten_thousand_frames_take_no_more_than_two_thousand(
    tiny_model: Florence2, live: bool
) -> None:
    with_dropping = Watching(live=live)
    memory: list[float] = []
    for _, _, stats in tiny_model.watch(noise(), "OD", options=SHORT, how=with_dropping):
        if stats.answered % 2000 == 0:
            memory.append(resident())
        if stats.answered == 10_000:
            break
    assert len(memory) == 5
    assert memory[-1] - memory[0] < MOST_GROWTH


def test_the_miniature_finds_objects_in_ten_thousand_frames_and_does_not_grow(
    tmp_path: Path,
) -> None:
    model = Florence2.load(export_miniature(tmp_path), threads=1)
    memory: dict[int, float] = {}
    regions, begin = 0, time.monotonic()
    greedy, live = GenerationOptions(num_beams=1), Watching(live=True)
    for _, (found,), stats in model.watch(scenes(), "OD", options=greedy, how=live):
        regions += len(found.regions)
        if stats.answered % 1000 == 0:
            memory[stats.answered] = round(resident(), 1)
        if stats.answered == 10_000:
            break
    record(memory, regions, time.monotonic() - begin)
    assert regions > 10_000
    assert max(memory.values()) - memory[2000] < MOST_GROWTH


def noise() -> Iterator[np.ndarray]:
    rng = np.random.default_rng(0)
    while True:
        yield rng.integers(0, 256, (480, 640, 3), dtype=np.uint8)


def scenes() -> Iterator[Image.Image]:
    """The held-out scenes over and over, in four sizes, as a live source gives them."""
    folder = Path(__file__).parents[2] / "calibration" / "held_out" / "pictures"
    pictures = [Image.open(path).convert("RGB") for path in sorted(folder.iterdir())]
    sizes = [(640, 480), (1280, 720), (320, 240), (600, 601)]
    for number in itertools.count():
        time.sleep(0.005)  # a camera's own pace: not all of its time is ours
        yield pictures[number % len(pictures)].resize(sizes[number // 100 % len(sizes)])


def record(memory: dict[int, float], regions: int, seconds: float) -> None:
    if "FLORENCE_EDGE_RECORD" in os.environ:
        content = {
            "command": "FLORENCE_EDGE_RECORD=runtime/memory_growth.json pytest -m slow "
            "tests/runtime/test_memory_growth.py -k miniature",
            "model": "the miniature, fp32, onnxruntime on the CPU, one thread",
            "task": "OD, greedy; the held-out scenes as a live source of changing size",
            "machine": f"{platform.machine()}, Python {platform.python_version()}",
            "frames_answered": max(memory),
            "regions_found": regions,
            "minutes": round(seconds / 60, 1),
            "resident_mb_after_frames": memory,
        }
        path = Path(os.environ["FLORENCE_EDGE_RECORD"])
        path.write_text(json.dumps(content, indent=1) + "\n")
