"""README's "How it works" is the truth: the files that one `model.run` passes through, in order."""

import re
import sys
from pathlib import Path
from types import FrameType

from PIL import Image

from florence_edge import Florence2

ROOT = Path(__file__).parents[2]
PACKAGE = "florence_edge/"


def test_readme_names_every_file_of_a_run_in_order(pointing_bundle: Path, tmp_path: Path) -> None:
    picture = tmp_path / "picture.png"
    Image.new("RGB", (40, 30), "red").save(picture)
    model = Florence2.load(pointing_bundle, threads=1)
    files: dict[str, None] = {}

    def note(frame: FrameType, event: str, _: object) -> None:
        file = frame.f_code.co_filename.replace("\\", "/")
        if event == "call" and f"/{PACKAGE}" in file:
            files[file.split(f"/{PACKAGE}")[1]] = None

    sys.setprofile(note)
    try:
        model.run(str(picture), "OD")
    finally:
        sys.setprofile(None)

    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    section = readme.split("## How it works")[1].split("\n## ")[0]
    named = re.findall(r"^\| `([a-z_/0-9]+\.py)` \|", section, flags=re.MULTILINE)
    assert named == list(files)
