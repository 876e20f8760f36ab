"""The miniature shown: all 15 tasks on one generated picture, beside the truth.

    python -m florence_edge_calibration.miniature BUNDLE OUTPUT [--scene SEED]

OUTPUT gets the picture, an annotated copy for each task, and all of them on one sheet.
"""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from florence_edge import TASKS, Florence2, Result, parse
from florence_edge.files import whole_file
from florence_edge.regions import is_location_text
from florence_edge.results.draw import fitted, font_for, wrapped

from ..scenes import SceneQuestion, ask_everything, draw_scene, generate_scene

SCENE = 900_017  # not one of the seeds of training
PICTURE_SIZE = 512

_COLUMNS = 5
_TILE = 320  # pixels, both ways
_TITLE = 44  # pixels above a tile: two lines
_TEXT = 14
_GAP = 10
_INK, _PAPER = (30, 30, 34), (250, 250, 250)


def main() -> None:
    """Ask everything, print answers beside the truth, and write annotated pictures."""
    arguments = _parser().parse_args()
    scene = generate_scene(arguments.scene)
    picture = draw_scene(scene, PICTURE_SIZE)
    arguments.output.mkdir(parents=True, exist_ok=True)
    _save(picture, arguments.output / "picture.png")

    tiles = []
    with Florence2.load(arguments.bundle) as model:
        view = model.encode(picture)
        for question in ask_everything(scene):
            result = view.run(question.task, question.text or None)
            print(_beside_truth(question, result))
            drawn = result.draw(picture)
            _save(drawn, arguments.output / f"{result.task.name.lower()}.png")
            tiles.append((_title(question), drawn))
    _save(contact_sheet(tiles), arguments.output / "all.png")
    print(f"Annotated pictures are in {arguments.output}, all of them in all.png.")


def _save(picture: Image.Image, file: Path) -> None:
    with whole_file(file) as unfinished:
        picture.save(unfinished)


def _title(question: SceneQuestion) -> str:
    """The task and its text, but for a region: that is drawn."""
    words = "" if is_location_text(question.text) else question.text
    return f"<{TASKS[question.task].name}> {words}"


def _beside_truth(question: SceneQuestion, result: Result) -> str:
    request = f"{result.task.token} {question.text}".strip()
    truth = parse(question.task, question.answer, image_size=result.image_size)
    return f"{request}\n{result.describe()}\n  truth: {truth[result.task.token]}\n"


def contact_sheet(tiles: Sequence[tuple[str, Image.Image]]) -> Image.Image:
    """An RGB sheet of titled pictures, in rows of five; a higher one is reduced to fit its tile."""
    rows = math.ceil(len(tiles) / _COLUMNS)
    step = _TILE + _GAP, _TILE + _TITLE + _GAP
    sheet = Image.new("RGB", (_COLUMNS * step[0] + _GAP, rows * step[1] + _GAP), _PAPER)
    pen = ImageDraw.Draw(sheet)
    for number, (title, picture) in enumerate(tiles):
        row, column = divmod(number, _COLUMNS)
        left, top = _GAP + column * step[0], _GAP + row * step[1]
        font = font_for(title, _TEXT)
        first, *rest = wrapped(title, font, _TILE)
        for line, words in enumerate((first, fitted(" ".join(rest), font, _TILE))):
            pen.text((left, top + line * 1.3 * _TEXT), words, fill=_INK, font=font)
        small = picture.copy()
        small.thumbnail((_TILE, _TILE))
        sheet.paste(small, (left, top + _TITLE))
    return sheet


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
