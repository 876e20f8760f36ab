"""Memory over many pictures and frames; minutes long, so only where `slow` tests are asked for.

With FLORENCE_EDGE_RECORD=results/memory/memory_growth.json and `-k miniature`, what the miniature
took is written down.
"""

import gc
import itertools
import json
import os
import platform
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from florence_edge import Florence2, GenerationOptions, run_many, watch
from florence_edge.video.watch import Watching

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
    for _ in run_many(tiny_model, pictures, ["OD", "CAPTION"], options=SHORT, batch=batch):
        memory.append(resident() if len(memory) in (100, 499) else 0.0)
    assert len(memory) == 500
    assert memory[499] - memory[100] < MOST_GROWTH


def test_the_miniature_finds_objects_in_a_thousand_pictures_and_does_not_grow(
    miniature_bundle: Path, tmp_path: Path
) -> None:
    model = Florence2.load(miniature_bundle, threads=1)
    (tmp_path / "pictures").mkdir()
    sizes = [(1600, 1200), (1280, 720), (900, 1600), (3000, 2000)]
    for number, scene in enumerate(itertools.islice(held_out(), 1000)):
        scene.resize(sizes[number % len(sizes)]).save(tmp_path / "pictures" / f"{number:03}.jpg")
    memory: dict[int, float] = {}
    regions, begin, greedy = 0, time.monotonic(), GenerationOptions(num_beams=1)
    pictures = sorted((tmp_path / "pictures").iterdir())
    for number, answered in enumerate(run_many(model, pictures, ["OD"], options=greedy), 1):
        regions += len(answered.results[0].regions)
        if number % 100 == 0:
            memory[number] = round(resident(), 1)
    record(
        "pictures",
        {
            "task": "OD, greedy; a folder of held-out scenes as JPEG, 0.9 to 6 megapixels",
            "pictures_answered": max(memory),
            "regions_found": regions,
            "minutes": round((time.monotonic() - begin) / 60, 1),
            "resident_mb_after_pictures": memory,
        },
    )
    assert regions > 1000
    assert max(memory.values()) - memory[200] < MOST_GROWTH


@pytest.mark.parametrize("live", [False, True])
def test_ten_thousand_frames_take_no_more_than_two_thousand(
    tiny_model: Florence2, live: bool
) -> None:
    with_dropping = Watching(live=live)
    memory: list[float] = []
    for _, _, stats in watch(tiny_model, noise(), "OD", options=SHORT, how=with_dropping):
        if stats.answered % 2000 == 0:
            memory.append(resident())
        if stats.answered == 10_000:
            break
    assert len(memory) == 5
    assert memory[-1] - memory[0] < MOST_GROWTH


def test_the_miniature_finds_objects_in_ten_thousand_frames_and_does_not_grow(
    miniature_bundle: Path, tmp_path: Path
) -> None:
    model = Florence2.load(miniature_bundle, threads=1)
    memory: dict[int, float] = {}
    regions, begin = 0, time.monotonic()
    greedy, live = GenerationOptions(num_beams=1), Watching(live=True)
    for _, (found,), stats in watch(model, scenes(), "OD", options=greedy, how=live):
        regions += len(found.regions)
        if stats.answered % 1000 == 0:
            memory[stats.answered] = round(resident(), 1)
        if stats.answered == 10_000:
            break
    record(
        "frames",
        {
            "task": "OD, greedy; the held-out scenes as a live source of changing size",
            "frames_answered": max(memory),
            "regions_found": regions,
            "minutes": round((time.monotonic() - begin) / 60, 1),
            "resident_mb_after_frames": memory,
        },
    )
    assert regions > 10_000
    assert max(memory.values()) - memory[2000] < MOST_GROWTH


def noise() -> Iterator[np.ndarray]:
    rng = np.random.default_rng(0)
    while True:
        yield rng.integers(0, 256, (480, 640, 3), dtype=np.uint8)


def scenes() -> Iterator[Image.Image]:
    """The held-out scenes in four sizes, as a live source gives them."""
    sizes = [(640, 480), (1280, 720), (320, 240), (600, 601)]
    for number, scene in enumerate(held_out()):
        time.sleep(0.005)  # a camera's own pace: not all of its time is ours
        yield scene.resize(sizes[number // 100 % len(sizes)])


def held_out() -> Iterator[Image.Image]:
    """The held-out scenes over and over."""
    folder = Path(__file__).parents[2] / "calibration" / "held_out" / "pictures"
    return itertools.cycle(Image.open(path).convert("RGB") for path in sorted(folder.iterdir()))


def record(what: str, found: dict[str, Any]) -> None:
    """Put what was found into the JSON file that FLORENCE_EDGE_RECORD names, beside the rest."""
    if "FLORENCE_EDGE_RECORD" in os.environ:
        path = Path(os.environ["FLORENCE_EDGE_RECORD"])
        content = json.loads(path.read_text()) if path.exists() else {}
        content[what] = {
            "command": "FLORENCE_EDGE_RECORD=results/memory/memory_growth.json pytest -m slow "
            "tests/runtime/test_memory_growth.py -k miniature",
            "model": "the miniature, fp32, onnxruntime on the CPU, one thread",
            "machine": f"{platform.machine()}, Python {platform.python_version()}",
            **found,
        }
        path.write_text(json.dumps(content, indent=1) + "\n")
