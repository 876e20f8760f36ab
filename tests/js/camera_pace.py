"""How many pictures of a camera a second the example page answers, in Chromium on this machine.

python -m tests.js.camera_pace --output RESULT.json BUNDLE
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from florence_edge import Bundle
from florence_edge.command import run_command
from florence_edge.files import write_whole
from florence_edge_benchmarks.machine import describe_machine
from florence_edge_benchmarks.report.tables import machine_line
from florence_edge_calibration.scenes import draw_scene, generate_scene

from ..serve.browser.camera_files import write_y4m
from .machines import CHROMIUM, HERE, run_node, served
from .test_engines import SEED, SIDE, example_site

SCENES = 4  # in the camera's view, one after the other
QUESTIONS = (("OD", 1), ("OD", 3), ("CAPTION", 1))  # tasks and beams


def main() -> int:
    """Measure, and write a JSON file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=20, help="of each question (20)")
    arguments = parser.parse_args()
    return run_command("camera_pace", lambda: _measure(arguments))


def _measure(arguments: argparse.Namespace) -> int:
    bundle = Bundle.load(arguments.bundle)
    with tempfile.TemporaryDirectory() as folder:
        rows = _rows(Path(folder), arguments.bundle.resolve(), arguments.seconds)
    result = {
        "machine": machine_line(describe_machine()),
        "model": bundle.model,
        "precision": bundle.precision,
        "camera": f"{SIDE} x {SIDE} pixels, {SCENES} scenes in turn",
        "rows": rows,
    }
    write_whole(arguments.output, json.dumps(result, indent=1) + "\n")
    return 0


def _rows(folder: Path, bundle: Path, seconds: float) -> list[dict[str, Any]]:
    scenes = [draw_scene(generate_scene(SEED + at), SIDE).convert("RGB") for at in range(SCENES)]
    video = write_y4m(folder / "scenes.y4m", scenes)
    rows = []
    with served(example_site(folder / "site", bundle)) as url:
        for task, beams in QUESTIONS:
            plan = {
                "chromium": CHROMIUM,
                "url": url,
                "video": str(video),
                "profile": str(folder / f"profile-{task}-{beams}"),
                "task": task,
                "beams": beams,
                "seconds": seconds,
            }
            said = run_node([HERE / "camera_pace.mjs", json.dumps(plan)], timeout=120 + seconds)
            found = json.loads(said)
            rows.append(
                {
                    "task": task,
                    "beams": beams,
                    "engine": found["state"],
                    "seconds": seconds,
                    "answers": found["answers"],
                    "pictures_per_second": round(found["answers"] / seconds, 2),
                }
            )
    return rows


if __name__ == "__main__":
    raise SystemExit(main())
