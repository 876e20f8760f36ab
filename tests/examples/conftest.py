"""What the examples are given: the miniature as a bundle, and generated pictures."""

import io
import runpy
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path

import pytest

from ..runtime.scripted_machine import bare, machine  # noqa: F401 - fixtures

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"

Run = Callable[..., str]


def draw_scenes(folder: Path, count: int) -> Path:
    """Pictures of the kind that the miniature knows."""
    scenes = pytest.importorskip("florence_edge_calibration.scenes")
    folder.mkdir()
    for seed in range(count):
        scenes.draw_scene(scenes.generate_scene(seed), 256).save(folder / f"{seed:03}.png")
    return folder


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of ten generated pictures, 000.png to 009.png."""
    return draw_scenes(tmp_path_factory.mktemp("scenes") / "pictures", 10)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs an example by its name with arguments, and gives what it printed."""

    def run(name: str, *arguments: str | Path) -> str:
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        printed = io.StringIO()
        with redirect_stdout(printed):
            runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return printed.getvalue()

    return run
