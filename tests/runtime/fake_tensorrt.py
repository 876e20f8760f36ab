"""A scripted TensorRT: engines that run the real graphs in ONNX Runtime, on scripted memory.

A plan is the path of a graph. A run reads its inputs from the addresses it was given when it was
enqueued, computes, and writes its outputs; before, it fills the scratch memory that it was lent, so
that nothing else can live there. Every name here must exist in all TensorRT releases
(test_trt_engines.py).
"""

import enum
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .fake_cuda import POISON, FakeCuda

SCRATCH = {"vision_encoder": 3000, "text_encoder": 5000, "decoder": 4000}  # bytes


def numpy_type(value: Any) -> Any:
    names = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int64)": np.int64}
    return names.get(value.type, np.uint8)


class Graphs:
    """The graphs of a bundle in ONNX Runtime, opened once for all tests."""

    def __init__(self) -> None:
        self._sessions: dict[str, Any] = {}

    def __getitem__(self, path: str) -> Any:
        if path not in self._sessions:
            import onnxruntime  # here: conftest imports this, and must do without

            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = 1
            self._sessions[path] = onnxruntime.InferenceSession(path, options)
        return self._sessions[path]


GRAPHS = Graphs()


def run_graph(session: Any, cuda: FakeCuda, addresses: Mapping[str, tuple[int, Any]]) -> None:
    """Run a graph on arrays given by address and shape; a shape of None is what comes out."""
    feeds = {
        value.name: grown(cuda.view(*addresses[value.name], numpy_type(value)), value.shape)
        for value in session.get_inputs()
    }
    outputs = session.get_outputs()
    for value, result in zip(outputs, session.run(None, feeds), strict=True):
        address, shape = addresses[value.name.replace("kept_", "self_")]
        if "kept_" in value.name:
            result = result[:, :, : shape[2]]
        cuda.view(address, result.shape, numpy_type(value))[:] = result


def grown(array: Any, sides: Sequence[int | str]) -> Any:
    """A copy as large as the graph wants it: engines may have caches of fewer rows."""
    pairs = zip(array.shape, sides, strict=True)
    more = [(0, side - was if isinstance(side, int) else 0) for was, side in pairs]
    return np.pad(array, more)


@dataclass
class FakeTensorRT:
    """The module. `contexts` are all there were; `refuses` names a method that returns False."""

    cuda: FakeCuda
    __version__: str = "10.3.0"
    refuses: str = ""
    capturable: bool = True
    contexts: list["IExecutionContext"] = field(default_factory=list)

    class ILogger:
        """Severities are attributes of the class, as in TensorRT."""

        INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

        def __init__(self) -> None:
            pass

    class ExecutionContextAllocationStrategy(enum.Enum):
        STATIC, ON_PROFILE_CHANGE, USER_MANAGED = range(3)

    class DynamicShapesKernelSpecializationStrategy(enum.Enum):
        """Of TensorRT-RTX alone."""

        LAZY, EAGER, NONE = range(3)

    def Runtime(self, logger: Any) -> "Runtime":
        logger.log(self.ILogger.VERBOSE, "hello")
        return Runtime(self)


@dataclass
class Runtime:
    trt: FakeTensorRT

    def deserialize_cuda_engine(self, plan: bytes) -> "ICudaEngine | None":
        path = plan.decode()
        return ICudaEngine(self.trt, path) if path.endswith(".onnx") else None


@dataclass
class ICudaEngine:
    trt: FakeTensorRT
    path: str

    @property
    def device_memory_size_v2(self) -> int:
        return next(size for name, size in SCRATCH.items() if name in self.path)

    def create_runtime_config(self) -> "IRuntimeConfig":
        """Of TensorRT-RTX alone, as it is used here."""
        return IRuntimeConfig()

    def create_execution_context(self, how: Any) -> "IExecutionContext":
        strategy = how.strategy if isinstance(how, IRuntimeConfig) else how
        assert strategy is FakeTensorRT.ExecutionContextAllocationStrategy.USER_MANAGED
        context = IExecutionContext(self.trt, self, how)
        self.trt.contexts.append(context)
        return context


@dataclass
class IRuntimeConfig:
    strategy: Any = None
    dynamic_shapes_kernel_specialization_strategy: Any = (
        FakeTensorRT.DynamicShapesKernelSpecializationStrategy.LAZY
    )

    def set_execution_context_allocation_strategy(self, strategy: Any) -> None:
        self.strategy = strategy


@dataclass
class IExecutionContext:
    trt: FakeTensorRT
    engine: ICudaEngine
    how: Any
    profile: int | None = None
    scratch: tuple[int, int] = (0, 0)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    addresses: dict[str, int] = field(default_factory=dict)
    runs: int = 0

    def set_optimization_profile_async(self, index: int, stream: int) -> bool:
        self.profile = index
        return self._answers("set_optimization_profile_async")

    def set_device_memory(self, address: int, size: int) -> None:
        assert size >= self.engine.device_memory_size_v2
        self.scratch = address, size

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert self.profile is not None
        self.shapes[name] = tuple(shape)
        return self._answers("set_input_shape")

    def set_tensor_address(self, name: str, address: int) -> bool:
        assert address % 256 == 0
        self.addresses[name] = address
        return self._answers("set_tensor_address")

    def execute_async_v3(self, stream: int) -> bool:
        cuda = self.trt.cuda
        assert self.runs or cuda.captured is None, "the first run of a context cannot be captured"
        self.runs += 1
        session = GRAPHS[self.engine.path]
        frozen = {name: (address, self.shapes.get(name)) for name, address in self._bound(session)}

        def run() -> None:
            address, size = self.scratch
            cuda.view(address, (size,), np.uint8)[:] = POISON
            run_graph(session, cuda, frozen)

        cuda.enqueue(run)
        return self._answers("execute_async_v3")

    def is_stream_capturable(self, stream: int) -> bool:
        """Of TensorRT-RTX alone."""
        return self.trt.capturable

    def _bound(self, session: Any) -> Iterator[tuple[str, int]]:
        for value in (*session.get_inputs(), *session.get_outputs()):
            yield value.name, self.addresses[value.name]

    def _answers(self, method: str) -> bool:
        return method != self.trt.refuses
