"""Memory over many pictures and frames; minutes long, so only where `slow` tests are asked for."""

import gc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from florence_edge import Florence2, GenerationOptions
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


def test_five_hundred_pictures_take_no_more_than_a_hundred(
    tiny_model: Florence2, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    for number in range(500):
        noise = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        noise.resize((1600, 1200)).save(tmp_path / f"{number:03}.jpg")
    memory: list[float] = []
    for _ in tiny_model.run_many(sorted(tmp_path.iterdir()), ["OD", "CAPTION"], options=SHORT):
        memory.append(resident() if len(memory) in (100, 499) else 0.0)
    assert len(memory) == 500
    assert memory[499] - memory[100] < MOST_GROWTH


@pytest.mark.parametrize("live", [False, True])
def test_ten_thousand_frames_take_no_more_than_two_thousand(
    tiny_model: Florence2, live: bool
) -> None:
    def frames() -> Iterator[np.ndarray]:
        rng = np.random.default_rng(0)
        while True:
            yield rng.integers(0, 256, (480, 640, 3), dtype=np.uint8)

    memory: list[float] = []
    with_dropping = Watching(live=live)
    for _, _, stats in tiny_model.watch(frames(), "OD", options=SHORT, how=with_dropping):
        if stats.answered % 2000 == 0:
            memory.append(resident())
        if stats.answered == 10_000:
            break
    assert len(memory) == 5
    assert memory[-1] - memory[0] < MOST_GROWTH
