"""Whether a provider of ONNX Runtime computes here.

`get_available_providers` says what the package was compiled with. Built for another GPU, it lists
CUDA all the same, opens sessions, and dies at the first kernel ("no kernel image is available"). So
a graph of one addition is run with the provider, and with the CPU forbidden to stand in.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import BackendError
from .ort_libraries import missing_library, preload, remedy_for
from .ort_package import CPU, CUDA

# z = x + y, float32 [2], opset 13, IR 8; onnx is not on the device.
# tests/runtime/test_provider_trial.py makes the same bytes with onnx.helper.
MODEL = bytes.fromhex(
    "08083a460a0e0a01780a017912017a22034164641201675a0f0a0178120a0a08080112040a0208025a0f0a"
    "0179120a0a08080112040a020802620f0a017a120a0a08080112040a02080242040a00100d"
)


@dataclass(frozen=True, slots=True)
class ProviderTrial:
    """A provider that was tried: `problem` is empty where its kernel gave the right answer.

    `fix` is what to do about the problem, where it is known.
    """

    provider: str
    problem: str = ""
    fix: str = ""


def try_provider(onnxruntime: Any, provider: str) -> ProviderTrial:
    """Run the addition with a provider of the module `onnxruntime`."""
    if provider not in onnxruntime.get_available_providers():
        return ProviderTrial(provider, "this ONNX Runtime is built without it")
    if provider != CPU[0]:
        preload(onnxruntime)
    problem = _problem(onnxruntime, provider)
    if not problem or provider != CUDA:
        return ProviderTrial(provider, problem)
    try:
        missing = missing_library(onnxruntime)
    except BackendError as does_not_load:
        return ProviderTrial(provider, str(does_not_load))
    if not missing:
        return ProviderTrial(provider, problem)
    return ProviderTrial(provider, f"{missing} is not found", remedy_for(onnxruntime, missing))


def _problem(onnxruntime: Any, provider: str) -> str:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if provider != CPU[0]:
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    x, y = np.array([1, 2], np.float32), np.array([3, 4], np.float32)
    try:
        session = onnxruntime.InferenceSession(
            MODEL, options, providers=[provider], enable_fallback=False
        )
        (z,) = session.run(None, {"x": x, "y": y})
    except Exception as error:  # noqa: BLE001 - each provider raises its own
        return " ".join(str(error).split())
    return "" if np.array_equal(z, x + y) else f"1 + 3, 2 + 4 came out as {z.tolist()}"
