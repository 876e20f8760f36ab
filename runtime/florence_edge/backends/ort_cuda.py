"""ONNX Runtime's CUDA provider on memory of our own: no cache ever visits the host.

The provider is given our stream, and every input and output of a graph is bound to an address. Its
runs do not wait for the GPU (we do), and a decoder's step is taken into a CUDA graph of ours with
all that is around it: one launch, one wait. For that the decoder is opened as for ONNX Runtime's
own graphs, which is when it refuses a decoder that it would compute in part on the CPU, and does
not leave memory to be freed behind a run; then it is told at every run not to capture by itself.
A decoder that is refused runs without graphs, and that is said.

Bundles in float16 have a vision encoder and a decoder of this provider's own operators
(contract.VISION_CUDA, CUDA_DECODER), which are fewer kernels.
Tested over a scripted CUDA, and with the real provider over stand-in libraries
(tests/cuda_stand_in); nothing of it has run on a GPU yet.
"""

import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from traceback import clear_frames
from types import TracebackType
from typing import Any

from .. import contract
from ..bundle import Bundle
from ..cuda.buffers import DeviceView
from ..cuda.device import Cuda, open_cuda
from ..errors import BackendError
from .gpu import CUDA_GRAPHS, FUSED_GRAPHS, GpuBackend, open_gpu_backend, requested
from .gpu_memory import GraphRun
from .ort import check_active, open_session, run_bound, unsynchronized
from .ort_libraries import preload
from .ort_package import CUDA, available, import_onnxruntime, ort_version

logger = logging.getLogger(__name__)

_FUSED_SINCE = (1, 28)  # the oldest release that the extra `gpu` brings where it brings CUDA 13
# The encoders' attention, of the kinds that add up in float32 (onnxruntime's AttentionBackend):
# FLASH_ATTENTION, EFFICIENT_ATTENTION for GPUs without it, and MATH. Those of TensorRT do not.
ADDS_IN_FLOAT32 = {"sdpa_kernel": str(1 | 2 | 16)}


def open_ort_cuda(bundle: Bundle, *, index: int = 0) -> GpuBackend:
    """Open a bundle's graphs in ONNX Runtime on GPU `index`.

    Raises:
        BackendError: the CUDA provider or the GPU is not there, or did not become active.
        MissingPackageError: ONNX Runtime is not installed.
    """
    check_active(CUDA, available())  # or ONNX Runtime would only warn
    preload(import_onnxruntime())  # first: ours may come from the same wheels
    with ExitStack() as owned:
        cuda = open_cuda(index)
        owned.callback(cuda.close)
        opener = _Opener(bundle, cuda, handled=sys.exc_info()[1])
        owned.push(opener.let_go)  # before the stream: the sessions' libraries hold on to it
        opener.open(contract.VISION_ENCODER, opener.encoder, own=contract.VISION_CUDA)
        opener.open(contract.TEXT_ENCODER, opener.encoder)
        fused = opener.open(contract.DECODER, opener.decoder, own=contract.CUDA_DECODER)
        return open_gpu_backend(bundle, cuda, opener.sessions, owned, writes_rows=fused)


@dataclass(frozen=True, slots=True)
class _Opener:
    """Opens a bundle's graphs on one GPU; `sessions` alone refers to them.

    `handled` is the error that the caller handles meanwhile, if any.
    """

    bundle: Bundle
    cuda: Cuda
    handled: BaseException | None = None
    sessions: dict[str, "OrtCudaSession"] = field(default_factory=dict)

    def open(
        self, name: str, open_graph: Callable[[str], "OrtCudaSession"], *, own: str = ""
    ) -> bool:
        """Open a graph, or `own` in its place: that of the provider's own operators.

        Gives whether it is that: where the bundle has it, and this release runs it.
        """
        there = bool(own) and self.bundle.graph_file(own).name in self.bundle.files
        if requested(FUSED_GRAPHS) and there and ort_version() >= _FUSED_SINCE:
            try:
                self.sessions[name] = open_graph(own)
                return True
            except BackendError as refused:
                logger.warning(
                    "ONNX Runtime does not open %s.onnx, which is of its own operators: %s.onnx "
                    "runs instead, which is slower. %s",
                    own,
                    name,
                    str(refused),  # a record may be kept: with the error, all that its frames hold
                )
        self.sessions[name] = open_graph(name)
        return False

    def encoder(self, graph: str) -> "OrtCudaSession":
        """One of the two encoders, opened."""
        provider = (CUDA, {**self._settings(), **ADDS_IN_FLOAT32})
        return OrtCudaSession(open_session(self.bundle, graph, provider), self.cuda)

    def decoder(self, graph: str) -> "OrtCudaSession":
        """A decoder, opened so that a step can be captured if that is wanted and possible.

        One that is opened so keeps cuBLAS's memory for each thread that ever ran it.
        """
        plain = (CUDA, self._settings())
        if not requested(CUDA_GRAPHS):
            return OrtCudaSession(open_session(self.bundle, graph, plain), self.cuda)
        provider = (CUDA, {**self._settings(), "enable_cuda_graph": "1"})
        try:
            session = open_session(self.bundle, graph, provider)
        except BackendError as refused:
            session = open_session(self.bundle, graph, plain)
            logger.warning(
                "ONNX Runtime does not let the decoder into a CUDA graph: its steps are enqueued "
                "call by call, which is slower. %s",
                str(refused),  # as above
            )
            return OrtCudaSession(session, self.cuda)
        return OrtCudaSession(session, self.cuda, capturable=True)

    def let_go(
        self,
        _: type[BaseException] | None,
        error: BaseException | None,
        __: TracebackType | None,
    ) -> None:
        """Drop the sessions, those that the frames of an error hold as well.

        An error that was there before the opening began is its handler's, and keeps its frames.
        """
        self.sessions.clear()
        while error is not None and error is not self.handled:
            clear_frames(error.__traceback__)
            error = error.__context__

    def _settings(self) -> dict[str, str]:
        return {
            "device_id": str(self.cuda.index),
            "user_compute_stream": str(self.cuda.stream),
            "use_tf32": "0",  # float32 in the graph means float32, as in TensorRT engines
            "arena_extend_strategy": "kSameAsRequested",  # else up to twice what is needed
            # SkipLayerNormalization adds up in float32; newer releases do so without being asked
            # (microsoft/onnxruntime#28682).
            "enable_skip_layer_norm_strict_mode": "1",
        }


class OrtCudaSession:
    """One graph; a binding is ONNX Runtime's, on addresses. Runs are enqueued, and not waited for.

    One that is `capturable` was opened with the provider's `enable_cuda_graph`.
    """

    def __init__(self, session: Any, cuda: Cuda, *, capturable: bool = False) -> None:
        self.capturable = capturable
        self._session = session
        self._cuda = cuda
        self._options = unsynchronized(captures=capturable)
        self._check_inputs()

    def bind(self, views: Mapping[str, DeviceView]) -> GraphRun:
        binding = self._session.io_binding()
        for values, bind in (
            (self._session.get_inputs(), binding.bind_input),
            (self._session.get_outputs(), binding.bind_output),
        ):
            self._bind(values, bind, views)
        return lambda: run_bound(self._session, binding, self._options, on_gpu=True)

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
