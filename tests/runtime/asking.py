"""Pictures of noise, what each task needs beside one, and asking it."""

from typing import Any

import numpy as np
import pytest
from PIL import Image

from florence_edge import TASKS, Florence2, GenerationOptions
from florence_edge.results.result import Result
from florence_edge.tasks import Needs

SHORT = GenerationOptions(max_new_tokens=12)
REGION = (10, 20, 60, 45)


def noise_pictures(*sizes: tuple[int, int]) -> list[Image.Image]:
    """Smooth noise of these sizes (width, height), the same in every run."""
    rng = np.random.default_rng(1)
    noise = [Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)) for _ in sizes]
    return [image.resize(size) for image, size in zip(noise, sizes, strict=True)]


def text_for(task: str) -> str | None:
    return "a red car" if TASKS[task].needs is Needs.TEXT else None


def region_for(task: str) -> tuple[int, int, int, int] | None:
    return REGION if TASKS[task].needs is Needs.REGION else None


def ask(model: Florence2, task: str, image: Any, options: GenerationOptions) -> Result:
    return model.run(image, task, text_for(task), region=region_for(task), options=options)


def assert_alike(found: Result, expected: Result) -> None:
    assert found.token_ids == expected.token_ids
    assert found.token_log_probs == pytest.approx(expected.token_log_probs, rel=1e-4, abs=1e-4)
    assert found.to_hf() == expected.to_hf()
