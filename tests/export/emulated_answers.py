"""What int8 products and bundles compute, as JSON; run under another processor's emulation.

qemu-x86_64 -cpu Haswell python emulated_answers.py PICTURES TASKS BUNDLE ...
"""

import json
import sys

import numpy as np
import numpy.typing as npt
import onnxruntime
from onnx import ModelProto, TensorProto, helper, numpy_helper

from florence_edge import Florence2, GenerationOptions
from florence_edge.backends.int8_products import int8_products_saturate
from florence_edge_calibration.quantization.scales import quantize_weight
from florence_edge_calibration.scenes.held_out import load_held_out

_SHAPES = ((1, 96, 64), (3, 130, 70), (37, 256, 96))  # rows, inputs, outputs
_DOMAIN = "com.microsoft"


def products() -> dict[str, float]:
    """Largest error of ONNX Runtime's integer products, in deviations of what is exact."""
    random = np.random.default_rng(0)
    errors = {"any int8 weights": 0.0, "ours": 0.0}
    for rows, inputs, outputs in _SHAPES:
        x = random.standard_normal((rows, inputs)).astype(np.float32)
        weight = random.standard_normal((inputs, outputs)).astype(np.float32)
        scale, zero = np.float32(np.abs(x).max() / 127), np.uint8(128)
        steps = (np.rint(x / scale) + 128).clip(0, 255).astype(np.uint8)
        for kind, axis in (("any int8 weights", None), ("ours", 0)):
            quantized = quantize_weight(weight, 1, multiplied_along=axis)
            session = onnxruntime.InferenceSession(
                _product(quantized.values, quantized.scales, scale, zero).SerializeToString(),
                providers=["CPUExecutionProvider"],
            )
            (found,) = session.run(None, {"x": steps})
            sums = (steps.astype(np.int64) - 128) @ quantized.values.astype(np.int64)
            exact = sums * quantized.scales * scale
            error = float(np.abs(found - exact).max() / exact.std())
            errors[kind] = max(errors[kind], error)
    return errors


def _product(
    weight: npt.NDArray[np.int8], scales: npt.NDArray[np.float32], scale: np.float32, zero: np.uint8
) -> ModelProto:
    constants = {"weight": weight, "scales": scales, "scale": scale, "zero": zero}
    inputs = ["x", "weight", "scale", "scales", "zero"]
    node = helper.make_node("MatMulIntegerToFloat", inputs, ["y"], domain=_DOMAIN)
    graph = helper.make_graph(
        [node],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, [None, None])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, None])],
        [numpy_helper.from_array(np.asarray(each), name) for name, each in constants.items()],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid(_DOMAIN, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def answers(bundle: str, pictures: int, tasks: set[str]) -> dict[str, list[int]]:
    """Greedy token ids by picture and task."""
    found = {}
    with Florence2.load(bundle, threads=1) as model:
        for scene in load_held_out()[:pictures]:
            view = model.encode(scene.picture)
            for question in scene.questions:
                if question.task in tasks:
                    options = GenerationOptions(num_beams=1)
                    result = view.run(question.task, question.text or None, options=options)
                    found[f"{scene.picture.name} {question.task}"] = list(result.token_ids)
    return found


if __name__ == "__main__":
    count, asked, *folders = sys.argv[1:]
    sys.stdout.write(
        json.dumps(
            {
                "saturates": int8_products_saturate(),
                "products": products(),
                "answers": [answers(each, int(count), set(asked.split(","))) for each in folders],
            }
        )
    )
