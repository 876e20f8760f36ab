"""Scenes painted as pictures, of any size.

Backgrounds, muted so that things stand out: plain, textured, and photo-like from noise.
"""

import numpy as np
from PIL import Image

from .. import Float32s
from .layout import GRID, GridBox, Scene, SceneObject, SceneWord
from .shapes import COLOURS, SHAPES, shape_mask
from .words import word_mask

SceneImage = Float32s  # [size, size, 3], 0..255

_INK = {True: 20.0, False: 242.0}  # dark and light words, in grey levels


def draw_scene(scene: Scene, image_size: int = 128) -> Image.Image:
    """Draw a scene as a square RGB picture; the same scene and size give the same picture."""
    random = np.random.default_rng([scene.seed, 1])
    picture = _paint_background(scene.background, image_size, random)
    for thing in scene.depth_order:
        _draw_object(picture, thing, random)
    for word in scene.words:
        _draw_word(picture, word)
    picture += scene.noise * random.standard_normal(picture.shape, dtype=np.float32)
    return Image.fromarray(np.clip(picture + 0.5, 0, 255).astype(np.uint8))


def _draw_object(picture: SceneImage, thing: SceneObject, random: np.random.Generator) -> None:
    x1, y1, x2, y2 = _pixels(thing.box, len(picture))
    covered, rim = shape_mask(SHAPES[thing.shape], x2 - x1, y2 - y1)
    colour = np.asarray(COLOURS[thing.colour], dtype=np.float32)
    colour = np.clip(colour + random.uniform(-12, 12, size=3), 0, 255)
    # A rim keeps a shape apart from a neighbour or a background of its own colour.
    rim_colour = colour * 0.5 if colour.mean() > 60 else colour + 90
    _blend(picture[y1:y2, x1:x2], colour, covered)
    _blend(picture[y1:y2, x1:x2], rim_colour, rim)


def _draw_word(picture: SceneImage, word: SceneWord) -> None:
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


def _blend(area: SceneImage, colour: Float32s, share: Float32s) -> None:
    area += share[..., None] * (colour - area)


def _pixels(box: GridBox, image_size: int) -> GridBox:
    x1, y1, x2, y2 = (round(side * image_size / GRID) for side in box)
    return (x1, y1, x2, y2)


def _paint_background(kind: str, size: int, random: np.random.Generator) -> SceneImage:
    """Paint a square background of one of layout.BACKGROUNDS."""
    painters = {"plain": _plain, "textured": _textured, "photographic": _photographic}
    return painters[kind](size, random)


def _muted_colour(random: np.random.Generator, low: float = 90, high: float = 200) -> Float32s:
    grey = random.uniform(low, high)
    return np.asarray(grey + random.uniform(-22, 22, size=3), dtype=np.float32)


def _plain(size: int, random: np.random.Generator) -> SceneImage:
    return np.broadcast_to(_muted_colour(random), (size, size, 3)).copy()


def _textured(size: int, random: np.random.Generator) -> SceneImage:
    colour, other = _muted_colour(random), random.uniform(-26, 26, size=3)
    y, x = np.mgrid[0:size, 0:size] / size
    angle, frequency = random.uniform(0, np.pi), random.uniform(5, 14)
    along = (x * np.cos(angle) + y * np.sin(angle)) * frequency * 2 * np.pi
    across = (y * np.cos(angle) - x * np.sin(angle)) * frequency * 2 * np.pi
    patterns = {
        "stripes": np.sin(along),
        "checks": np.sign(np.sin(along) * np.sin(across)),
        "dots": (np.sin(along) + np.sin(across) > 1.0).astype(np.float64),
        "waves": np.sin(along + 2 * np.sin(across / 2)),
    }
    pattern = patterns[str(random.choice(list(patterns)))]
    return np.asarray(colour + pattern[..., None] * other, dtype=np.float32)


def _photographic(size: int, random: np.random.Generator) -> SceneImage:
    """A landscape of sorts: a lit sky over rough ground, with a wavy horizon between."""
    y = np.linspace(0, 1, size, dtype=np.float32)[:, None]
    rough, soft = _cloud(size, random, 8, 4), _cloud(size, random, 2, 3)
    horizon = random.uniform(0.2, 0.8) + 0.08 * soft[size // 2][None, :]
    edge = random.uniform(0.01, 0.08)
    ground = 1 / (1 + np.exp(np.clip((horizon - y) / edge, -30, 30)))
    sky_colour, ground_colour = _muted_colour(random, 130, 205), _muted_colour(random, 80, 160)
    sky = sky_colour + (18 * soft + 30 * (0.5 - y))[..., None]
    earth = ground_colour + (20 * rough + 10 * soft + 25 * (y - 0.7))[..., None]
    picture = sky * (1 - ground[..., None]) + earth * ground[..., None]
    return np.asarray(picture, dtype=np.float32)


def _cloud(size: int, random: np.random.Generator, coarsest: int, octaves: int) -> Float32s:
    """Smooth noise, the sum of ever finer grids, about -1 to 1."""
    total = np.zeros((size, size), dtype=np.float32)
    for octave in range(octaves):
        cells = min(coarsest * 2**octave, size)
        grid = random.standard_normal((cells, cells)).astype(np.float32)
        layer = Image.fromarray(grid).resize((size, size), Image.Resampling.BICUBIC)
        total += np.asarray(layer, dtype=np.float32) / 2**octave
    return total / 1.6
