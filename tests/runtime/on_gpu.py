"""What the tests marked `gpu` and `tensorrt` need; they are skipped, and say so, without it."""

import pytest

from florence_edge import BackendError
from florence_edge.cuda import open_cuda
from florence_edge.engines.flavours import find_tensorrt


def require_gpu() -> None:
    try:
        open_cuda().close()
    except BackendError as error:
        pytest.skip(f"run `pytest -m gpu` where there is an NVIDIA GPU: {error}")


def require_tensorrt() -> None:
    try:
        find_tensorrt()
    except BackendError as error:
        pytest.skip(f"run `pytest -m tensorrt` where there is TensorRT: {error}")
    require_gpu()
