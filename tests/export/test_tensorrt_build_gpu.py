"""florence-build on the GPU of this machine, with its TensorRT: built, self-tested, compared.

Not run yet: there was no GPU. To run it: python -m pytest -m tensorrt tests/export
"""

from pathlib import Path

import pytest

from florence_edge.errors import BackendError
from florence_edge.tensorrt.driver import find_gpu
from florence_edge.tensorrt.install import find_tensorrt
from florence_edge_export.checkpoint.loader import MINIATURE, find_checkpoint
from florence_edge_export.export import ExportOptions, export
from florence_edge_export.tensorrt_build.cli import main

pytestmark = pytest.mark.tensorrt


@pytest.fixture(autouse=True)
def _gpu_and_tensorrt() -> None:
    try:
        find_tensorrt()
        find_gpu()
    except BackendError as error:
        pytest.skip(f"{error} Then: python -m pytest -m tensorrt")


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_miniature_builds_and_computes_what_onnxruntime_does(
    precision: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("polygraphy")
    bundle = tmp_path / "bundle"
    export(MINIATURE, find_checkpoint(MINIATURE), bundle, ExportOptions(precision=precision))
    assert main([str(bundle), "--compare"]) == 0
    printed = capsys.readouterr().out
    assert "self-test: " in printed
    assert "drifts" not in printed
