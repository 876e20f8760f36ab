"""The calibration data set: pictures, each with a prompt for every task.

Three quarters of it calibrate; the rest is for the gate, which judges by pictures that calibration
never read.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from florence_edge.errors import ImageError, ImageNotFoundError, RequestError
from florence_edge.image import load_image
from florence_edge.image_file import SUFFIXES, FolderPictures, ImageOptions
from florence_edge.image_file import pictures_in as files_in
from florence_edge.tasks import TASKS, Needs, Prompt, prompt_for

from ..scenes import ask_everything, draw_scene, generate_scene

logger = logging.getLogger(__name__)

MIN_PICTURES = 8
HOW_MANY = (
    f"Calibration needs at least {MIN_PICTURES} pictures, better 128 to 512, of the kind the "
    "model will see (photographs from the robot's own camera, if it has one), as "
    f"{', '.join(sorted(SUFFIXES))}."
)

# Generated scenes for the miniature: far from its training (100,000,000 on) and held-out (0 on).
_FIRST_SCENE = 700_000

# What tasks that take a text ask of pictures nobody has described.
_CAPTION = "A person stands next to a table with a cup, a chair and a bag in front of a building."
_PHRASES = ("person", "car", "table", "animal", "sign", "building", "bottle", "tree")

ShowProgress = Callable[[int, int], None]
"""Called with the number of pictures done, and of pictures in all."""


def no_progress(done: int, count: int) -> None:
    """Show nothing."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CalibrationSample:
    """A picture, read when needed, a prompt for each task, and the right answers if known."""

    name: str
    read: Callable[[], Image.Image]
    prompts: tuple[Prompt, ...]
    truths: tuple[str, ...] | None = None


def scene_samples(count: int, *, image_size: int, skip: int = 0) -> list[CalibrationSample]:
    """Generated scenes with their truth: samples for the miniature."""
    samples = []
    for seed in range(_FIRST_SCENE + skip, _FIRST_SCENE + skip + count):
        scene = generate_scene(seed)
        questions = ask_everything(scene)
        samples.append(
            CalibrationSample(
                name=f"scene {seed}",
                read=partial(draw_scene, scene, image_size),
                prompts=tuple(
                    prompt_for(each.task, each.text or None, None, None) for each in questions
                ),
                truths=tuple(each.answer for each in questions),
            )
        )
    return samples


def folder_samples(
    folder: Path, max_count: int, options: ImageOptions | None = None
) -> list[CalibrationSample]:
    """The pictures of a folder, evenly chosen by name where there are more than `max_count`.

    Pictures that cannot be read (broken links, for example), or are all one colour, are named in a
    warning and left out; what is not called as pictures are is counted there.

    Raises:
        ImageNotFoundError: there is no such folder.
        RequestError: fewer than MIN_PICTURES of its pictures serve.
    """
    options = options or ImageOptions()
    found = pictures_in(folder)
    if found.left_out():
        logger.warning("%s: %s", folder, found.left_out())
    paths = list(found.paths)
    if len(paths) > max_count:
        paths = [paths[i * len(paths) // max_count] for i in range(max_count)]
    samples = [
        CalibrationSample(
            name=str(path), read=partial(load_image, path, options), prompts=_prompts_about(index)
        )
        for index, path in enumerate(paths)
        if _serves(path, options)
    ]
    if len(samples) < MIN_PICTURES:
        raise RequestError(f"{folder} has {len(samples)} pictures that serve. {HOW_MANY}")
    return samples


def pictures_in(folder: Path) -> FolderPictures:
    """The picture files of a folder and those below it, by name; none has been opened.

    Raises:
        ImageNotFoundError: there is no such folder.
        RequestError: it has fewer than MIN_PICTURES of them.
    """
    if not folder.is_dir():
        raise ImageNotFoundError(f"There is no folder {folder}. {HOW_MANY}")
    found = files_in(folder, below=True)
    if len(found.paths) < MIN_PICTURES:
        beside = f" ({found.left_out().removesuffix('.')})" if found.left_out() else ""
        raise RequestError(f"{folder} has {len(found.paths)} pictures{beside}. {HOW_MANY}")
    return found


def split(
    samples: Sequence[CalibrationSample],
) -> tuple[list[CalibrationSample], list[CalibrationSample]]:
    """Three quarters to calibrate with, and every fourth, never calibrated with, to judge by."""
    judged = list(samples[3::4])
    return [sample for i, sample in enumerate(samples) if i % 4 != 3], judged


def _serves(path: Path, options: ImageOptions) -> bool:
    try:
        picture = load_image(path, options)
    except ImageError as error:
        logger.warning("Left out: %s", error)
        return False
    if picture.getcolors(maxcolors=1) is not None:
        logger.warning("Left out: %s is all one colour.", path)
        return False
    return True


def _prompts_about(index: int) -> tuple[Prompt, ...]:
    """A prompt for each task, with regions and phrases that differ from picture to picture."""
    random = np.random.default_rng(index)
    texts = {Needs.NOTHING: None, Needs.REGION: _some_region(random)}
    phrase = _PHRASES[index % len(_PHRASES)]
    return tuple(
        prompt_for(
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
