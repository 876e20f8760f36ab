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
from ..engines.log import logger_of
from ..engines.profiles import profile_index
from ..engines.record import source, this_device
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
    device = this_device(tensorrt, index)
    engines = find_engines(bundle, device, engine_dir=engine_dir, gpu=index)
    with ExitStack() as owned:
        cuda = open_cuda(index)
        owned.callback(cuda.close)
        log = logger_of(tensorrt.module, _hear)
        runtime = tensorrt.module.Runtime(log)
        loaded = {graph: _load(runtime, engines, graph) for graph in contract.GRAPHS}
        # The graphs run one after the other: the largest scratch serves them all.
        largest = max(engine.device_memory_size_v2 for engine in loaded.values())
        scratch = cuda.array((largest,), "uint8")
        owned.callback(scratch.close)
        shared = _Shared(tensorrt, log, runtime, cuda, engines, scratch)
        sessions = {
            graph: TensorRtSession(shared, graph, loaded.pop(graph)) for graph in contract.GRAPHS
        }
        owned.callback(sessions.clear)  # the engines go before the stream and their scratch
        built = engines.record.options
        return open_device_backend(
            bundle,
            cuda,
            sessions,
            owned,
            most_new_tokens=built.max_new_tokens,
            in_place=built.in_place,
        )


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
        engines = shared.engines
        self._contract, _ = source(engines.bundle, graph, engines.record.options)
        self._engine = engine

    def bind(self, places: Mapping[str, Place]) -> Run:
        """A context for these arrays.

        Raises:
            BackendError: the engine was not built for these shapes.
        """
        shared, stream = self._shared, self._shared.cuda.stream
        profile = self._profile(places)
        settings = self._context_settings()
        context = self._engine.create_execution_context(settings)
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
            self.capturable &= bool(context.is_stream_capturable(stream))

        def run(settings: Any = settings) -> None:  # which TensorRT-RTX may still refer to
            self._check(context.execute_async_v3(stream), "failed while running")

        return run

    def _context_settings(self) -> Any:
        """How a context is made: without scratch memory, for it gets ours.

        TensorRT-RTX compiles kernels for the shapes of a context, by default while others already
        run in their place: those a graph would capture, and find swapped.
        """
        module = self._shared.tensorrt.module
        strategy = module.ExecutionContextAllocationStrategy.USER_MANAGED
        if not self._shared.tensorrt.is_rtx:
            return strategy
        runtime_config = self._engine.create_runtime_config()
        runtime_config.set_execution_context_allocation_strategy(strategy)
        eager = module.DynamicShapesKernelSpecializationStrategy.EAGER
        runtime_config.dynamic_shapes_kernel_specialization_strategy = eager
        return runtime_config

    def _profile(self, places: Mapping[str, Place]) -> int:
        """Which profile serves these shapes, once it is clear that one was built."""
        sides = {
            symbol: side
            for tensor in self._contract.inputs
            for symbol, side in zip(tensor.shape, places[tensor.name].shape, strict=True)
            if isinstance(symbol, str)
        }
        tokens = least_tokens(places, self._shared.engines.record.options.in_place)
        self._shared.engines.check(batch=sides["B"], beams=sides.get("N", 1), tokens=tokens)
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


def least_tokens(places: Mapping[str, Place], in_place: int) -> int:
    """The shortest answer for which caches have the capacity that they have."""
    keys = places.get(contract.self_cache(0, "key"))
    if keys is None or keys.shape[2] in (contract.MIN_CACHE_CAPACITY, in_place):
        return 1
    return keys.shape[2] // 2 + 1


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


def _hear(level: int, message: str) -> None:
    logger.log(level, "TensorRT: %s", message)
