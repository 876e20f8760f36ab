"""One graph becomes one plan, in this process, with the TensorRT that is here.

The same few calls serve TensorRT 10.3 to 11.x and TensorRT-RTX, because precision is in the graph
and networks are strongly typed (11.x knows no other). In order: the job and the events that report
on it, TensorRT's messages and progress as events, every setting of the builder and all that only
some versions have, and the build itself.
"""

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from florence_edge.contract import GraphSignature
from florence_edge.errors import BackendError
from florence_edge.tensorrt.install import Flavour, TensorRT, make_logger
from florence_edge.tensorrt.profiles import Profile

from .memory_forecast import MAKE_ROOM


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One graph to build: everything that the building process has to know.

    `ahead_of_time` is the compute capability to build for without a GPU (TensorRT-RTX alone can),
    None where the engine is for the GPU of this machine.
    """

    graph: GraphSignature
    onnx: Path
    plan: Path
    timing_cache: Path
    profiles: tuple[Profile, ...]
    workspace_mb: int
    flavour: Flavour
    ahead_of_time: str | None
    gpu: int = 0  # the number of this machine's GPU


@dataclass(frozen=True, slots=True)
class Message:
    """Something TensorRT logged; `level` is one of the standard library's."""

    level: int
    text: str


@dataclass(frozen=True, slots=True)
class BuildProgress:
    """How far a phase of the build is; `total` 0 means that it has just begun."""

    phase: str
    done: int
    total: int


@dataclass(frozen=True, slots=True)
class Built:
    """The plan is written; `peak_mb` is the largest memory that the process had resident."""

    seconds: float
    peak_mb: int


@dataclass(frozen=True, slots=True)
class Failed:
    """The build failed for a reason that this message gives."""

    text: str


Event = Message | BuildProgress | Built | Failed
OnEvent = Callable[[Event], None]


# The parser says so of every int64 input and output; they are int64 in the contract.
_EXPECTED = "has Int64 binding"


class Warnings:
    """Hands messages on, and keeps warnings and errors."""

    def __init__(self, on_event: OnEvent) -> None:
        self._on_event = on_event
        self.kept: list[Message] = []

    def take(self, level: int, text: str) -> None:
        """One message of TensorRT's."""
        message = Message(logging.DEBUG if _EXPECTED in text else level, text)
        if message.level >= logging.WARNING:
            self.kept.append(message)
        self._on_event(message)

    def last_error(self) -> str:
        """The newest error, which is the one that ended a build."""
        errors = [message.text for message in self.kept if message.level >= logging.ERROR]
        return errors[-1].strip().rstrip(".") if errors else "no reason given"


def make_monitor(trt: Any, graph: str, on_event: OnEvent) -> Any:
    """An IProgressMonitor that reports the outermost phase."""

    class Monitor(trt.IProgressMonitor):
        """TensorRT wants a subclass of its own class."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._steps: dict[str, int] = {}

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            """A phase begins; those with a parent are parts of it."""
            if parent is None:
                self._steps[phase] = steps
                on_event(BuildProgress(graph, 0, steps))

        def step_complete(self, phase: str, step: int) -> bool:
            """A step is done; False would stop the build."""
            if phase in self._steps:
                on_event(BuildProgress(graph, step + 1, self._steps[phase]))
            return True

        def phase_finish(self, phase: str) -> None:
            """A phase ends."""
            self._steps.pop(phase, None)

    return Monitor()


def network_flags(trt: Any) -> int:
    """Strongly typed: 10.x needs the flag, 11.x knows no other and may drop the name."""
    typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if typed is None else 1 << int(typed)


def updates_in_place(trt: Any) -> bool:
    """Whether this TensorRT has the layer that writes to a cache where it lies (as of 10.15)."""
    return hasattr(trt, "KVCacheMode")


def configure(trt: Any, config: Any, job: Job, on_event: OnEvent) -> None:
    """Set a builder's configuration for a job.

    Raises:
        BackendError: this TensorRT cannot build for the requested compute capability.
    """
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, job.workspace_mb << 20)
    config.clear_flag(trt.BuilderFlag.TF32)  # float32 in the graph means float32
    config.max_aux_streams = 0  # a step is captured as a CUDA graph from one stream
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if hasattr(trt, "IProgressMonitor"):
        config.progress_monitor = make_monitor(trt, job.graph.name, on_event)
    if hasattr(trt.BuilderFlag, "REQUIRE_USER_ALLOCATION"):  # RTX: or contexts allocate in capture
        config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)
    if hasattr(trt, "ComputeCapability"):
        _set_compute_capability(trt, config, job.ahead_of_time)
    else:
        _set_timings(config, job)


def keep_timings(trt: Any, config: Any, job: Job) -> None:
    """Write what the builder measured, for the next build."""
    if not hasattr(trt, "ComputeCapability"):
        cache = config.get_timing_cache()
        if cache is not None:
            job.timing_cache.write_bytes(bytes(cache.serialize()))


def _set_timings(config: Any, job: Job) -> None:
    """Begin with what was measured before; with nothing, if that is damaged or another device's."""
    kept = job.timing_cache.read_bytes() if job.timing_cache.is_file() else b""
    cache = config.create_timing_cache(kept)
    if cache is None or not config.set_timing_cache(cache, False):  # False: devices must match
        config.set_timing_cache(config.create_timing_cache(b""), False)


def _set_compute_capability(trt: Any, config: Any, ahead_of_time: str | None) -> None:
    """TensorRT-RTX builds for named GPUs and measures nothing, so it has no use for timings."""
    members = trt.ComputeCapability.__members__
    known = [name for name in members if name.startswith("SM")]
    member = "CURRENT" if ahead_of_time is None else f"SM{ahead_of_time.replace('.', '')}"
    if ahead_of_time is not None and member not in known:
        others = ", ".join(f"{name[2:-1]}.{name[-1]}" for name in known)
        raise BackendError(
            f"TensorRT-RTX does not build for compute capability {ahead_of_time}, only for "
            f"{others}. Use the full TensorRT on such a GPU."
        )
    config.num_compute_capabilities = 1
    config.set_compute_capability(members[member], 0)


# "Unused Input: lengths" when a build begins, "Input Tensor lengths is unused" in the middle of it.
_UNUSED = re.compile(r"unused input|input tensor .* is unused", re.IGNORECASE)
_DRIVER = (
    "Look at nvidia-smi: is the GPU there, is its driver as new as this TensorRT's CUDA, and is it "
    "a GPU that this TensorRT supports?"
)
_EXPORT = "Export the bundle again with this version of florence-edge."


def plan_from_onnx(tensorrt: TensorRT, job: Job, on_event: OnEvent) -> memoryview:
    """Parse, set the profiles and build; the plan stays where TensorRT put it.

    Raises:
        BackendError: TensorRT refuses the graph, ignores a part of it, or finds no kernels.
    """
    trt = tensorrt.module
    warnings = Warnings(on_event)
    logger = make_logger(trt, warnings.take)
    builder = trt.Builder(logger)
    network = builder.create_network(network_flags(trt))
    parser = trt.OnnxParser(network, logger)
    _parse(parser, job)
    _check_inputs(network, job)
    _set_capacity(network, job)
    config = builder.create_builder_config()
    configure(trt, config, job, on_event)
    for profile in job.profiles:
        shapes = builder.create_optimization_profile()
        for tensor in job.graph.inputs:
            shapes.set_shape(tensor.name, *profile.shapes(tensor))
        config.add_optimization_profile(shapes)
    plan = builder.build_serialized_network(network, config)
    _check_nothing_is_ignored(warnings.kept, job)
    if plan is None:
        reason = warnings.last_error()
        raise BackendError(
            f"{tensorrt.flavour} {tensorrt.version} cannot build {job.onnx.name}: {reason}. "
            f"{_advice(reason)}"
        )
    keep_timings(trt, config, job)
    return memoryview(plan)  # a copy could be the one too many on an 8 GB board


def _advice(reason: str) -> str:
    if "memory" in reason.lower():
        return MAKE_ROOM
    return _DRIVER if "cuda" in reason.lower() else _EXPORT


def _parse(parser: Any, job: Job) -> None:
    if parser.parse_from_file(str(job.onnx)):
        return
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    reasons = [
        f"{error.desc()} (operator {error.node_operator() or '?'}, node {error.node_name() or '?'})"
        for error in errors
    ]
    raise BackendError(
        f"TensorRT cannot read {job.onnx}: {'; '.join(reasons) or 'no reason given'}. {_EXPORT}"
    )


def _check_inputs(network: Any, job: Job) -> None:
    found = {network.get_input(index).name for index in range(network.num_inputs)}
    expected = {tensor.name for tensor in job.graph.inputs}
    if found != expected:
        raise BackendError(
            f"{job.onnx} has the inputs {sorted(found)}, the contract {sorted(expected)}. {_EXPORT}"
        )


def _set_capacity(network: Any, job: Job) -> None:
    """Give caches that are updated in place the rows of the job; the file's have all positions."""
    shapes = {
        tensor.name: tuple(side if isinstance(side, int) else -1 for side in tensor.shape)
        for tensor in job.graph.inputs
    }
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        if tuple(tensor.shape) != shapes[tensor.name]:
            tensor.shape = shapes[tensor.name]


def _check_nothing_is_ignored(messages: list[Message], job: Job) -> None:
    """An input that TensorRT ignores would be wrong numbers without an error.

    ONNX Attention's nonpad_kv_seqlen is one: TensorRT 11 warns "Unused Input" and goes on.
    """
    ignored = [message.text for message in messages if _UNUSED.search(message.text)]
    if ignored:
        raise BackendError(
            f"TensorRT ignores a part of {job.onnx} and would compute wrong numbers: "
            f"{'; '.join(ignored)}. {_EXPORT}"
        )
