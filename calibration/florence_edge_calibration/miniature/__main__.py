"""The miniature shown: all 15 tasks on one generated picture, beside the truth.

python -m florence_edge_calibration.miniature BUNDLE OUTPUT [--scene SEED]
"""

import argparse
from pathlib import Path

from florence_edge import TASKS, Florence2, Result, parse
from florence_edge.answers.regions import is_location_text
from florence_edge.answers.report import describe

from ..scenes import Question, ask_everything, draw_scene, generate_scene
from .sheet import contact_sheet

SCENE = 900_017  # of the seeds that training never sees
PICTURE_SIZE = 512


def main() -> None:
    """Ask everything, print answers beside the truth, and write annotated pictures."""
    arguments = _parser().parse_args()
    scene = generate_scene(arguments.scene)
    picture = draw_scene(scene, PICTURE_SIZE)
    arguments.output.mkdir(parents=True, exist_ok=True)
    picture.save(arguments.output / "picture.png")

    view = Florence2.load(arguments.bundle).look(picture)
    tiles = []
    for question in ask_everything(scene):
        result = view.run(question.task, question.text or None)
        print(_shown(question, result))
        drawn = result.draw(picture)
        drawn.save(arguments.output / f"{result.task.name.lower()}.png")
        tiles.append((_title(question), drawn))
    contact_sheet(tiles).save(arguments.output / "all.png")
    print(f"Annotated pictures are in {arguments.output}, all of them in all.png.")


def _title(question: Question) -> str:
    """A region is drawn, other words are said."""
    words = "" if is_location_text(question.text) else question.text
    return f"<{TASKS[question.task].name}> {words}"


def _shown(question: Question, result: Result) -> str:
    asked = f"{result.task.token} {question.text}".strip()
    truth = parse(question.task, question.answer, image_size=result.image_size)
    return f"{asked}\n{describe(result)}\n  truth: {truth[result.task.token]}\n"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m florence_edge_calibration.miniature",
        description="Ask the exported miniature all 15 tasks about a generated picture.",
    )
    parser.add_argument("bundle", type=Path, help="the exported miniature")
    parser.add_argument("output", type=Path, help="folder for the pictures")
    parser.add_argument("--scene", type=int, default=SCENE, help="seed of the picture")
    return parser


if __name__ == "__main__":
    main()
