"""Puts the two showcase screenshots beside each other, for README and docs.

python tests/serve/browser/readme_picture.py SCREENSHOTS docs/images/page.jpg
"""

import argparse
from pathlib import Path

from PIL import Image, ImageDraw, ImageFilter

GROUND = (222, 214, 204)
SIZE = (1600, 900)
QUALITY = 82
FINENESS = 4  # corners are drawn larger and then reduced, which smooths them


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("screenshots", type=Path)
    parser.add_argument("output", type=Path)
    options = parser.parse_args()
    page = Image.new("RGB", SIZE, GROUND)
    _put(page, options.screenshots / "showcase-desk.png", (50, 50), width=1200, radius=14)
    _put(page, options.screenshots / "showcase-phone.png", (1222, 140), width=330, radius=34)
    page.save(options.output, quality=QUALITY, optimize=True, progressive=True)


def _put(page: Image.Image, file: Path, corner: tuple[int, int], width: int, radius: int) -> None:
    """Paste a screenshot with round corners and a shadow."""
    shot = Image.open(file).convert("RGB")
    shot = shot.resize((width, round(shot.height * width / shot.width)), Image.Resampling.LANCZOS)
    fine = (FINENESS * shot.width, FINENESS * shot.height)
    mask = Image.new("L", fine)
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, *fine), FINENESS * radius, fill=255)
    mask = mask.reduce(FINENESS)
    shadow = Image.new("L", page.size)
    shadow.paste(mask.point(lambda level: level * 0.4), (corner[0], corner[1] + 14))
    page.paste((60, 45, 30), mask=shadow.filter(ImageFilter.GaussianBlur(22)))
    page.paste(shot, corner, mask)


if __name__ == "__main__":
    main()
