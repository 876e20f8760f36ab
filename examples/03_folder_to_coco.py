"""A folder of pictures to one COCO file: images, categories and boxes with scores.

python examples/03_folder_to_coco.py BUNDLE photos/ detections.json --batch 4
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from florence_edge import Answered, Florence2, run_many

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}


def add(coco: dict[str, list[Any]], answered: Answered, ids: dict[str, int]) -> None:
    """Add one picture, its boxes, and labels that are new."""
    result, image_id = answered.results[0], len(coco["images"]) + 1
    width, height = result.image_size
    name = Path(str(answered.image)).name
    coco["images"].append({"id": image_id, "file_name": name, "width": width, "height": height})
    for region in result.regions:
        if region.label not in ids:
            ids[region.label] = len(ids) + 1
            coco["categories"].append({"id": ids[region.label], "name": region.label})
        left, top, right, bottom = region.box
        annotation = {
            "id": len(coco["annotations"]) + 1,
            "image_id": image_id,
            "category_id": ids[region.label],
            "bbox": [left, top, right - left, bottom - top],
            "area": (right - left) * (bottom - top),
            "score": round(region.score, 4),
            "iscrowd": 0,
        }
        coco["annotations"].append(annotation)


def main() -> None:
    parser = argparse.ArgumentParser(description="Detect objects in all pictures of a folder.")
    parser.add_argument("bundle", help="the folder that florence-export wrote")
    parser.add_argument("folder", type=Path)
    parser.add_argument("output", type=Path, help="the COCO file")
    parser.add_argument("--batch", type=int, default=1, help="pictures at once")
    arguments = parser.parse_args()

    paths = sorted(p for p in arguments.folder.iterdir() if p.suffix.lower() in SUFFIXES)
    coco: dict[str, list[Any]] = {"images": [], "categories": [], "annotations": []}
    ids: dict[str, int] = {}
    with Florence2.load(arguments.bundle) as model:
        for answered in run_many(model, paths, "OD", batch=arguments.batch):
            if answered.error:
                print(f"left out: {answered.error}", file=sys.stderr)
            else:
                add(coco, answered, ids)
    arguments.output.write_text(json.dumps(coco), encoding="utf-8")
    print(f"{len(coco['annotations'])} boxes in {len(coco['images'])} of {len(paths)} pictures")


if __name__ == "__main__":
    main()
