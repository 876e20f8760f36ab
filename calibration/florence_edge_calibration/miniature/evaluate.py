"""Evaluate the miniature by its free-running answers about the held-out scenes.

Beside each figure stands its control, the same prompts put to other pictures: what a model gets
right that ignores the picture.
"""

import argparse
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from PIL import Image
from transformers import Florence2ForConditionalGeneration, Florence2Processor

from florence_edge import TASKS, Florence2, GenerationOptions
from florence_edge.files import write_whole
from florence_edge.image import load_image

from ..metrics import FreeAnswer, Verdict, judge
from ..scenes.held_out import HeldOutScene, load_held_out

logger = logging.getLogger(__name__)

CHECKPOINT = Path(__file__).parent / "checkpoint"
_BATCH = 50
_MAX_NEW_TOKENS = 100


Answerer = Callable[[str, Sequence[Image.Image], Sequence[str]], list[str]]
"""A task, pictures and the text input of each -> the raw text of each answer."""


def evaluate(
    answer: Answerer, scenes: Sequence[HeldOutScene], *, shuffled: bool = False
) -> dict[str, Verdict]:
    """The verdict on each task.

    Args:
        answer: the model; see `through_bundle` and `through_transformers`.
        scenes: pictures and one question of each task about each.
        shuffled: put each question to the picture of the scene before.
    """
    pictures = [load_image(scene.picture) for scene in scenes]
    if shuffled:
        pictures = pictures[-1:] + pictures[:-1]
    verdicts = {}
    for place, task in enumerate(TASKS):
        questions = [scene.questions[place] for scene in scenes]
        found: list[str] = []
        for start in range(0, len(questions), _BATCH):
            part = slice(start, start + _BATCH)
            found += answer(task, pictures[part], [question.text for question in questions[part]])
        answers = [
            FreeAnswer(text=text, truth=question.answer)
            for text, question in zip(found, questions, strict=True)
        ]
        verdicts[task] = judge(task, answers)
        logger.info("%s %s", task, verdicts[task])
    return verdicts


def through_bundle(folder: Path, *, beams: int = 3) -> Answerer:
    """Answers of the runtime with an exported bundle, as users get them."""
    model = Florence2.load(folder)
    options = GenerationOptions(num_beams=beams, max_new_tokens=_MAX_NEW_TOKENS)

    def answer(task: str, pictures: Sequence[Image.Image], texts: Sequence[str]) -> list[str]:
        inputs = [text or None for text in texts]
        results = model.run(list(pictures), task, inputs, options=options)
        return [result.raw_text for result in results]

    return answer


def through_transformers(checkpoint: Path, *, beams: int = 3) -> Answerer:
    """Answers of transformers with a checkpoint, to follow a training that goes on."""
    model = Florence2ForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32)
    processor = Florence2Processor.from_pretrained(checkpoint)

    @torch.inference_mode()
    def answer(task: str, pictures: Sequence[Image.Image], texts: Sequence[str]) -> list[str]:
        prompts = [TASKS[task].token + text for text in texts]
        inputs = processor(text=prompts, images=list(pictures), padding=True, return_tensors="pt")
        token_ids = model.generate(**inputs, num_beams=beams, max_new_tokens=_MAX_NEW_TOKENS)
        found = processor.batch_decode(token_ids, skip_special_tokens=False)
        return [text.replace("<pad>", "") for text in found]

    return answer


def figures_as_json(
    verdicts: Mapping[str, Verdict], control: Mapping[str, Verdict]
) -> dict[str, dict[str, object]]:
    """What is committed: per task the headline with its control, and all figures."""
    return {
        task: {
            "headline": verdict.headline,
            "value": round(verdict.value, 4),
            "shuffled pictures": round(control[task].value, 4),
            "figures": {name: round(value, 4) for name, value in verdict.figures.items()},
        }
        for task, verdict in verdicts.items()
    }


def main() -> None:
    """Evaluate from the command line and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, help="exported bundle; else through transformers")
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT)
    parser.add_argument("--beams", type=int, default=3)
    parser.add_argument("--scenes", type=int, default=200, help="how many of the held-out scenes")
    parser.add_argument("--output", type=Path, help="JSON file for the figures")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    scenes = load_held_out()[: arguments.scenes]
    answer = (
        through_bundle(arguments.bundle, beams=arguments.beams)
        if arguments.bundle
        else through_transformers(arguments.checkpoint, beams=arguments.beams)
    )
    verdicts, control = (evaluate(answer, scenes, shuffled=shuffled) for shuffled in (False, True))
    figures = figures_as_json(verdicts, control)
    for task, row in figures.items():
        logger.info(
            "%-36s %-20s %.3f  shuffled %.3f",
            *(task, row["headline"], row["value"], row["shuffled pictures"]),
        )
    if arguments.output:
        write_whole(arguments.output, json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
