"""Pictures and what is asked about them: what calibration sees, and what the gate judges by."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from florence_edge.errors import ImageError, RequestError
from florence_edge.image import SUFFIXES, load_image
from florence_edge.questions import Question, question
from florence_edge.tasks import TASKS, Needs

from ..scenes import ask_everything, draw_scene, generate_scene

logger = logging.getLogger(__name__)

LEAST_PICTURES = 8
# Generated scenes for the miniature: far from its training (100,000,000 on) and held-out (0 on).
_FIRST_SCENE = 700_000

# What tasks that take a text ask of pictures nobody has described.
_CAPTION = "A person stands next to a table with a cup, a chair and a bag in front of a building."
_PHRASES = ("person", "car", "table", "animal", "sign", "building", "bottle", "tree")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sample:
    """A picture, read when needed, one question of each task, and the right answers if known."""

    name: str
    read: Callable[[], Image.Image]
    questions: tuple[Question, ...]
    truths: tuple[str, ...] | None = None


def scene_samples(count: int, *, image_size: int, skip: int = 0) -> list[Sample]:
    """Generated scenes with their truth: samples for the miniature."""
    samples = []
    for seed in range(_FIRST_SCENE + skip, _FIRST_SCENE + skip + count):
        scene = generate_scene(seed)
        asked = ask_everything(scene)
        samples.append(
            Sample(
                name=f"scene {seed}",
                read=partial(draw_scene, scene, image_size),
                questions=tuple(
                    question(each.task, each.text or None, None, None) for each in asked
                ),
                truths=tuple(each.answer for each in asked),
            )
        )
    return samples


def folder_samples(folder: Path, most: int) -> list[Sample]:
    """The pictures of a folder, evenly chosen by name where there are more than `most`.

    Pictures that cannot be read, or are all one colour, are named in a warning and left out.

    Raises:
        RequestError: there is no such folder, or fewer than LEAST_PICTURES of its pictures serve.
    """
    paths = pictures_in(folder)
    chosen = [paths[i * len(paths) // most] for i in range(most)] if len(paths) > most else paths
    samples = [
        Sample(name=str(path), read=partial(load_image, path), questions=_questions_about(index))
        for index, path in enumerate(chosen)
        if _serves(path)
    ]
    if len(samples) < LEAST_PICTURES:
        raise RequestError(f"{folder} has {len(samples)} pictures that serve. {HOW_MANY}")
    return samples


def pictures_in(folder: Path) -> list[Path]:
    """The picture files of a folder and those below it, by name; none has been opened.

    Raises:
        RequestError: there is no such folder, or it has fewer than LEAST_PICTURES of them.
    """
    if not folder.is_dir():
        raise RequestError(f"There is no folder {folder}. {HOW_MANY}")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if len(paths) < LEAST_PICTURES:
        raise RequestError(f"{folder} has {len(paths)} pictures. {HOW_MANY}")
    return paths


HOW_MANY = (
    f"Calibration needs at least {LEAST_PICTURES} pictures, better 128 to 512, of the kind the "
    "model will see (photographs from the robot's own camera, if it has one), as "
    f"{', '.join(sorted(SUFFIXES))}."
)


def split(samples: Sequence[Sample]) -> tuple[list[Sample], list[Sample]]:
    """Three quarters to calibrate with, and every fourth, never calibrated with, to judge by."""
    judged = list(samples[3::4])
    return [sample for i, sample in enumerate(samples) if i % 4 != 3], judged


def _serves(path: Path) -> bool:
    try:
        picture = load_image(path)
    except ImageError as error:
        logger.warning("Left out: %s", error)
        return False
    if picture.getcolors(maxcolors=1) is not None:
        logger.warning("Left out: %s is all one colour.", path)
        return False
    return True


def _questions_about(index: int) -> tuple[Question, ...]:
    """One question of each task, with regions and phrases that differ from picture to picture."""
    random = np.random.default_rng(index)
    texts = {Needs.NOTHING: None, Needs.REGION: _some_region(random)}
    phrase = _PHRASES[index % len(_PHRASES)]
    return tuple(
        question(
            task,
            texts.get(task.needs, _CAPTION if "GROUNDING" in task.name else phrase),
            None,
            None,
        )
        for task in TASKS.values()
    )


def _some_region(random: np.random.Generator) -> str:
    """Four location tokens around a fifth to nine tenths of each side."""
    sides = random.uniform(200, 900, 2)
    corner = random.uniform(0, 999 - sides)
    return "".join(f"<loc_{int(place)}>" for place in (*corner, *(corner + sides)))
