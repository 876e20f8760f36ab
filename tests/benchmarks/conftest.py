"""What the tests of benchmarks share: a picture, and a result as it is stored."""

from pathlib import Path

import pytest

from ..runtime.scripted_machine import bare, machine  # noqa: F401 - fixtures

STORED = Path(__file__).parent / "stored"


@pytest.fixture(scope="session")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pictures = pytest.importorskip("florence_edge_benchmarks.systems.workload")
    path: Path = pictures.scene_picture(tmp_path_factory.mktemp("picture"))
    return path
