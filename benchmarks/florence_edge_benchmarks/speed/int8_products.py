"""Which integer product ONNX Runtime's CPU does fastest: what the target `cpu` was chosen by.

    python -m florence_edge_benchmarks.speed.int8_products --output FILE

measures static against dynamic ranges, signed against unsigned numbers, and the ways that are exact
on a processor without VNNI, in turns on products of the base model's sizes, on one thread. Beside
the speeds stand errors against float32. `results/int8/cpu_kernels*.json` are what it wrote.
"""

import argparse
import json
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from florence_edge.backends.ort_package import import_onnxruntime
from florence_edge.command import run_command
from florence_edge.errors import MissingPackageError
from florence_edge.extras import pip_install
from florence_edge.files import write_whole
from florence_edge_calibration.quantization.blockwise import (
    INT8_ACTIVATIONS,
    BlockFormat,
    quantize_blocks,
)
from florence_edge_calibration.quantization.scales import quantize_weight
from florence_edge_jetson.machine.system import cpu_name

from ..machine import cpu_features

if TYPE_CHECKING:
    from onnx import ModelProto

_SHAPES = {  # rows, inputs, outputs
    "fc1 of the vision encoder's third stage": (2304, 512, 2048),
    "projection of the text encoder": (585, 768, 768),
    "fc1 of the decoder, three beams": (3, 768, 3072),
    "fc1 of the decoder, greedy": (1, 768, 3072),
}
Constants: TypeAlias = Mapping[str, npt.ArrayLike]

_ROUNDS = 9
_BLOCKS = {  # the last is int4's for `cpu`
    "8-bit blocks (MatMulNBits)": BlockFormat(bits=8, size=32),
    "4-bit blocks of 32": BlockFormat(size=32),
    "4-bit blocks of 64 with zero points": BlockFormat(size=64, symmetric=False),
}
_EXACT = {"session.x64quantprecision": "1"}  # ONNX Runtime's own way to avoid saturation


@dataclass(frozen=True, slots=True)
class Way:
    """A product as a model, and what its session is told."""

    model: "ModelProto"
    settings: Mapping[str, str] = field(default_factory=dict)


def variants(inputs: int, outputs: int) -> dict[str, Way]:
    """The same product with a bias, in float32 and in the integer ways."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((inputs, outputs)).astype(np.float32) / np.float32(inputs**0.5)
    bias = rng.standard_normal(outputs).astype(np.float32)
    steps, scales = _rounded(weight, np.abs(weight).max(axis=0) / np.float32(127))
    ours = quantize_weight(weight, 1, multiplied_along=0)
    unsigned = (steps.astype(np.int16) + 128).astype(np.uint8)
    shared = {"bias": bias, "weight_scale": scales}
    whole: Constants = {**shared, "weight": steps}
    paired: Constants = {"bias": bias, "weight": ours.values, "weight_scale": ours.scales}
    coarse, wide = _rounded(weight, scales * 2)
    seven: Constants = {"bias": bias, "weight": coarse, "weight_scale": wide}
    static: Constants = {"scale": np.float32(0.04), "zero": np.uint8(128)}
    signed: Constants = {"scale": np.float32(0.04), "zero": np.int8(0)}
    return {
        "float32": Way(_model({"weight": weight, "bias": bias}, ["MatMul x weight", "Add _ bias"])),
        "dynamic ranges, int8 weight": Way(_model(whole, _DYNAMIC)),
        "dynamic ranges, int8 weight, x64quantprecision": Way(_model(whole, _DYNAMIC), _EXACT),
        "dynamic ranges, uint8 weight": Way(
            _model(
                {**shared, "weight": unsigned, "zero": np.full(outputs, 128, dtype=np.uint8)},
                ["DynamicQuantizeMatMul x weight weight_scale zero bias"],
            )
        ),
        "dynamic ranges, 7-bit weight": Way(_model(seven, _DYNAMIC)),
        "dynamic ranges, pairs within 16 bits": Way(_model(paired, _DYNAMIC)),
        "static ranges, uint8 activation": Way(_model({**whole, **static}, _STATIC)),
        "static ranges, uint8 activation, x64quantprecision": Way(
            _model({**whole, **static}, _STATIC), _EXACT
        ),
        "static ranges, pairs within 16 bits": Way(_model({**paired, **static}, _STATIC)),
        "static ranges, int8 activation": Way(_model({**whole, **signed}, _STATIC)),
        **{name: Way(_blocks(weight, bias, blocks)) for name, blocks in _BLOCKS.items()},
    }


def _rounded(
    weight: npt.NDArray[np.float32], scales: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    return np.rint(weight / scales).astype(np.int8), scales


_DYNAMIC = ["DynamicQuantizeMatMul x weight weight_scale - bias"]
_STATIC = [
    "QuantizeLinear x scale zero",
    "MatMulIntegerToFloat _ weight scale weight_scale zero - bias",
]


def _blocks(
    weight: npt.NDArray[np.float32], bias: npt.NDArray[np.float32], blocks: BlockFormat
) -> "ModelProto":
    """MatMulNBits, a scale for each block of inputs, activations rounded to int8."""
    inputs, outputs = weight.shape
    stored = quantize_blocks(weight, blocks)
    constants: dict[str, npt.ArrayLike] = {
        "weight": stored.packed(),
        "weight_scale": stored.scales,
        "bias": bias,
    }
    zero = "-" if blocks.symmetric else "zero"
    if not blocks.symmetric:
        constants["zero"] = stored.packed_zero_points()
    return _model(
        constants,
        [f"MatMulNBits x weight weight_scale {zero} - bias"],
        {
            "K": inputs,
            "N": outputs,
            "bits": blocks.bits,
            "block_size": blocks.size,
            "accuracy_level": INT8_ACTIVATIONS,
        },
    )


def _model(
    constants: Constants,
    steps: list[str],
    attributes: Mapping[str, Any] | None = None,
) -> "ModelProto":
    """Operators one after the other: `_` reads the one before, `-` leaves an input out."""
    from onnx import TensorProto, helper, numpy_helper

    nodes, last = [], "x"
    for index, step in enumerate(steps):
        op_type, *names = step.split()
        names = [{"_": last, "-": ""}.get(name, name) for name in names]
        last = "y" if index == len(steps) - 1 else f"step{index}"
        standard = op_type in ("MatMul", "Add", "QuantizeLinear")
        domain = "" if standard else "com.microsoft"
        nodes.append(helper.make_node(op_type, names, [last], domain=domain, **(attributes or {})))
    graph = helper.make_graph(
        nodes,
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, None])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, None])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def measure(rows: int, inputs: int, outputs: int) -> dict[str, Any]:
    """How many times as fast as float32 each way is: the median over rounds in turns.

    `float32_ms` is one product in float32; `errors` are the largest and the root mean square one,
    in deviations of the product.
    """
    x = np.random.default_rng(1).standard_normal((rows, inputs)).astype(np.float32)
    sessions = {name: _open(way) for name, way in variants(inputs, outputs).items()}
    repeats = max(1, 600 // rows)
    rounds: list[dict[str, float]] = []
    for _ in range(_ROUNDS):
        rounds.append({name: _seconds(each, x, repeats) for name, each in sessions.items()})
    speeds = {
        name: round(median(one["float32"] / one[name] for one in rounds[1:]), 2)
        for name in sessions
        if name != "float32"
    }
    exact = sessions["float32"].run(None, {"x": x})[0]
    errors = {name: _errors(sessions[name].run(None, {"x": x})[0], exact) for name in speeds}
    milliseconds = 1000 / repeats * median(one["float32"] for one in rounds[1:])
    return {"float32_ms": round(milliseconds, 3), **speeds, "errors": errors}


def _errors(found: npt.NDArray[np.float32], exact: npt.NDArray[np.float32]) -> dict[str, float]:
    off = (found - exact) / exact.std()
    mean = float(np.sqrt(np.mean(np.square(off))))
    return {"largest": round(float(np.abs(off).max()), 4), "mean": round(mean, 5)}


def _open(way: Way) -> Any:
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    for name, value in way.settings.items():
        options.add_session_config_entry(name, value)
    return onnxruntime.InferenceSession(
        way.model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def _seconds(session: Any, x: npt.NDArray[np.float32], repeats: int) -> float:
    started = time.perf_counter()
    for _ in range(repeats):
        session.run(None, {"x": x})
    return time.perf_counter() - started


def measure_all() -> dict[str, Any]:
    """The figures of all products, with the machine and the version they are of.

    Raises:
        MissingPackageError: onnx or ONNX Runtime are not installed.
    """
    try:
        import onnx  # noqa: F401 - for `variants`
    except ImportError as error:
        raise MissingPackageError(
            f"{error.name} is not installed. Install it with: {pip_install('cpu', 'export')}"
        ) from error
    onnxruntime = import_onnxruntime()
    return {
        "command": "python -m florence_edge_benchmarks.speed.int8_products --output FILE",
        "machine": f"{cpu_name()} ({', '.join(cpu_features()) or 'no such flags'})",
        "threads": 1,
        "onnxruntime": onnxruntime.__version__,
        "unit": "times as fast as float32, median of rounds in turns; errors in deviations",
        "products": {name: {"shape": shape, **measure(*shape)} for name, shape in _SHAPES.items()},
    }


def main() -> int:
    """Measure and write the figures; give the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="JSON")
    output: Path = parser.parse_args().output
    return run_command(
        "int8_products",
        lambda: write_whole(output, json.dumps(measure_all(), indent=2) + "\n"),
        explain=lambda error: f"{error}. Choose another --output.",
    )


if __name__ == "__main__":
    sys.exit(main())
