"""What the tests of benchmarks share: the exported miniature, and a result as it is stored."""

from pathlib import Path

import pytest

from ..runtime.scripted_machine import bare, machine  # noqa: F401 - fixtures

STORED = Path(__file__).parent / "stored"


@pytest.fixture(scope="session")
def miniature(tmp_path_factory: pytest.TempPathFactory) -> Path:
    exporting = pytest.importorskip("florence_edge_export.export")
    source = pytest.importorskip("florence_edge_export.checkpoint.loader")
    bundle = tmp_path_factory.mktemp("miniature") / "bundle"
    checkpoint = source.find_checkpoint("miniature")
    exporting.export("miniature", checkpoint, bundle, exporting.ExportOptions())
    return bundle


@pytest.fixture(scope="session")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pictures = pytest.importorskip("florence_edge_benchmarks.systems.workload")
    path: Path = pictures.scene_picture(tmp_path_factory.mktemp("picture"))
    return path
