"""One graph becomes one plan, in this process, with the TensorRT that is here.

The same few calls serve TensorRT 10.3 to 11.x and TensorRT-RTX, because precision is in the graph
and networks are strongly typed (11.x knows no other). What only some versions have is in `knobs`.
"""

import re
from typing import Any

from florence_edge.engines.flavours import TensorRT
from florence_edge.engines.log import logger_of
from florence_edge.errors import BackendError

from . import knobs
from .forecast import MAKE_ROOM
from .job import Job, Message, Tell
from .voices import Warnings

# "Unused Input: lengths" when a build begins, "Input Tensor lengths is unused" in the middle of it.
_UNUSED = re.compile(r"unused input|input tensor .* is unused", re.IGNORECASE)
_DRIVER = (
    "Look at nvidia-smi: is the GPU there, is its driver as new as this TensorRT's CUDA, and is it "
    "a GPU that this TensorRT supports?"
)
_EXPORT = "Export the bundle again with this version of florence-edge."


def plan_from_onnx(tensorrt: TensorRT, job: Job, tell: Tell) -> memoryview:
    """Parse, set the profiles and build; the plan stays where TensorRT put it.

    Raises:
        BackendError: TensorRT refuses the graph, ignores a part of it, or finds no kernels.
    """
    trt = tensorrt.module
    warnings = Warnings(tell)
    logger = logger_of(trt, warnings.take)
    builder = trt.Builder(logger)
    network = builder.create_network(knobs.network_flags(trt))
    parser = trt.OnnxParser(network, logger)
    _parse(parser, job)
    _check_inputs(network, job)
    config = builder.create_builder_config()
    knobs.configure(trt, config, job, tell)
    for profile in job.profiles:
        shapes = builder.create_optimization_profile()
        for tensor in job.graph.inputs:
            shapes.set_shape(tensor.name, *profile.shapes(tensor))
        config.add_optimization_profile(shapes)
    plan = builder.build_serialized_network(network, config)
    _check_nothing_is_ignored(warnings.told, job)
    if plan is None:
        reason = warnings.last_error()
        raise BackendError(
            f"{tensorrt.flavour} {tensorrt.version} cannot build {job.onnx.name}: {reason}. "
            f"{_advice(reason)}"
        )
    knobs.keep_timings(trt, config, job)
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


def _check_nothing_is_ignored(told: list[Message], job: Job) -> None:
    """An input that TensorRT ignores would be wrong numbers without an error.

    ONNX Attention's nonpad_kv_seqlen is one: TensorRT 11 warns "Unused Input" and goes on.
    """
    ignored = [message.text for message in told if _UNUSED.search(message.text)]
    if ignored:
        raise BackendError(
            f"TensorRT ignores a part of {job.onnx} and would compute wrong numbers: "
            f"{'; '.join(ignored)}. {_EXPORT}"
        )
