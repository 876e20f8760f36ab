"""Judge a checkpoint by its free-running answers about the held-out scenes, through transformers.

Beside each figure stands its control, the same prompts put to other pictures: what a model gets
right that does not look.
"""

import argparse
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from PIL import Image
from transformers import Florence2ForConditionalGeneration, Florence2Processor

from florence_edge.tasks import TASKS
from florence_edge_calibration.held_out import HeldOutScene, load_held_out
from florence_edge_calibration.judge import Answer, Verdict, judge

logger = logging.getLogger(__name__)

CHECKPOINT = Path(__file__).parent / "checkpoint"
_BATCH = 50


def evaluate(
    checkpoint: Path, scenes: Sequence[HeldOutScene], *, beams: int = 3, shuffled: bool = False
) -> dict[str, Verdict]:
    """The verdict on each task.

    Args:
        checkpoint: a folder that transformers loads.
        scenes: pictures and one question of each task about each.
        beams: 1 is greedy.
        shuffled: put each question to the picture of the scene before.
    """
    model = Florence2ForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32)
    processor = Florence2Processor.from_pretrained(checkpoint)
    pictures = [Image.open(scene.picture).convert("RGB") for scene in scenes]
    if shuffled:
        pictures = pictures[-1:] + pictures[:-1]
    verdicts = {}
    for place, task in enumerate(TASKS):
        questions = [scene.questions[place] for scene in scenes]
        asked = [TASKS[task].token + question.text for question in questions]
        said = _answer(model, processor, pictures, asked, beams)
        answers = [
            Answer(said=text, truth=question.answer)
            for text, question in zip(said, questions, strict=True)
        ]
        verdicts[task] = judge(task, answers)
        logger.info("%s %s", task, verdicts[task])
    return verdicts


@torch.inference_mode()
def _answer(
    model: Florence2ForConditionalGeneration,
    processor: Florence2Processor,
    pictures: Sequence[Image.Image],
    asked: Sequence[str],
    beams: int,
) -> list[str]:
    texts: list[str] = []
    for start in range(0, len(asked), _BATCH):
        part = slice(start, start + _BATCH)
        inputs = processor(
            text=list(asked[part]), images=list(pictures[part]), padding=True, return_tensors="pt"
        )
        token_ids = model.generate(**inputs, num_beams=beams, max_new_tokens=100)
        texts += processor.batch_decode(token_ids, skip_special_tokens=False)
    return [text.replace("<pad>", "") for text in texts]


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
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT)
    parser.add_argument("--beams", type=int, default=3)
    parser.add_argument("--scenes", type=int, default=200, help="how many of the held-out scenes")
    parser.add_argument("--output", type=Path, help="JSON file for the figures")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    scenes = load_held_out()[: arguments.scenes]
    verdicts, control = (
        evaluate(arguments.checkpoint, scenes, beams=arguments.beams, shuffled=shuffled)
        for shuffled in (False, True)
    )
    figures = figures_as_json(verdicts, control)
    for task, row in figures.items():
        logger.info(
            "%-36s %-20s %.3f  shuffled %.3f",
            *(task, row["headline"], row["value"], row["shuffled pictures"]),
        )
    if arguments.output:
        arguments.output.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
