"""What several greedy steps in one launch bring: answers with one, four and eight, in turns.

    python tests/gpu/multi_step.py BUNDLE DEVICE OUTPUT.json

Asks for captions and boxes of generated scenes, which end where they end: the steps behind the end
count. Refuses to time answers that differ. Not run on a GPU yet.
"""

import json
import os
import statistics
import sys
import time
from pathlib import Path

from PIL import Image

from florence_edge import Florence2, GenerationOptions
from florence_edge.backends.gpu_decoder import MULTI_STEP
from florence_edge.model import EncodedImage
from florence_edge_calibration.scenes import draw_scene, generate_scenes

STEPS = (1, 4, 8)
TASKS = ("CAPTION", "OD")
SCENES = 8
ROUNDS = 6  # the first is not counted: it captures
GREEDY = GenerationOptions(num_beams=1)


def main(bundle: Path, device: str, output: Path) -> None:
    models = {steps: load(bundle, device, steps) for steps in STEPS}
    pictures = [draw_scene(scene) for scene in generate_scenes(1, SCENES)]
    found = {task: in_turns(models, task, pictures) for task in TASKS}
    described = {"bundle": str(bundle), "device": device, "scenes": SCENES, "rounds": ROUNDS - 1}
    text = json.dumps({**described, "steps a launch": found}, indent=2)
    output.write_text(text + "\n", encoding="utf-8")
    sys.stdout.write(text + "\n")


def load(bundle: Path, device: str, steps: int) -> Florence2:
    os.environ[MULTI_STEP] = str(steps)
    return Florence2.load(bundle, device)


def in_turns(
    models: dict[int, Florence2], task: str, pictures: list[Image.Image]
) -> dict[str, dict[str, float]]:
    """Seconds for the answers of all views: the median, and how many times as fast as one step."""
    views = {
        steps: [model.encode(picture, options=GREEDY) for picture in pictures]
        for steps, model in models.items()
    }
    answers = {steps: [view.run(task).token_ids for view in of] for steps, of in views.items()}
    if any(answer != answers[1] for answer in answers.values()):
        raise SystemExit(f"{task}: answers differ, which they must not; nothing was timed.")
    rounds: dict[int, list[float]] = {steps: [] for steps in views}
    for turn in range(ROUNDS):
        for steps in list(views)[:: -1 if turn % 2 else 1]:
            rounds[steps].append(seconds(views[steps], task))
    counted = {steps: of[1:] for steps, of in rounds.items()}
    figures = {}
    for steps, of in counted.items():
        ratios = [one / this for one, this in zip(counted[1], of, strict=True)]
        figures[str(steps)] = {
            "seconds": round(statistics.median(of), 5),
            "times as fast": round(statistics.median(ratios), 3),
        }
    return figures


def seconds(views: list[EncodedImage], task: str) -> float:
    begun = time.perf_counter()
    for view in views:
        view.run(task)
    return time.perf_counter() - begun


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
