"""The worked example: what is exported is as right as florence-bench says that the model is."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_both_exports_have_the_average_precision_of_florence_bench(
    miniature_bundle: Path, tmp_path: Path
) -> None:
    pytest.importorskip("pycocotools", reason="install florence-edge[bench]")
    program = ROOT / "examples" / "label" / "compare_with_truth.py"
    data = ROOT / "calibration" / "held_out"
    done = subprocess.run(
        [sys.executable, str(program), str(miniature_bundle), str(data), str(tmp_path / "out")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = re.findall(r"^AP of (\S+) +(0\.\d{4})$", done.stdout, re.MULTILINE)
    assert [name for name, _ in found] == ["coco.json", "yolo/", "florence-bench"]
    assert len({value for _, value in found}) == 1
    page = (ROOT / "docs" / "label.md").read_text(encoding="utf-8")
    assert f"AP of coco.json        {found[0][1]}" in page
