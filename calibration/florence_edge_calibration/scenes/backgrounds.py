"""Backgrounds, muted so that things stand out: plain, textured, and photo-like from noise."""

import numpy as np
import numpy.typing as npt
from PIL import Image

Picture = npt.NDArray[np.float32]  # [size, size, 3], 0..255
Random = np.random.Generator

BACKGROUNDS: tuple[str, ...] = ("plain", "textured", "photographic")


def paint_background(kind: str, size: int, random: Random) -> Picture:
    """Paint a square background of one of BACKGROUNDS."""
    painters = {"plain": _plain, "textured": _textured, "photographic": _photographic}
    return painters[kind](size, random)


def _muted_colour(random: Random, low: float = 90, high: float = 200) -> Picture:
    grey = random.uniform(low, high)
    return np.asarray(grey + random.uniform(-22, 22, size=3), dtype=np.float32)


def _plain(size: int, random: Random) -> Picture:
    return np.broadcast_to(_muted_colour(random), (size, size, 3)).copy()


def _textured(size: int, random: Random) -> Picture:
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


def _cloud(size: int, random: Random, coarsest: int, octaves: int) -> npt.NDArray[np.float32]:
    """Smooth noise, the sum of ever finer grids, about -1 to 1."""
    total = np.zeros((size, size), dtype=np.float32)
    for octave in range(octaves):
        cells = min(coarsest * 2**octave, size)
        grid = random.standard_normal((cells, cells)).astype(np.float32)
        layer = Image.fromarray(grid).resize((size, size), Image.Resampling.BICUBIC)
        total += np.asarray(layer, dtype=np.float32) / 2**octave
    return total / 1.6


def _photographic(size: int, random: Random) -> Picture:
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
