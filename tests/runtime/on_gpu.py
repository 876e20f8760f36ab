"""What the tests marked `gpu` and `tensorrt` need; they are skipped, and say so, without it."""

import pytest

from florence_edge import BackendError, MissingPackageError
from florence_edge.backends import ort_package
from florence_edge.cuda.device import open_cuda
from florence_edge.tensorrt.install import find_tensorrt


def require_gpu() -> None:
    try:
        open_cuda().close()
    except (BackendError, MissingPackageError) as error:
        pytest.skip(f"run `pytest -m gpu` where there is an NVIDIA GPU: {error}")


def require_onnxruntime_gpu() -> None:
    if ort_package.CUDA not in ort_package.available():
        pytest.skip("run `pytest -m gpu` with onnxruntime-gpu: pip install florence-edge[gpu]")
    require_gpu()


def require_tensorrt() -> None:
    try:
        find_tensorrt()
    except (BackendError, MissingPackageError) as error:
        pytest.skip(f"run `pytest -m tensorrt` where there is TensorRT: {error}")
    require_gpu()
