"""Answers that end where they end, by how many steps may be on the GPU at once.

    python -m gpu.multi_step --figures FILE --work DIR [--device cpu]

The miniature in float16 describes generated scenes and finds what is in them, greedily and with 3
beams, with FLORENCE_MULTI_STEP at 1 (each step waits for the search) and more, in turns. Steps
behind an answer's end count. Answers that differ are not timed: they must not.
"""

import os
import statistics
import sys
from functools import partial
from pathlib import Path
from typing import Any

from florence_edge import Florence2, GenerationOptions
from florence_edge.backends.gpu_decoder import MULTI_STEP
from florence_edge.encoded_image import EncodedImage
from florence_edge_calibration.scenes import draw_scene, generate_scenes

from .figures import Figures, seconds_of
from .models import arguments, miniature

STEPS = (1, 2, 4)
TASKS = ("CAPTION", "OD")
BEAMS = (1, 3)
SCENES = 8
ROUNDS = 6  # the first is not counted: it captures


def main() -> int:
    told = arguments(__doc__).parse_args()
    figures = Figures(told.figures, "multi-step")
    with figures.attempt("steps at once"):
        folder = miniature("fp16", told.work)
        models = {steps: load(folder, told.device, steps) for steps in STEPS}
        for beams in BEAMS:
            for task in TASKS:
                name = f"{task}, beams {beams}"
                with figures.attempt(name):
                    figures.put(name, in_turns(models, task, beams))
    return figures.exit_status


def load(folder: Path, device: str, steps: int) -> Florence2:
    os.environ[MULTI_STEP] = str(steps)
    return Florence2.load(folder, device)


def in_turns(models: dict[int, Florence2], task: str, beams: int) -> dict[str, Any]:
    """Seconds for the answers of all views: the median, and how many times as fast as one step."""
    options = GenerationOptions(num_beams=beams)
    pictures = [draw_scene(scene) for scene in generate_scenes(1, SCENES)]
    views = {
        steps: [model.encode(picture, options=options) for picture in pictures]
        for steps, model in models.items()
    }
    answers = {steps: [view.run(task).token_ids for view in of] for steps, of in views.items()}
    if any(answer != answers[1] for answer in answers.values()):
        raise ValueError("answers differ, which they must not; nothing was timed")
    rounds: dict[int, list[float]] = {steps: [] for steps in views}
    for turn in range(ROUNDS):
        for steps in list(views)[:: -1 if turn % 2 else 1]:
            rounds[steps].append(seconds_of(partial(answer_all, views[steps], task)))
    counted = {steps: of[1:] for steps, of in rounds.items()}
    return {
        str(steps): {
            "ms an answer": round(1e3 * statistics.median(of) / SCENES, 4),
            "times as fast": round(
                statistics.median(one / this for one, this in zip(counted[1], of, strict=True)), 3
            ),
        }
        for steps, of in counted.items()
    }


def answer_all(views: list[EncodedImage], task: str) -> None:
    for view in views:
        view.run(task)


if __name__ == "__main__":
    sys.exit(main())
