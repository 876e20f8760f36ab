"""What engines are asked about generated scenes, and what Python, node and Chromium answer."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from florence_edge import Florence2, GenerationOptions
from florence_edge_calibration.scenes import ask_everything, draw_scene, generate_scene

from .machines import CHROMIUM, ROOT, answered, served

BEAMS = (1, 3)
MAX_NEW_TOKENS = 48
FIRST_SCENE = 11
SIDES = (128, 480, 333, 97, 640, 128, 200, 256, 511, 128)  # of the pictures, in pixels
LIMIT = 400.0  # seconds


@dataclass(frozen=True, slots=True)
class Asked:
    """Pictures, and what is asked about each: tasks with their texts."""

    pictures: Sequence[Image.Image]
    questions: Sequence[Sequence[tuple[str, str]]]
    beams: Sequence[int] = BEAMS

    @property
    def plan(self) -> dict[str, Any]:
        """The same for answers.mjs."""
        return {
            "pictures": [
                {
                    "width": picture.width,
                    "height": picture.height,
                    "rgb": base64.b64encode(picture.tobytes()).decode(),
                }
                for picture in self.pictures
            ],
            "questions": self.questions,
            "beams": self.beams,
            "max_new_tokens": MAX_NEW_TOKENS,
        }


def asked_about(count: int) -> Asked:
    """All 15 tasks about each of `count` scenes, drawn in several sizes."""
    scenes = [generate_scene(seed) for seed in range(FIRST_SCENE, FIRST_SCENE + count)]
    sides = (SIDES[at % len(SIDES)] for at in range(count))
    return Asked(
        pictures=[
            draw_scene(scene, side).convert("RGB")
            for scene, side in zip(scenes, sides, strict=True)
        ],
        questions=[
            [(each.task, each.text or "") for each in ask_everything(scene)] for scene in scenes
        ],
    )


def answers_in_python(bundle: Path, asked: Asked) -> list[dict[str, Any]]:
    """`Result.to_json()` of each, greedy ones first."""
    answers = []
    with Florence2.load(bundle, threads=1) as model:
        for beams in asked.beams:
            options = GenerationOptions(num_beams=beams, max_new_tokens=MAX_NEW_TOKENS)
            for picture, questions in zip(asked.pictures, asked.questions, strict=True):
                view = model.encode(picture, options=options)
                answers += [view.run(task, text or None).to_json() for task, text in questions]
    return answers


def answers_in_node(bundle: Path, asked: Asked, folder: Path) -> Any:
    """What answers.mjs observes with onnxruntime-node; `folder` is for its files."""
    plan = {**asked.plan, "bundle": str(bundle), "load": {"threads": 1}}
    return answered("answer_in_node.mjs", plan, folder, timeout=LIMIT)


def answers_in_chromium(
    bundle: Path,
    asked: Asked,
    folder: Path,
    *,
    device: str = "cpu",
    flags: Sequence[str] = (),
    limit: float = LIMIT,
) -> Any:
    """What answers.mjs observes in an isolated page, with onnxruntime-web.

    `flags` are Chromium's own; it ends after `limit` seconds.
    """
    site = folder / "site"
    site.mkdir()
    for name, target in (("js", ROOT / "js"), ("tests", ROOT / "tests"), ("bundle", bundle)):
        (site / name).symlink_to(target)
    with served(site) as url:
        plan = {
            **asked.plan,
            "bundle": f"{url}bundle",
            "url": f"{url}tests/js/answers.html",
            "chromium": CHROMIUM,
            "flags": flags,
            "load": {"threads": 2, "device": device},
        }
        return answered("answer_in_chromium.mjs", plan, folder, timeout=limit)
