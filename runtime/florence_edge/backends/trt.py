"""TensorRT and TensorRT-RTX: engines that florence-build made, run on the GPU.

Tested over a scripted TensorRT and CUDA; it has not run on a GPU yet.
"""

import logging
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import contract
from ..bundle import Bundle
from ..cuda import Cuda, DeviceArray, Place, open_cuda
from ..engines import Engines, find_engines
from ..engines.flavours import TensorRT, find_tensorrt
from ..engines.profiles import profile_index
from ..engines.record import this_device
from ..errors import BackendError
from .batch_memory import Run
from .device import DeviceBackend, open_device_backend

logger = logging.getLogger(__name__)


def open_tensorrt(
    bundle: Bundle, *, index: int = 0, choice: str | None = None, engine_dir: Path | None = None
) -> DeviceBackend:
    """Load the engines of a bundle on GPU `index`.

    `choice` is "rtx" for TensorRT-RTX; None takes what FLORENCE_TENSORRT names, or what there is.

    Raises:
        BackendError: TensorRT, CUDA or fitting engines are missing, and what to run.
    """
    tensorrt = find_tensorrt(choice)
    engines = find_engines(bundle, this_device(tensorrt, index), engine_dir=engine_dir)
    with ExitStack() as owned:
        cuda = open_cuda(index)
        owned.callback(cuda.close)
        log = _logger(tensorrt.module)
        runtime = tensorrt.module.Runtime(log)
        loaded = {graph: _load(runtime, engines, graph) for graph in contract.GRAPHS}
        # The graphs run one after the other: the largest scratch serves them all.
        most = max(engine.device_memory_size_v2 for engine in loaded.values())
        scratch = cuda.array((most,), "uint8")
        owned.callback(scratch.close)
        shared = _Shared(tensorrt, log, runtime, cuda, engines, scratch)
        sessions = {
            graph: TensorRtSession(shared, graph, engine) for graph, engine in loaded.items()
        }
        return open_device_backend(bundle, cuda, sessions, owned)


@dataclass(frozen=True, slots=True)
class _Shared:
    """What the three engines of a bundle have in common."""

    tensorrt: TensorRT
    log: Any  # held, as the runtime is: TensorRT itself keeps neither alive
    runtime: Any
    cuda: Cuda
    engines: Engines
    scratch: DeviceArray


class TensorRtSession:
    """One engine; every binding is an execution context of its own.

    A captured graph belongs to its context's shapes and addresses, so contexts are not rebound.
    They own no scratch memory and are cheap.
    """

    def __init__(self, shared: _Shared, graph: str, engine: Any) -> None:
        self.capturable = True
        self._shared = shared
        bundle = shared.engines.bundle
        self._contract = contract.graphs(bundle.size, bundle.floats)[graph]
        self._engine = engine

    def bind(self, places: Mapping[str, Place]) -> Run:
        """A context for these arrays.

        Raises:
            BackendError: the engine was not built for these shapes.
        """
        shared, stream = self._shared, self._shared.cuda.stream
        profile = self._profile(places)
        strategy = shared.tensorrt.module.ExecutionContextAllocationStrategy.USER_MANAGED
        context = self._engine.create_execution_context(strategy)
        if context is None:
            raise self._failure("makes no execution context")
        self._check(context.set_optimization_profile_async(profile, stream), "takes no profile")
        context.set_device_memory(shared.scratch.place.address, shared.scratch.place.nbytes)
        for tensor in self._contract.inputs:
            shape = places[tensor.name].shape
            self._check(context.set_input_shape(tensor.name, shape), f"refuses {tensor.name}")
        for tensor in (*self._contract.inputs, *self._contract.outputs):
            address = places[tensor.name].address
            self._check(context.set_tensor_address(tensor.name, address), f"lacks {tensor.name}")
        shared.cuda.synchronize()  # the switch of profiles may copy
        if shared.tensorrt.is_rtx:  # depends on how the engine was built
            self.capturable = bool(context.is_stream_capturable(stream))

        def run() -> None:
            self._check(context.execute_async_v3(stream), "failed while running")

        return run

    def _profile(self, places: Mapping[str, Place]) -> int:
        """Which profile serves these shapes, once it is clear that one was built."""
        sides = {
            symbol: side
            for tensor in self._contract.inputs
            for symbol, side in zip(tensor.shape, places[tensor.name].shape, strict=True)
            if isinstance(symbol, str)
        }
        capacity = sides.get("S", contract.MIN_CACHE_CAPACITY)
        smaller = capacity // 2 if capacity > contract.MIN_CACHE_CAPACITY else 0
        self._shared.engines.check(batch=sides["B"], beams=sides.get("N", 1), tokens=smaller + 1)
        return profile_index(self._shared.engines.profiles[self._contract.name], sides)

    def _check(self, done: bool, what: str) -> None:
        if not done:
            raise self._failure(what)

    def _failure(self, what: str) -> BackendError:
        engines = self._shared.engines
        return BackendError(
            f"The TensorRT engine {engines.plan(self._contract.name)} {what}; its reason is logged "
            f"above. Build it again: florence-build {engines.bundle.folder} --refresh"
        )


def _load(runtime: Any, engines: Engines, graph: str) -> Any:
    plan = engines.plan(graph)
    try:
        engine = runtime.deserialize_cuda_engine(plan.read_bytes())
    except OSError as error:
        raise BackendError(f"{plan} cannot be read: {error}. Build it again.") from error
    if engine is None:
        raise BackendError(
            f"TensorRT does not load {plan}; its reason is logged above. Build the engines again: "
            f"florence-build {engines.bundle.folder} --refresh"
        )
    return engine


def _logger(trt: Any) -> Any:
    """TensorRT's messages as Python's log records; what is below a warning says too much."""
    levels = {
        trt.ILogger.INTERNAL_ERROR: logging.CRITICAL,
        trt.ILogger.ERROR: logging.ERROR,
        trt.ILogger.WARNING: logging.WARNING,
    }

    class Logger(trt.ILogger):  # type: ignore[misc]
        """The one class that TensorRT wants to have inherited from."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            logger.log(levels.get(severity, logging.DEBUG), "TensorRT: %s", message)

    return Logger()
