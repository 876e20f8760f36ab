"""What several folders of tests share: the test data, and a tiny Florence-2 on disk."""

import os
from pathlib import Path

import hypothesis
import pytest

from florence_edge import Florence2

IMAGE_SIZE = 64

# Machines of a continuous integration pause at will: time limits would fail at random.
hypothesis.settings.register_profile("unhurried", deadline=None)
hypothesis.settings.load_profile("unhurried")


@pytest.fixture(scope="session")
def assets() -> Path:
    folder = os.environ.get("FLORENCE_EDGE_ASSETS")
    if not folder:
        pytest.skip("set FLORENCE_EDGE_ASSETS to the folder with the test data")
    return Path(folder)


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    synthetic = pytest.importorskip("florence_edge_export.synthetic")
    folder = tmp_path_factory.mktemp("tiny") / "checkpoint"
    synthetic.write_checkpoint(folder, "tiny", seed=3, image_size=IMAGE_SIZE)
    return folder


@pytest.fixture(scope="session")
def tiny_bundle(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    exporting = pytest.importorskip("florence_edge_export.export")
    bundle = tmp_path_factory.mktemp("exported") / "bundle"
    exporting.export("tiny", tiny_checkpoint, bundle, exporting.ExportOptions())
    return bundle


@pytest.fixture(scope="session")
def tiny_model(tiny_bundle: Path) -> Florence2:
    return Florence2.load(tiny_bundle, threads=1)
