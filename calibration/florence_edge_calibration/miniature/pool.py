"""Rendered training scenes on disk, painted ahead of the training by a process of their own."""

import multiprocessing
import os
import pickle
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from florence_edge_calibration.scenes import Scene, draw_scene, generate_scenes

from .model import IMAGE_SIZE

Pixels = npt.NDArray[np.uint8]  # [scenes, IMAGE_SIZE, IMAGE_SIZE, 3]
_CHUNK = 2048


class ScenePool:
    """A fixed number of scenes, reached by index as often as training goes round."""

    def __init__(self, folder: Path, first_seed: int, chunks: int) -> None:
        self._folder, self._first_seed, self._chunks = folder, first_seed, chunks
        self._open: tuple[int, Pixels, list[Scene]] | None = None
        folder.mkdir(parents=True, exist_ok=True)

    def paint_ahead(self) -> None:
        """Start the process that paints what is not there yet; it ends with this one."""
        multiprocessing.get_context("spawn").Process(
            target=_paint, args=(self._folder, self._first_seed, self._chunks), daemon=True
        ).start()

    def take(self, start: int, count: int) -> tuple[Pixels, Sequence[Scene]]:
        """The scenes from `start` on, which wraps around; a batch never spans two chunks."""
        chunk, offset = divmod(start % (self._chunks * _CHUNK), _CHUNK)
        if self._open is None or self._open[0] != chunk:
            self._open = (chunk, *_load(self._folder / f"{chunk:04d}.pickle"))
        _, pixels, scenes = self._open
        return pixels[offset : offset + count], scenes[offset : offset + count]


def _load(path: Path) -> tuple[Pixels, list[Scene]]:
    while not path.exists():
        time.sleep(1)
    with path.open("rb") as file:
        pixels, scenes = pickle.load(file)
    return pixels, scenes


def _paint(folder: Path, first_seed: int, chunks: int) -> None:
    os.nice(4)  # the training comes first
    parent = multiprocessing.parent_process()
    for chunk in range(chunks):
        path = folder / f"{chunk:04d}.pickle"
        if path.exists():
            continue
        if parent is not None and not parent.is_alive():
            return
        scenes = list(generate_scenes(first_seed + chunk * _CHUNK, _CHUNK))
        pixels = np.stack([_picture(scene) for scene in scenes])
        unfinished = path.with_suffix(".part")
        unfinished.write_bytes(pickle.dumps((pixels, scenes), protocol=pickle.HIGHEST_PROTOCOL))
        unfinished.rename(path)


def _picture(scene: Scene) -> Pixels:
    """Draw a scene; every fourth one larger and then shrunk, as a processor does."""
    if scene.seed % 4:
        return np.asarray(draw_scene(scene, IMAGE_SIZE))
    large = draw_scene(scene, 2 * IMAGE_SIZE)
    return np.asarray(large.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC))
