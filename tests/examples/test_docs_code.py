"""The Python in docs/ runs: page by page, in order, with the miniature as the bundle."""

import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from florence_edge import Florence2
from florence_edge.cli.main import main

from .conftest import ROOT

_BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
BLOCKS = {
    path.name: _BLOCK.findall(path.read_text(encoding="utf-8"))
    for path in sorted((ROOT / "docs").glob("*.md"))
}
_ASKS_A_SERVER = "serve.md"  # by clients of others: tests/serve/test_clients.py
PAGES = [name for name, blocks in BLOCKS.items() if blocks and name != _ASKS_A_SERVER]


@pytest.mark.parametrize("name", PAGES)
def test_the_code_of_a_page_runs(
    name: str,
    miniature_bundle: Path,
    scenes: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bundle").symlink_to(miniature_bundle)
    with Image.open(scenes / "003.png") as picture:
        for name_of_a_page in ("street.jpg", "part.jpg"):
            picture.convert("RGB").save(name_of_a_page)
        assert main(["bundle", "street.jpg", "--task", "OD", "--answers", "found.jsonl"]) == 0
        stream = [picture.convert("RGB")] * 2  # stands in for the camera
    with Florence2.load(miniature_bundle) as model:
        names: dict[str, Any] = {
            "model": model,
            "path": scenes / "001.png",
            "paths": sorted(scenes.iterdir())[:4],
            "result": model.run("street.jpg", "OD"),
        }
        for number, block in enumerate(BLOCKS[name]):
            runnable = block.replace('"rtsp://camera/stream"', "stream")
            names |= {"stream": stream}
            exec(compile(runnable, f"{name}, block {number}", "exec"), names)
