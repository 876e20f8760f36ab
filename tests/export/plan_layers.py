"""What a TensorRT-RTX plan moves, by the builder's verbose listing of its layers.

RTX builds ahead of time on a CPU; nothing is run or timed. A layer is one launch. It is counted to
read its inputs and constants and to write its outputs once: a constant that a lookup reads a few
rows of counts whole, and what a cache saves on the way does not count. Of a cache that is updated
in place, the listing names the whole, and what counts is the row that is written and the rows that
are attended to; of a decoder's tables, the rows that are looked up.
"""

import json
import math
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from florence_edge import contract
from florence_edge.contract import GraphSignature, ModelSize
from florence_edge.tensorrt.install import find_tensorrt
from florence_edge.tensorrt.profiles import EngineOptions, Profile, Range, profiles

from ..helpers.circumstances import circumstances

RESULTS = Path(__file__).parents[2] / "results" / "tensorrt"
SM = "SM89"
_BYTES = {"Float": 4, "Half": 2, "Int8": 1, "UInt8": 1, "Bool": 1, "Int32": 4, "Int64": 8}
_LAYER = re.compile(
    r"^Name: (?P<name>.*?), LayerType: \w+.*?Inputs: \[(?P<reads>.*?)\], Constants: "
    r"\[(?P<constants>.*?)\], Outputs: \[(?P<writes>.*?)\](?:, TacticName|$)"
)
_ATTENTION = "_gemm_mha"  # reads queries, keys and values, which may be one tensor's parts
_OF_CACHES = re.compile(r"(self|kept)_(key|value)\.\d+$")
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
    shapes = profiles(size, EngineOptions(max_new_tokens=64))[name][0]
    lines = _listing(graph, contract.graphs(size, floats)[name], shapes)
    return [_layer(found, None) for found in lines]


@dataclass(frozen=True, slots=True)
class DecoderStep:
    """What one step of a decoder plan is made for: caches of `capacity` rows, `attended` read.

    Where they are not updated in place, all that there are.
    """

    capacity: int
    attended: int
    in_place: bool
    beams: int = 3


def decoder_layers(
    graph: Path, size: ModelSize, floats: str, step: DecoderStep, *, ranges: bool = False
) -> list[PlanLayer]:
    """The layers of a decoder's plan for one picture and one of the fixed prompts.

    With `ranges`, for the shapes that engines are built for; dimensions that vary count as 1.

    Raises:
        RuntimeError: TensorRT-RTX does not take the graph.
    """
    in_place = step.capacity if step.in_place else 0
    options = EngineOptions(beams=step.beams, max_new_tokens=step.capacity, in_place=in_place)
    shapes = profiles(size, options)[contract.DECODER][-1]
    if not ranges:
        sides = {**{symbol: of.opt for symbol, of in shapes.ranges.items()}, "S": step.attended}
        shapes = Profile({symbol: Range(side, side, side) for symbol, side in sides.items()})
    signature = contract.graphs(size, floats)[contract.DECODER]
    if step.in_place:
        signature = contract.in_place_decoder(size, floats, step.capacity)
    return [_layer(found, step) for found in _listing(graph, signature, shapes)]


def _listing(graph: Path, signature: GraphSignature, shapes: Profile) -> list[re.Match[str]]:
    trt: Any = find_tensorrt("rtx").module
    log = _Log(trt)
    builder = trt.Builder(log.logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log.logger)
    if not parser.parse_from_file(str(graph)):
        raise RuntimeError([parser.get_error(i).desc() for i in range(parser.num_errors)])
    _set_shapes(network, signature)
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)
    config.max_aux_streams = 0
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.__members__[SM], 0)
    profile = builder.create_optimization_profile()
    for tensor in signature.inputs:
        profile.set_shape(tensor.name, *shapes.shapes(tensor))
    config.add_optimization_profile(profile)
    if builder.build_serialized_network(network, config) is None:
        raise RuntimeError([line for line in log.lines if "Error" in line][:3])
    return [found for line in log.lines if (found := _LAYER.match(line))]


def _set_shapes(network: Any, signature: GraphSignature) -> None:
    """As `florence-build` does for caches that are updated in place."""
    tensors = {tensor.name: tensor for tensor in signature.inputs}
    for index in range(network.num_inputs):
        given = network.get_input(index)
        sides = tensors[given.name].shape
        given.shape = [side if isinstance(side, int) else -1 for side in sides]


def summary(layers: list[PlanLayer]) -> dict[str, float]:
    """Launches, and megabytes in all and of them constants."""
    moved = sum(layer.reads + layer.constants + layer.writes for layer in layers)
    constants = sum(layer.constants for layer in layers)
    return {
        "launches": len(layers),
        "megabytes": round(moved / 1e6, 1),
        "constants_mb": round(constants / 1e6, 1),
    }


def record_plans(name: str, *, model: str, unit: str, **plans: Any) -> None:
    """Write results/tensorrt/NAME.json where FLORENCE_EDGE_RECORD asks for that.

    `plans` are what tests/export/test_NAME.py found, and `model` says of what.
    """
    if not os.environ.get("FLORENCE_EDGE_RECORD"):
        return
    content = {
        "command": f"FLORENCE_EDGE_RECORD=1 python -m pytest -m slow tests/export/test_{name}.py",
        **circumstances("onnx-ir"),
        "engine": f"TensorRT-RTX {find_tensorrt('rtx').version}, plans ahead of time for {SM}; "
        "built on a CPU and not run: no times. TensorRT on a Jetson may choose other kernels",
        "model": model,
        "unit": unit,
        **plans,
    }
    (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


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


def _layer(found: re.Match[str], step: DecoderStep | None) -> PlanLayer:
    kept = looked_up = None
    if step is not None and step.in_place:
        kept = 1 if "kept_" in found["writes"] else step.attended
    if step is not None and "Gath" in found["name"]:
        looked_up = step.beams
    return PlanLayer(
        found["name"],
        reads=_bytes(found["reads"], kept=kept, each=_ATTENTION in found["name"]),
        constants=_bytes(found["constants"], looked_up=looked_up),
        writes=_bytes(found["writes"], kept=kept),
    )


def _bytes(
    tensors: str,
    *,
    kept: int | None = None,
    looked_up: int | None = None,
    each: bool = False,
) -> int:
    """Bytes of the tensors of a list, each counted once; a dimension that varies counts as 1.

    With `each`, parts of one tensor count, which have its name. `kept` is how many rows of a cache
    that is updated in place count, `looked_up` how many of a table; None counts all.
    """
    total, found = 0, _TENSOR.findall(tensors)
    for name, dimensions, dtype in found if each else dict.fromkeys(found):
        sides = [max(int(side), 1) for side in dimensions.split(",") if side.strip()]
        if kept is not None and _OF_CACHES.match(name):
            sides[2] = kept
        if looked_up is not None and len(sides) == 2:  # tables; norms have three dimensions
            sides[0] = looked_up
        total += math.prod(sides) * _BYTES.get(dtype, 0)
    return total
