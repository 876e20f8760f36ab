"""Label 200 scenes whose truth is known, export them to COCO and YOLO, and judge both.

python examples/label/compare_with_truth.py BUNDLE calibration/held_out labelled

It runs three commands and then reads what they wrote, as anybody would: florence-label, its export,
and florence-bench, whose average precision has to be the same.
"""

import argparse
import io
import json
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools.coco import COCO  # type: ignore[import-untyped]
from pycocotools.cocoeval import COCOeval  # type: ignore[import-untyped]


def run(module: str, *arguments: object) -> None:
    """Run a command of florence-edge; it says itself what goes wrong."""
    code = f"import sys; from {module} import main; sys.exit(main())"
    subprocess.run([sys.executable, "-c", code, *map(str, arguments)], check=True)


def average_precision(truth: Path, found: list[dict[str, Any]]) -> float:
    """AP50:95 of boxes, by COCO's own code."""
    with redirect_stdout(io.StringIO()):
        true = COCO(str(truth))
        evaluation = COCOeval(true, true.loadRes(found), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return float(evaluation.stats[0])


def of_coco(path: Path) -> list[dict[str, Any]]:
    """The annotations of coco.json: its ids are those of the truth, from which it was labelled."""
    annotations: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["annotations"]
    names = ("image_id", "category_id", "bbox", "score")
    return [{name: each[name] for name in names} for each in annotations]


def of_yolo(folder: Path, coco: Path) -> list[dict[str, Any]]:
    """The label files of YOLO in pixels again; they hold no scores, so those of COCO stand in."""
    content = json.loads(coco.read_text(encoding="utf-8"))
    scores: dict[int, list[float]] = {}
    for each in content["annotations"]:
        scores.setdefault(each["image_id"], []).append(each["score"])
    categories = [each["id"] for each in content["categories"]]
    found = []
    for image in content["images"]:
        name = Path(image["file_name"]).with_suffix(".txt")
        (label,) = folder.glob(f"labels/*/{name}")
        rows = np.loadtxt(label, ndmin=2).reshape(-1, 5)
        for row, score in zip(rows, scores.get(image["id"], []), strict=True):
            x, y, width, height = row[1:] * ([image["width"], image["height"]] * 2)
            found.append(
                {
                    "image_id": image["id"],
                    "category_id": categories[int(row[0])],
                    "bbox": [x - width / 2, y - height / 2, width, height],
                    "score": score,
                }
            )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path, help="such as florence-export miniature writes")
    parser.add_argument("data", type=Path, help="a folder with truth.json, in COCO's form")
    parser.add_argument("output", type=Path, help="where the labels go")
    arguments = parser.parse_args()
    truth, output = arguments.data / "truth.json", arguments.output

    run("florence_edge_label.cli", arguments.bundle, truth, "--output", output, "--task", "OD",
        "--format", "coco,yolo")  # fmt: skip
    judged = output / "florence-bench.json"
    run("florence_edge_benchmarks.cli", "accuracy", arguments.bundle, "--data", arguments.data,
        "--tasks", "OD", "--output", judged)  # fmt: skip

    coco = output / "coco.json"
    benched = json.loads(judged.read_text(encoding="utf-8"))["figures"]["OD"]["AP50:95"]
    print(f"AP of coco.json        {average_precision(truth, of_coco(coco)):.4f}")
    print(f"AP of yolo/            {average_precision(truth, of_yolo(output / 'yolo', coco)):.4f}")
    print(f"AP of florence-bench   {benched:.4f}")


if __name__ == "__main__":
    main()
