"""florence-build on the GPU of this machine, with its TensorRT: built, self-tested, compared.

Not run yet: there was no GPU. To run it: python -m pytest -m tensorrt tests/export
"""

from pathlib import Path

import pytest

from florence_edge.engines.flavours import find_tensorrt
from florence_edge.engines.gpu import find_gpu
from florence_edge.errors import BackendError
from florence_edge_export.checkpoint.source import MINIATURE, find_checkpoint
from florence_edge_export.engines.cli import main
from florence_edge_export.export import ExportOptions, export

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
    told = capsys.readouterr().out
    assert "self-test: " in told
    assert "drifts" not in told
