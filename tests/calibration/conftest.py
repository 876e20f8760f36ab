"""What the int8 tests share: a tiny float bundle, pictures, and what its linears read of them."""

from pathlib import Path

import pytest

from florence_edge.bundle import Bundle
from florence_edge_calibration.int8.ranges import calibrate, no_progress
from florence_edge_calibration.int8.samples import Sample, scene_samples
from florence_edge_calibration.int8.table import CalibrationTable
from florence_edge_export import synthetic
from florence_edge_export.export import ExportOptions, export


@pytest.fixture(scope="session")
def floats(tiny_bundle: Path) -> Bundle:
    return Bundle.load(tiny_bundle)


@pytest.fixture(scope="session")
def samples(floats: Bundle) -> list[Sample]:
    return scene_samples(8, image_size=floats.size.image_size)


@pytest.fixture(scope="session")
def table(floats: Bundle, samples: list[Sample]) -> CalibrationTable:
    return calibrate(floats, samples, no_progress, threads=1)


@pytest.fixture(scope="session")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The tiny model with outlier channels: another network, the same function of pictures."""
    folder = tmp_path_factory.mktemp("planted")
    synthetic.write_checkpoint(folder / "checkpoint", "tiny", seed=3, image_size=64, outliers=50)
    export("planted", folder / "checkpoint", folder / "bundle", ExportOptions())
    return Bundle.load(folder / "bundle")


@pytest.fixture(scope="session")
def planted_table(planted: Bundle, samples: list[Sample]) -> CalibrationTable:
    return calibrate(planted, samples, no_progress, threads=1)
