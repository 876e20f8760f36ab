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
from ..cuda.buffers import DeviceArray, DeviceView
from ..cuda.device import Cuda, open_cuda
from ..errors import BackendError
from ..tensorrt.find import Engines, find_engines
from ..tensorrt.install import TensorRT, find_tensorrt, make_logger
from ..tensorrt.manifest import read_plan, source, this_device
from ..tensorrt.profiles import profile_index
from .gpu import GpuBackend, open_gpu_backend
from .gpu_memory import GraphRun

logger = logging.getLogger(__name__)


def open_tensorrt(
    bundle: Bundle,
    *,
    index: int = 0,
    choice: str | None = None,
    engine_dir: Path | None = None,
    verify: bool = True,
) -> GpuBackend:
    """Load the engines of a bundle on GPU `index`.

    `choice` is "rtx" for TensorRT-RTX; None takes what FLORENCE_TENSORRT names, or what there is.
    With `verify`, engines are compared with the hashes that they were written with.

    Raises:
        BackendError: CUDA or fitting engines are missing, and what to run.
        MissingPackageError: TensorRT is not installed.
    """
    tensorrt = find_tensorrt(choice)
    device = this_device(tensorrt, index)
    engines = find_engines(bundle, device, engine_dir=engine_dir, gpu=index)
    with ExitStack() as owned:
        cuda = open_cuda(index)
        owned.callback(cuda.close)
        log = make_logger(tensorrt.module, _log_message)
        runtime = tensorrt.module.Runtime(log)
        loaded = {graph: _load(runtime, engines, graph, verify) for graph in contract.GRAPHS}
        # The graphs run one after the other: the largest scratch serves them all.
        largest = max(engine.device_memory_size_v2 for engine in loaded.values())
        scratch = cuda.array((largest,), "uint8")
        owned.callback(scratch.close)
        shared = _Shared(tensorrt, log, runtime, cuda, engines, scratch)
        sessions = {
            graph: TensorRtSession(shared, graph, loaded.pop(graph)) for graph in contract.GRAPHS
        }
        owned.callback(sessions.clear)  # the engines go before the stream and their scratch
        built = engines.manifest.options
        return open_gpu_backend(
            bundle,
            cuda,
            sessions,
            owned,
            max_new_tokens=built.max_new_tokens,
            max_batch=built.batch,
            writes_rows=built.in_place > 0,
            in_place=built.in_place,
        )


@dataclass(frozen=True, slots=True)
class _Shared:
    """What the three engines of a bundle have in common."""

    tensorrt: TensorRT
    log: Any  # kept here, as the runtime is: TensorRT itself keeps neither alive
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
        self._contract, _ = source(engines.bundle, graph, engines.manifest.options)
        self._engine = engine

    def bind(self, views: Mapping[str, DeviceView]) -> GraphRun:
        """A context for these arrays.

        Raises:
            BackendError: the engine was not built for these shapes.
        """
        shared, stream = self._shared, self._shared.cuda.stream
        profile = self._profile(views)
        settings = self._context_settings()
        context = self._engine.create_execution_context(settings)
        if context is None:
            raise self._failure("makes no execution context")
        self.check(context.set_optimization_profile_async(profile, stream), "takes no profile")
        context.set_device_memory(shared.scratch.view.address, shared.scratch.view.nbytes)
        for tensor in self._contract.inputs:
            shape = views[tensor.name].shape
            self.check(context.set_input_shape(tensor.name, shape), f"refuses {tensor.name}")
        for tensor in (*self._contract.inputs, *self._contract.outputs):
            address = views[tensor.name].address
            self.check(context.set_tensor_address(tensor.name, address), f"lacks {tensor.name}")
        shared.cuda.synchronize()  # the switch of profiles may copy
        if shared.tensorrt.is_rtx:  # depends on how the engine was built
            self.capturable &= bool(context.is_stream_capturable(stream))

        # TensorRT-RTX may still refer to the settings that a context was made from.
        return _ContextRun(self, context, stream, settings)

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

    def _profile(self, views: Mapping[str, DeviceView]) -> int:
        """Which profile serves these shapes, once it is clear that one was built."""
        sides = {
            symbol: side
            for tensor in self._contract.inputs
            for symbol, side in zip(tensor.shape, views[tensor.name].shape, strict=True)
            if isinstance(symbol, str)
        }
        tokens = min_tokens(sides)
        self._shared.engines.check(batch=sides["B"], beams=sides.get("N", 1), tokens=tokens)
        return profile_index(self._shared.engines.profiles[self._contract.name], sides)

    def check(self, done: bool, what: str) -> None:
        """Raise what TensorRT reports by a flag only.

        Raises:
            BackendError: it is not done; `what` the engine does instead.
        """
        if not done:
            raise self._failure(what)

    def _failure(self, what: str) -> BackendError:
        engines = self._shared.engines
        return BackendError(
            f"The TensorRT engine {engines.plan(self._contract.name)} {what}; its reason is logged "
            f"above. Build it again: florence-build {engines.bundle.folder} --refresh"
        )


def min_tokens(sides: Mapping[str, int]) -> int:
    """The shortest answer that needs so many cache rows as these symbols say; 1 without any."""
    rows = sides.get("S", 1)
    return 1 if rows <= contract.MIN_CACHE_CAPACITY else rows // 2 + 1


@dataclass(frozen=True, slots=True)
class _ContextRun:
    """Enqueues one run of a context."""

    session: TensorRtSession
    context: Any
    stream: int
    settings: Any  # kept for the context alone

    def __call__(self) -> None:
        self.session.check(self.context.execute_async_v3(self.stream), "failed while running")


def _load(runtime: Any, engines: Engines, graph: str, verify: bool) -> Any:
    plan = read_plan(engines.folder, engines.manifest, graph, verify=verify)
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise BackendError(
            f"TensorRT does not load {engines.plan(graph)}; its reason is logged above. Build the "
            f"engines again: florence-build {engines.bundle.folder} --refresh"
        )
    return engine


def _log_message(level: int, message: str) -> None:
    logger.log(level, "TensorRT: %s", message)
