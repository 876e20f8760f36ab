"""Scenes as pictures, of any size."""

import numpy as np
import numpy.typing as npt
from PIL import Image

from .backgrounds import Picture, paint_background
from .layout import GRID, Box, Scene, SceneObject, SceneWord
from .shapes import COLOURS, SHAPES, shape_mask
from .words import word_mask

_INK = {True: 20.0, False: 242.0}  # dark and light words, in grey levels


def draw_scene(scene: Scene, image_size: int = 128) -> Image.Image:
    """Draw a scene as a square RGB picture; the same scene and size give the same picture."""
    random = np.random.default_rng([scene.seed, 1])
    picture = paint_background(scene.background, image_size, random)
    for thing in scene.depth_order:
        _draw_object(picture, thing, random)
    for word in scene.words:
        _draw_word(picture, word)
    picture += scene.noise * random.standard_normal(picture.shape, dtype=np.float32)
    return Image.fromarray(np.clip(picture + 0.5, 0, 255).astype(np.uint8))


def _draw_object(picture: Picture, thing: SceneObject, random: np.random.Generator) -> None:
    x1, y1, x2, y2 = _pixels(thing.box, len(picture))
    covered, rim = shape_mask(SHAPES[thing.shape], x2 - x1, y2 - y1)
    colour = np.asarray(COLOURS[thing.colour], dtype=np.float32)
    colour = np.clip(colour + random.uniform(-12, 12, size=3), 0, 255)
    # A rim keeps a shape apart from a neighbour or a background of its own colour.
    rim_colour = colour * 0.5 if colour.mean() > 60 else colour + 90
    _blend(picture[y1:y2, x1:x2], colour, covered)
    _blend(picture[y1:y2, x1:x2], rim_colour, rim)


def _draw_word(picture: Picture, word: SceneWord) -> None:
    x1, y1, x2, y2 = _pixels(word.box, len(picture))
    margin = max(1, len(picture) // 64)
    if word.plate:
        around = picture[max(0, y1 - margin) : y2 + margin, max(0, x1 - margin) : x2 + margin]
        around[:] = _INK[not word.dark]
    else:
        # Without a plate the ground itself is pushed away from the ink, as on a lit or shaded wall.
        around = picture[y1:y2, x1:x2]
        around[:] = 0.6 * around + 0.4 * _INK[not word.dark]
    ink = np.full(3, _INK[word.dark], dtype=np.float32)
    _blend(picture[y1:y2, x1:x2], ink, word_mask(word.text, x2 - x1, y2 - y1))


def _blend(area: Picture, colour: Picture, share: npt.NDArray[np.float32]) -> None:
    area += share[..., None] * (colour - area)


def _pixels(box: Box, image_size: int) -> Box:
    x1, y1, x2, y2 = (round(side * image_size / GRID) for side in box)
    return (x1, y1, x2, y2)
