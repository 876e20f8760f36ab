"""Which integer product ONNX Runtime's CPU does fastest: what the int8 target `cpu` was chosen by.

    python -m florence_edge_benchmarks.speed.int8_products --output FILE

measures static against dynamic ranges, and signed against unsigned numbers, in turns on products of
the base model's sizes, on one thread. `results/int8/cpu_kernels.json` is what it wrote.
"""

import argparse
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from florence_edge.backends.ort import import_onnxruntime
from florence_edge.command import run_command
from florence_edge.errors import MissingPackageError
from florence_edge.files import write_whole
from florence_edge_jetson.machine.system import cpu_name

from ..machine import cpu_features

if TYPE_CHECKING:
    from onnx import ModelProto

_SHAPES = {  # rows, inputs, outputs
    "fc1 of the vision encoder's third stage": (2304, 512, 2048),
    "projection of the text encoder": (585, 768, 768),
    "fc1 of the decoder, three beams": (3, 768, 3072),
}
_ROUNDS = 9


def variants(inputs: int, outputs: int) -> "dict[str, ModelProto]":
    """The same product with a bias, in float32 and in the integer ways."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((inputs, outputs)).astype(np.float32) / np.float32(inputs**0.5)
    bias = rng.standard_normal(outputs).astype(np.float32)
    scales = np.abs(weight).max(axis=0) / np.float32(127)
    steps = np.rint(weight / scales).astype(np.int8)
    unsigned = (steps.astype(np.int16) + 128).astype(np.uint8)
    shared = {"bias": bias, "weight_scale": scales}
    static = {**shared, "weight": steps, "scale": np.float32(0.04)}
    return {
        "float32": _model({"weight": weight, "bias": bias}, ["MatMul x weight", "Add _ bias"]),
        "dynamic ranges, int8 weight": _model(
            {**shared, "weight": steps}, ["DynamicQuantizeMatMul x weight weight_scale - bias"]
        ),
        "dynamic ranges, uint8 weight": _model(
            {**shared, "weight": unsigned, "zero": np.full(outputs, 128, dtype=np.uint8)},
            ["DynamicQuantizeMatMul x weight weight_scale zero bias"],
        ),
        "static ranges, uint8 activation": _model({**static, "zero": np.uint8(128)}, _STATIC),
        "static ranges, int8 activation": _model({**static, "zero": np.int8(0)}, _STATIC),
    }


_STATIC = [
    "QuantizeLinear x scale zero",
    "MatMulIntegerToFloat _ weight scale weight_scale zero - bias",
]


def _model(constants: Mapping[str, npt.ArrayLike], steps: list[str]) -> "ModelProto":
    """Operators one after the other: `_` reads the one before, `-` leaves an input out."""
    from onnx import TensorProto, helper, numpy_helper

    nodes, last = [], "x"
    for index, step in enumerate(steps):
        op_type, *names = step.split()
        names = [{"_": last, "-": ""}.get(name, name) for name in names]
        last = "y" if index == len(steps) - 1 else f"step{index}"
        standard = op_type in ("MatMul", "Add", "QuantizeLinear")
        domain = "" if standard else "com.microsoft"
        nodes.append(helper.make_node(op_type, names, [last], domain=domain))
    graph = helper.make_graph(
        nodes,
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, None])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, None])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def measure(rows: int, inputs: int, outputs: int) -> dict[str, float]:
    """How many times as fast as float32 each way is: the median over rounds in turns."""
    x = np.random.default_rng(1).standard_normal((rows, inputs)).astype(np.float32)
    sessions = {name: _open(model) for name, model in variants(inputs, outputs).items()}
    repeats = max(1, 600 // rows)
    rounds: list[dict[str, float]] = []
    for _ in range(_ROUNDS):
        rounds.append({name: _seconds(each, x, repeats) for name, each in sessions.items()})
    return {
        name: round(median(one["float32"] / one[name] for one in rounds[1:]), 2)
        for name in sessions
        if name != "float32"
    }


def _open(model: "ModelProto") -> Any:
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
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
            f"{error.name} is not installed. Install florence-edge[cpu,export]."
        ) from error
    onnxruntime = import_onnxruntime()
    return {
        "command": "python -m florence_edge_benchmarks.speed.int8_products --output FILE",
        "machine": f"{cpu_name()} ({', '.join(cpu_features()) or 'no such flags'})",
        "threads": 1,
        "onnxruntime": onnxruntime.__version__,
        "unit": "times as fast as float32, median of rounds in turns",
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
