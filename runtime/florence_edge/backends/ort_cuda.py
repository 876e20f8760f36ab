"""ONNX Runtime's CUDA provider on memory of our own: no cache ever visits the host.

The provider is given our stream, and every input and output of a graph is bound to an address. Our
CUDA graphs cannot take its runs in: it synchronizes inside of them. It can replay the decoder from
a graph of its own, one a binding and thread, for which FLORENCE_ORT_GRAPHS=1 asks; it then refuses
a decoder that it would compute in part on the CPU. It captures in a mode that the CUDA calls of any
other thread spoil, and keeps graphs until the model is closed. What that brings has not been
measured, so it is off.
Tested over a scripted CUDA; nothing of it has run on a GPU yet.
"""

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from itertools import count
from typing import Any

from .. import contract
from ..bundle import Bundle
from ..cuda.buffers import DeviceView
from ..cuda.device import Cuda, open_cuda
from ..errors import BackendError, RequestError
from .gpu import GpuBackend, open_gpu_backend
from .gpu_memory import GraphRun
from .ort import available, captured_as, check_active, open_session, run_bound

PROVIDER = "CUDAExecutionProvider"
GRAPHS = "FLORENCE_ORT_GRAPHS"  # environment variable: 1 has ONNX Runtime capture the decoder


def open_ort_cuda(bundle: Bundle, *, index: int = 0) -> GpuBackend:
    """Open a bundle's graphs in ONNX Runtime on GPU `index`.

    Raises:
        BackendError: the CUDA provider or the GPU is not there, or did not become active.
        MissingPackageError: ONNX Runtime is not installed.
    """
    replays = _requests_graphs()
    check_active(PROVIDER, available())  # or ONNX Runtime would only warn
    with ExitStack() as owned:
        cuda = open_cuda(index)
        owned.callback(cuda.close)
        settings = {
            "device_id": str(index),
            "user_compute_stream": str(cuda.stream),
            "use_tf32": "0",  # float32 in the graph means float32, as in TensorRT engines
        }
        sessions = {
            name: OrtCudaSession(open_session(bundle, name, (PROVIDER, settings)), cuda)
            for name in contract.GRAPHS
            if not (replays and name == contract.DECODER)
        }
        owned.callback(sessions.clear)  # before the stream: their libraries hold on to it
        if replays:
            sessions[contract.DECODER] = _replaying_decoder(bundle, settings, cuda)
        return open_gpu_backend(bundle, cuda, sessions, owned)


def _requests_graphs() -> bool:
    requested = os.environ.get(GRAPHS, "")
    if requested not in ("", "0", "1"):
        raise RequestError(f"{GRAPHS} is {requested!r}; expected 1 or 0.")
    return requested == "1"


def _replaying_decoder(bundle: Bundle, settings: Mapping[str, str], cuda: Cuda) -> "OrtCudaSession":
    provider = (PROVIDER, {**settings, "enable_cuda_graph": "1"})
    try:
        session = open_session(bundle, contract.DECODER, provider)
    except BackendError as error:
        raise BackendError(
            f"{error} {GRAPHS}=1 was set; without it the decoder may open."
        ) from error
    return OrtCudaSession(session, cuda, replays=True)


class OrtCudaSession:
    """One graph; a binding is ONNX Runtime's, on addresses.

    A session that `replays` captures each binding within its first run, under a number of its own:
    ONNX Runtime compares neither shapes nor addresses before it replays.
    """

    capturable = False

    def __init__(self, session: Any, cuda: Cuda, *, replays: bool = False) -> None:
        self._session = session
        self._cuda = cuda
        self._numbers = count(1) if replays else None  # 0 is ONNX Runtime's own
        self._check_inputs()

    def bind(self, views: Mapping[str, DeviceView]) -> GraphRun:
        binding = self._session.io_binding()
        for values, bind in (
            (self._session.get_inputs(), binding.bind_input),
            (self._session.get_outputs(), binding.bind_output),
        ):
            self._bind(values, bind, views)
        options = None if self._numbers is None else captured_as(next(self._numbers))
        return lambda: run_bound(self._session, binding, options)

    def _check_inputs(self) -> None:
        """Refuse what would compute wrong numbers.

        An input that ONNX Runtime wants on the host, or on another GPU, is copied there when it is
        bound, and what we write to its address afterwards would never be read.
        """
        if not hasattr(self._session, "get_input_memory_infos"):  # before ONNX Runtime 1.23
            return
        infos = zip(self._session.get_inputs(), self._session.get_input_memory_infos(), strict=True)
        elsewhere = [
            f"{value.name} on {memory.name}:{memory.device_id}"
            for value, memory in infos
            if memory.name == "Cpu" or memory.device_id != self._cuda.index
        ]
        if elsewhere:
            raise BackendError(
                f"ONNX Runtime's CUDA provider requires {', '.join(elsewhere)}, where this runtime "
                "does not put it. Use another release of onnxruntime-gpu, or device='tensorrt'."
            )

    def _bind(self, values: Sequence[Any], bind: Any, views: Mapping[str, DeviceView]) -> None:
        for value in values:
            view = views[value.name]
            try:
                bind(
                    value.name,
                    "cuda",
                    self._cuda.index,
                    view.dtype.type,
                    view.shape,
                    view.address,
                )
            except RuntimeError as error:
                raise BackendError(
                    f"ONNX Runtime does not take {value.name} on the GPU: {error}. Use "
                    "device='cpu'."
                ) from error
