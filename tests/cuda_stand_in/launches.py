"""Runs a graph on the stand-in, on memory of ONNX Runtime's own; the log gets a section.

    python launches.py GRAPH.onnx BEAMS

The first two runs prepare; the third, which is enqueued as the runtime does, is section "step".
"""

import ctypes
import sys
from pathlib import Path
from typing import Any

import numpy as np

from florence_edge import contract
from florence_edge.backends.ort import unsynchronized
from florence_edge.backends.ort_cuda import ADDS_IN_FLOAT32
from florence_edge.backends.ort_libraries import preload
from florence_edge.backends.ort_package import import_onnxruntime

ROWS, ENCODED = 256, 585  # of the caches; 577 image tokens and one of the fixed prompts
_DTYPES = {
    "tensor(float16)": np.float16,
    "tensor(float)": np.float32,
    "tensor(int64)": np.int64,
    "tensor(uint8)": np.uint8,
}
CAPTURED = {"enable_cuda_graph": "1"}


def is_decoder(graph: str) -> bool:
    return Path(graph).name.startswith(contract.DECODER)


def main(graph: str, beams: int) -> None:
    onnxruntime = import_onnxruntime()
    preload(onnxruntime)
    options = onnxruntime.SessionOptions()
    options.enable_mem_pattern = False
    options.log_severity_level = 3
    settings = {"device_id": "0", **(CAPTURED if is_decoder(graph) else ADDS_IN_FLOAT32)}
    providers = [("CUDAExecutionProvider", settings), "CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(graph, options, providers=providers)
    binding = session.io_binding()
    sides = {"B": 1, "N": beams, "R": beams, "S": ROWS, "E": ENCODED}
    values: dict[str, Any] = {}
    for value in session.get_inputs():
        shape = [sides.get(side, side) for side in value.shape]
        values[value.name] = _on_device(onnxruntime, shape, value.type)
        binding.bind_ortvalue_input(value.name, values[value.name])
    for value in session.get_outputs():
        shape = [sides.get(side, side) for side in value.shape]
        kept = values.get(value.name.replace("kept_", "self_"))
        place = _on_device(onnxruntime, shape, value.type) if kept is None else kept
        binding.bind_ortvalue_output(value.name, place)
    section = ctypes.CDLL("libcudart.so.13").stand_in_section
    for name in (b"first", b"second", b"step"):
        section(name)
        session.run_with_iobinding(binding, unsynchronized(captures=is_decoder(graph)))
    section(b"end")


def _on_device(onnxruntime: Any, shape: list[int], kind: str) -> Any:
    made: Any = onnxruntime.OrtValue.ortvalue_from_shape_and_type
    return made(shape, _DTYPES[kind], "cuda", 0)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
