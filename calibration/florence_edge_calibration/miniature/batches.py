"""Training batches: pictures, each with several questions, as tensors."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from tokenizers import Tokenizer

from florence_edge_calibration.scenes import Question, Scene, ask

from .dense import DenseTruth, dense_truth
from .pool import Pixels, ScenePool

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

    pool: ScenePool
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

    def _questions(self, scene: Scene, random: np.random.Generator) -> list[Question]:
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


def _normalized(pixels: Pixels, random: np.random.Generator) -> torch.Tensor:
    """To the model's range, with a little change of light that no answer depends on."""
    contrast = torch.from_numpy(random.uniform(0.85, 1.15, size=(len(pixels), 1, 1, 1)))
    light = torch.from_numpy(random.uniform(-0.08, 0.08, size=(len(pixels), 1, 1, 1)))
    values = torch.from_numpy(pixels).permute(0, 3, 1, 2).double() / 255
    values = ((values - 0.5) * contrast + 0.5 + light).clamp(0, 1).float()
    return (values - torch.tensor(_MEAN)[:, None, None]) / torch.tensor(_DEVIATION)[:, None, None]
