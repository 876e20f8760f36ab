"""What the int8 tests share: a tiny float bundle, pictures, and the table of what its linears read.

Imports are inside the fixtures, so that without the packages of [cpu,export] the tests that need
none of them are still collected.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from florence_edge.bundle import Bundle
from florence_edge_calibration.quantization.dataset import (
    CalibrationSample,
    no_progress,
    scene_samples,
)

if TYPE_CHECKING:
    from florence_edge_calibration.quantization.calibration_table import CalibrationTable

_NEEDED = ("onnx", "onnx_ir", "onnxscript", "onnxruntime", "ml_dtypes")

collect_ignore_glob: list[str] = []
if not all(find_spec(package) for package in _NEEDED):
    collect_ignore_glob += [
        "test_int8_*.py",
        "test_blockwise.py",
        "test_fp16.py",
        "test_calibrate_cli.py",
    ]


@pytest.fixture(scope="session")
def floats(tiny_bundle: Path) -> Bundle:
    return Bundle.load(tiny_bundle)


@pytest.fixture(scope="session")
def samples(floats: Bundle) -> list[CalibrationSample]:
    return scene_samples(8, image_size=floats.size.image_size)


@pytest.fixture(scope="session")
def table(floats: Bundle, samples: list[CalibrationSample]) -> "CalibrationTable":
    return _calibrated(floats, samples)


@pytest.fixture(scope="session")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The tiny model with outlier channels: another network, the same function of pictures."""
    from florence_edge_export import synthetic
    from florence_edge_export.export import ExportOptions, export

    folder = tmp_path_factory.mktemp("planted")
    synthetic.write_checkpoint(folder / "checkpoint", "tiny", seed=3, image_size=64, outliers=50)
    export("planted", folder / "checkpoint", folder / "bundle", ExportOptions())
    return Bundle.load(folder / "bundle")


@pytest.fixture(scope="session")
def planted_table(planted: Bundle, samples: list[CalibrationSample]) -> "CalibrationTable":
    return _calibrated(planted, samples)


def _calibrated(bundle: Bundle, samples: list[CalibrationSample]) -> "CalibrationTable":
    from florence_edge_calibration.quantization.observer import calibrate

    return calibrate(bundle, samples, no_progress, threads=1)
