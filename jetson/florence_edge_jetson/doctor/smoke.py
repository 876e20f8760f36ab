"""Does ONNX Runtime really run a kernel with each of its providers?

`get_available_providers` says what a package was compiled with. Built for another GPU it lists
CUDA all the same, and dies at the first kernel ("no kernel image is available"). So a graph of one
addition is run with each provider, and with the CPU forbidden to stand in.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

# z = x + y, float32 [2], opset 13, IR 8; onnx is not on the device.
# tests/jetson/test_doctor_smoke.py makes the same bytes with onnx.helper.
MODEL = bytes.fromhex(
    "08083a460a0e0a01780a017912017a22034164641201675a0f0a0178120a0a08080112040a0208025a0f0a"
    "0179120a0a08080112040a020802620f0a017a120a0a08080112040a02080242040a00100d"
)

_CPU = "CPUExecutionProvider"
_REMOTE = "AzureExecutionProvider"  # in every package from PyPI; sends work away, has no kernels


@dataclass(frozen=True, slots=True)
class Trial:
    """A provider that was tried: `problem` is empty where its kernel gave the right answer."""

    provider: str
    problem: str = ""


def try_providers(onnxruntime: Any) -> tuple[Trial, ...]:
    """Run the addition with each local provider of an `onnxruntime` module."""
    providers: Sequence[str] = onnxruntime.get_available_providers()
    return tuple(
        Trial(provider, _problem(onnxruntime, provider))
        for provider in providers
        if provider != _REMOTE
    )


def _problem(onnxruntime: Any, provider: str) -> str:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if provider != _CPU:
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    x, y = np.array([1, 2], np.float32), np.array([3, 4], np.float32)
    try:
        session = onnxruntime.InferenceSession(MODEL, options, providers=[provider])
        (z,) = session.run(None, {"x": x, "y": y})
    except Exception as error:  # noqa: BLE001 - each provider raises its own
        return " ".join(str(error).split())
    return "" if np.array_equal(z, x + y) else f"1 + 3, 2 + 4 came out as {z.tolist()}"
