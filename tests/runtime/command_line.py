"""florence-run in the process of a test: what it returns, and pictures to ask it about."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from florence_edge.cli.main import main

SIZE = (80, 60)
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tiny_bundle: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command in this process on the tiny bundle: status, output, errors."""

    def run(*arguments: str | Path, bundle: Path = tiny_bundle) -> tuple[int, str, str]:
        short = ("--max-new-tokens", "12", "--threads", "1")
        capsys.readouterr()
        status = main([str(bundle), *map(str, arguments), *short])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return status, out, err

    return run


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with two pictures and a text file."""
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in ("a.jpg", "b.PNG"):
        noise = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8))
        noise.resize(SIZE).save(folder / name)
    (folder / "notes.txt").write_text("no picture")
    return folder


@pytest.fixture
def photo(photos: Path) -> Path:
    return photos / "a.jpg"


def lines(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]
