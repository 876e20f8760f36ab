"""Put a training run into the repository: newest checkpoint, log, curve and figures.

`--work DIR` takes checkpoint, log and curve from a run, while it trains or afterwards;
`--bundle DIR` measures the exported checkpoint, for results/accuracy and the table in README;
`--int8 NAME=DIR ...` measures int8 bundles beside it, for results/int8 and docs/int8.md.
"""

import argparse
import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from florence_edge.backends.int8_products import int8_products_saturate
from florence_edge.bundle import FIDELITY
from florence_edge.files import whole_file, write_whole
from florence_edge_jetson.machine.system import cpu_name

from ..scenes.held_out import load_held_out
from .evaluate import CHECKPOINT, evaluate, figures_as_json, through_bundle

CALIBRATION = Path(__file__).parents[2]
RESULTS = CALIBRATION.parent / "results"
INT8_FIGURES = RESULTS / "int8" / "miniature.json"
_FIGURES = RESULTS / "accuracy" / "miniature.json"
_FLOAT = "float32"
_CURVE_SIZE = (900, 420)
_MARGIN = 50
_COLOURS = {"answers": (200, 60, 40), "word": (40, 110, 190), "shape": (50, 150, 70)}


def publish_run(work: Path) -> None:
    """Copy and draw what a training run left: checkpoint, log and curve."""
    shutil.copytree(
        work / "checkpoint", CHECKPOINT, dirs_exist_ok=True, copy_function=shutil.copyfile
    )
    shutil.copyfile(work / "training.jsonl", CALIBRATION / "training.jsonl")
    lines = (work / "training.jsonl").read_text(encoding="utf-8").splitlines()
    with whole_file(CALIBRATION / "training.png") as curve:
        draw_curve([json.loads(line) for line in lines]).save(curve)


def publish_figures(bundle: Path) -> None:
    """Measure the exported miniature; README's table is rewritten from the figures."""
    answer, scenes = through_bundle(bundle), load_held_out()
    verdicts, control = (evaluate(answer, scenes, shuffled=shuffled) for shuffled in (False, True))
    figures = figures_as_json(verdicts, control)
    text = json.dumps(figures, indent=2) + "\n"
    write_whole(_FIGURES, text)
    readme = CALIBRATION / "README.md"
    write_whole(readme, with_table(readme.read_text("utf-8"), figure_table(figures)))


def publish_int8(bundles: Mapping[str, Path]) -> None:
    """Measure bundles of the miniature on the held-out scenes; docs/int8.md shows them."""
    scenes = load_held_out()
    found = {name: evaluate(through_bundle(folder), scenes) for name, folder in bundles.items()}
    figures = {
        task: {
            "measure": verdict.headline,
            "figures": {name: round(found[name][task].value, 4) for name in bundles},
        }
        for task, verdict in found[_FLOAT].items()
    }
    gates = {name: _gate_of(folder) for name, folder in bundles.items() if name != _FLOAT}
    content = {"machine": _processor(), "held-out scenes": figures, "gates": gates}
    write_whole(INT8_FIGURES, json.dumps(content, indent=2) + "\n")
    page = CALIBRATION.parent / "docs" / "int8.md"
    write_whole(page, with_table(page.read_text("utf-8"), int8_table(figures), "int8"))


def _processor() -> str:
    """Name of the processor that answered, and whether its int8 products saturate."""
    return f"{cpu_name()} ({'without' if int8_products_saturate() else 'with'} VNNI or its like)"


def _gate_of(bundle: Path) -> Any:
    """What the export of an int8 bundle found along the float model's answers."""
    return json.loads((bundle / FIDELITY).read_text(encoding="utf-8"))["against_float"]


def figure_table(figures: Mapping[str, Mapping[str, Any]]) -> str:
    """The figures as a Markdown table."""
    rows = [
        f"| `{task}` | {row['headline']} | {row['value']:.2f} | {row['shuffled pictures']:.2f} |"
        for task, row in figures.items()
    ]
    heading = ["| task | measure | figure | other pictures |", "|---|---|---|---|"]
    return "\n".join([*heading, *rows])


def int8_table(figures: Mapping[str, Mapping[str, Any]]) -> str:
    """Headline figures of several bundles side by side, as a Markdown table."""
    names = list(next(iter(figures.values()))["figures"])
    heading = [f"| task | measure | {' | '.join(names)} |", "|---" * (2 + len(names)) + "|"]
    rows = [
        f"| `{task}` | {row['measure']} | "
        + " | ".join(f"{row['figures'][name]:.3f}" for name in names)
        + " |"
        for task, row in figures.items()
    ]
    return "\n".join([*heading, *rows])


def with_table(page: str, table: str, mark: str = "figures") -> str:
    """The page with the table between its marks replaced."""
    begins, ends = f"<!-- {mark} -->", f"<!-- end of {mark} -->"
    before, _, rest = page.partition(begins)
    _, _, after = rest.partition(ends)
    return f"{before}{begins}\n{table}\n{ends}{after}"


def draw_curve(log: Sequence[Mapping[str, float]]) -> Image.Image:
    """The losses over the steps: of answers, and of words and shapes read from image tokens."""
    picture = Image.new("RGB", _CURVE_SIZE, "white")
    canvas, font = ImageDraw.Draw(picture), ImageFont.load_default(16)
    width, height = (side - 2 * _MARGIN for side in _CURVE_SIZE)
    last_step = max(row["step"] for row in log)
    highest = 4.0
    for level in range(int(highest) + 1):
        y = _MARGIN + height * (1 - level / highest)
        canvas.line([(_MARGIN, y), (_MARGIN + width, y)], fill=(225, 225, 225))
        canvas.text((_MARGIN - 8, y), str(level), fill="black", font=font, anchor="rm")
    canvas.text((_MARGIN, _MARGIN + height + 8), "step 0", fill="black", font=font)
    corner = (_MARGIN + width, _MARGIN + height + 8)
    canvas.text(corner, f"{last_step:,.0f}", fill="black", font=font, anchor="ra")
    for place, (name, colour) in enumerate(_COLOURS.items()):
        points = [
            (
                _MARGIN + width * row["step"] / last_step,
                _MARGIN + height * (1 - min(row[name], highest) / highest),
            )
            for row in log
            if name in row
        ]
        canvas.line(points, fill=colour, width=2)
        canvas.text((_MARGIN + 150 * place, 15), f"loss of {name}", fill=colour, font=font)
    return picture


def main() -> None:
    """Publish from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, help="folder of a training run: checkpoint and curve")
    parser.add_argument("--bundle", type=Path, help="the exported miniature: figures")
    parser.add_argument(
        "--int8", nargs="+", metavar="NAME=DIR", help="int8 bundles, to stand beside --bundle"
    )
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if arguments.int8:
        named = (text.split("=", 1) for text in arguments.int8)
        others = {name: Path(folder) for name, folder in named}
        publish_int8({_FLOAT: arguments.bundle, **others})
        return
    if arguments.work:
        publish_run(arguments.work)
    if arguments.bundle:
        publish_figures(arguments.bundle)


if __name__ == "__main__":
    main()
