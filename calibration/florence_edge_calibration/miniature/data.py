"""Training data: scenes painted to disk ahead of training, and batches of questions about them."""

import multiprocessing
import os
import pickle
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from tokenizers import Tokenizer

from florence_edge.files import write_whole

from ..scenes import Scene, SceneQuestion, ask, draw_scene, generate_scenes
from .dense_head import DenseTruth, dense_truth
from .model import IMAGE_SIZE

_CHUNK = 2048  # scenes in a file of the pool
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # preprocessor_config.json
_START, _PAD = 2, 1

# How often a task is asked: long answers and fine ones need more practice.
_TASK_WEIGHTS = {
    "CAPTION": 1.5,
    "DETAILED_CAPTION": 1.2,
    "MORE_DETAILED_CAPTION": 1.2,
    "OCR": 1.2,
    "OCR_WITH_REGION": 1.2,
    "OD": 1.6,
    "DENSE_REGION_CAPTION": 1.6,
    "REGION_PROPOSAL": 1.0,
    "CAPTION_TO_PHRASE_GROUNDING": 1.5,
    "OPEN_VOCABULARY_DETECTION": 1.0,
    "REFERRING_EXPRESSION_SEGMENTATION": 2.8,
    "REGION_TO_SEGMENTATION": 2.4,
    "REGION_TO_CATEGORY": 0.7,
    "REGION_TO_DESCRIPTION": 0.7,
    "REGION_TO_OCR": 0.9,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Pictures and the questions about them, `questions_each` in a row for each picture."""

    pixels: torch.Tensor  # [images, 3, size, size]
    dense: DenseTruth
    questions_each: int
    prompt_ids: torch.Tensor  # [questions, prompt]
    prompt_mask: torch.Tensor
    decoder_ids: torch.Tensor  # [questions, answer]
    labels: torch.Tensor  # [questions, answer], -100 where there is none


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSource:
    """Makes the batch of a step; the same step gives the same batch."""

    pool: "ScenePool"
    tokenizer: Tokenizer
    seed: int
    images: int
    questions_each: int

    def batch(self, step: int) -> Batch:
        """Draw pictures from the pool and questions about them."""
        random = np.random.default_rng([self.seed, step])
        pixels, scenes = self.pool.take(step * self.images, self.images)
        questions = [question for scene in scenes for question in self._questions(scene, random)]
        prompt_ids = self._encode([question.prompt for question in questions])
        answer_ids = self._encode([question.answer for question in questions])
        start = torch.full((len(questions), 1), _START)
        return Batch(
            pixels=_normalized(pixels, random),
            dense=dense_truth(scenes),
            questions_each=self.questions_each,
            prompt_ids=prompt_ids,
            prompt_mask=(prompt_ids != _PAD).long(),
            decoder_ids=torch.cat([start, answer_ids[:, :-1]], dim=1),
            labels=answer_ids.masked_fill(answer_ids == _PAD, -100),
        )

    def _questions(self, scene: Scene, random: np.random.Generator) -> list[SceneQuestion]:
        weights = np.array(list(_TASK_WEIGHTS.values()))
        tasks = random.choice(
            list(_TASK_WEIGHTS), size=self.questions_each, replace=False, p=weights / weights.sum()
        )
        return [ask(scene, str(task), random) for task in tasks]

    def _encode(self, texts: Sequence[str]) -> torch.Tensor:
        encodings = self.tokenizer.encode_batch(list(texts))  # with <s> and </s>
        longest = max(len(encoding.ids) for encoding in encodings)
        padded = [encoding.ids + [_PAD] * (longest - len(encoding.ids)) for encoding in encodings]
        return torch.tensor(padded)


def _normalized(pixels: npt.NDArray[np.uint8], random: np.random.Generator) -> torch.Tensor:
    """To the model's range, with a little change of light that no answer depends on."""
    contrast = torch.from_numpy(random.uniform(0.85, 1.15, size=(len(pixels), 1, 1, 1)))
    light = torch.from_numpy(random.uniform(-0.08, 0.08, size=(len(pixels), 1, 1, 1)))
    values = torch.from_numpy(pixels).permute(0, 3, 1, 2).double() / 255
    values = ((values - 0.5) * contrast + 0.5 + light).clamp(0, 1).float()
    return (values - torch.tensor(_MEAN)[:, None, None]) / torch.tensor(_DEVIATION)[:, None, None]


class ScenePool:
    """A fixed number of scenes, reached by index as often as training goes round."""

    def __init__(self, folder: Path, first_seed: int, chunks: int) -> None:
        self._folder, self._first_seed, self._chunks = folder, first_seed, chunks
        self._open: tuple[int, npt.NDArray[np.uint8], list[Scene]] | None = None
        folder.mkdir(parents=True, exist_ok=True)

    def paint_ahead(self) -> None:
        """Start the process that paints what is not there yet; it ends with this one."""
        multiprocessing.get_context("spawn").Process(
            target=_paint, args=(self._folder, self._first_seed, self._chunks), daemon=True
        ).start()

    def take(self, start: int, count: int) -> tuple[npt.NDArray[np.uint8], Sequence[Scene]]:
        """Pictures [count, IMAGE_SIZE, IMAGE_SIZE, 3] and their scenes, from `start` on.

        `start` wraps around; a batch never spans two chunks.
        """
        chunk, offset = divmod(start % (self._chunks * _CHUNK), _CHUNK)
        if self._open is None or self._open[0] != chunk:
            self._open = (chunk, *_load(self._folder / f"{chunk:04d}.pickle"))
        _, pixels, scenes = self._open
        return pixels[offset : offset + count], scenes[offset : offset + count]


def _load(path: Path) -> tuple[npt.NDArray[np.uint8], list[Scene]]:
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
        write_whole(path, pickle.dumps((pixels, scenes), protocol=pickle.HIGHEST_PROTOCOL))


def _picture(scene: Scene) -> npt.NDArray[np.uint8]:
    """Draw a scene; every fourth one larger and then shrunk, as a processor does."""
    if scene.seed % 4:
        return np.asarray(draw_scene(scene, IMAGE_SIZE))
    large = draw_scene(scene, 2 * IMAGE_SIZE)
    return np.asarray(large.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC))
