"""int8 products on ONNX Runtime's CPU: whether they saturate here, and what keeps them exact."""

from functools import cache
from typing import Any

import numpy as np

from .ort_package import CPU, import_onnxruntime

# MatMulInteger(a uint8 [m, k], b int8 [k, n]) -> c int32 [m, n], opset 10, IR 8, as onnx.helper's
# make_model writes it; tests/runtime/test_int8_products.py makes the same and compares.
_PRODUCT = bytes.fromhex(
    "080812003a620a180a01610a01621201"
    "63220d4d61744d756c496e7465676572120167"
    "5a150a016112100a0e0802120a0a0312016d0a0312016b"
    "5a150a016212100a0e0803120a0a0312016b0a0312016e"
    "62150a016312100a0e0806120a0a0312016d0a0312016e42040a00100a"
)


@cache
def int8_products_saturate() -> bool:
    """Whether uint8 times int8 loses what exceeds 16 bits here, as on x86-64 without VNNI.

    There, ONNX Runtime adds two products in 16 bits: on AMD before Zen 4, Intel before Cascade
    Lake and most Atoms. One small product is tried, once, which takes about a millisecond.
    """
    session = import_onnxruntime().InferenceSession(_PRODUCT, providers=[CPU[0]])
    largest = {"a": np.full((1, 2), 255, np.uint8), "b": np.full((2, 1), 127, np.int8)}
    (product,) = session.run(None, largest)
    return int(product[0, 0]) != 2 * 255 * 127


def keep_products_exact(options: Any) -> bool:
    """Set up a session so that int8 products do not saturate; whether this processor needs that.

    For bundles whose weights leave room for that (`Bundle.may_saturate`); it is slower. Integer
    operators get uint8 weights, whose products do not; Q/DQ pairs lack the zero point that this
    takes, so their linears are computed in float on what the pairs have rounded. A processor with
    exact products is left alone. The keys are onnxruntime_session_options_config_keys.h's.
    """
    if not int8_products_saturate():
        return False
    options.add_session_config_entry("session.x64quantprecision", "1")
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    return True
