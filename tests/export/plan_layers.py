"""What a TensorRT-RTX plan moves, by the builder's verbose listing of its layers.

RTX builds ahead of time on a CPU; nothing is run or timed. A layer is one launch. It is counted to
read its inputs and constants and to write its outputs once: a constant that a lookup reads a few
rows of counts whole, and what a cache saves on the way does not count.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from florence_edge import contract
from florence_edge.contract import ModelSize
from florence_edge.tensorrt.install import find_tensorrt
from florence_edge.tensorrt.profiles import EngineOptions, profiles

SM = "SM89"
_BYTES = {"Float": 4, "Half": 2, "Int8": 1, "UInt8": 1, "Bool": 1, "Int32": 4, "Int64": 8}
_LAYER = re.compile(
    r"^Name: (?P<name>.*?), LayerType: \w+.*?Inputs: \[(?P<reads>.*?)\], Constants: "
    r"\[(?P<constants>.*?)\], Outputs: \[(?P<writes>.*?)\](?:, TacticName|$)"
)
_TENSOR = re.compile(r"Name: ([^,]+), Dimensions: \[([^\]]*)\].*?Datatype: (\w+)")


@dataclass(frozen=True, slots=True)
class PlanLayer:
    """One launch: bytes that it reads, its constants, and bytes that it writes."""

    name: str
    reads: int
    constants: int
    writes: int


def plan_layers(graph: Path, name: str, size: ModelSize, floats: str) -> list[PlanLayer]:
    """The layers of a plan for one picture, one prompt and 3 beams at most.

    Raises:
        RuntimeError: TensorRT-RTX does not take the graph.
    """
    trt: Any = find_tensorrt("rtx").module
    log = _Log(trt)
    builder = trt.Builder(log.logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log.logger)
    if not parser.parse_from_file(str(graph)):
        raise RuntimeError([parser.get_error(i).desc() for i in range(parser.num_errors)])
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)
    config.max_aux_streams = 0
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.__members__[SM], 0)
    shapes = builder.create_optimization_profile()
    profile = profiles(size, EngineOptions(max_new_tokens=64))[name][0]
    for tensor in contract.graphs(size, floats)[name].inputs:
        shapes.set_shape(tensor.name, *profile.shapes(tensor))
    config.add_optimization_profile(shapes)
    if builder.build_serialized_network(network, config) is None:
        raise RuntimeError([line for line in log.lines if "Error" in line][:3])
    return list(_read(log.lines))


def summary(layers: list[PlanLayer]) -> dict[str, float]:
    """Launches, and megabytes in all and of them constants."""
    moved = sum(layer.reads + layer.constants + layer.writes for layer in layers)
    constants = sum(layer.constants for layer in layers)
    return {
        "launches": len(layers),
        "megabytes": round(moved / 1e6, 1),
        "constants_mb": round(constants / 1e6, 1),
    }


class _Log:
    """What TensorRT logs; its logger class wants to be inherited from."""

    # The first logger of a process serves all builders in it.
    lines: list[str] = []  # noqa: RUF012 - shared on purpose
    _logger: Any = None

    def __init__(self, trt: Any) -> None:
        if _Log._logger is None:

            class Logger(trt.ILogger):
                def __init__(self) -> None:
                    trt.ILogger.__init__(self)

                def log(self, severity: object, message: str) -> None:
                    _Log.lines.extend(message.splitlines())

            _Log._logger = Logger()
        _Log.lines.clear()
        self.logger = _Log._logger


def _read(lines: list[str]) -> Iterator[PlanLayer]:
    for line in lines:
        found = _LAYER.match(line)
        if found is not None:
            reads, constants, writes = map(_bytes, found.group("reads", "constants", "writes"))
            yield PlanLayer(found["name"], reads, constants, writes)


def _bytes(tensors: str) -> int:
    """Bytes of the tensors of a list, each counted once; a dimension that varies counts as 1."""
    total = 0
    for _, dimensions, dtype in dict.fromkeys(_TENSOR.findall(tensors)):
        sides = [int(side) for side in dimensions.split(",") if side.strip()]
        total += math.prod(max(side, 1) for side in sides) * _BYTES.get(dtype, 0)
    return total
