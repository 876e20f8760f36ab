"""Generated scenes with known truth: the door for training, calibration, accuracy and demos."""

from collections.abc import Iterator

import numpy as np

from .drawing import draw_scene
from .layout import GRID, Scene, SceneObject, SceneWord, compose, draw_object_count
from .questions import SceneQuestion, ask, ask_everything, no_answer_repeats_a_trigram

__all__ = [
    "GRID",
    "Scene",
    "SceneObject",
    "SceneQuestion",
    "SceneWord",
    "ask",
    "ask_everything",
    "draw_scene",
    "generate_scene",
    "generate_scenes",
]


def generate_scene(seed: int) -> Scene:
    """The scene of a seed: 1 to 5 objects and 1 or 2 words on a background."""
    random = np.random.default_rng([seed, 0])
    object_count = draw_object_count(random)
    while True:
        scene = compose(seed, object_count, random)
        if no_answer_repeats_a_trigram(scene):
            return scene


def generate_scenes(first_seed: int, count: int) -> Iterator[Scene]:
    """The scenes of consecutive seeds."""
    return (generate_scene(first_seed + offset) for offset in range(count))
