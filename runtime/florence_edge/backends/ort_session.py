"""Sessions of ONNX Runtime, on whichever provider."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy.typing as npt

from .. import contract
from ..bundle import Bundle
from ..errors import BackendError

try:
    import onnxruntime
except ImportError as _error:
    raise BackendError(
        "ONNX Runtime is not installed. Install florence-edge[cpu], or florence-edge[gpu] for CUDA "
        "(one of them, not both)."
    ) from _error

Provider: TypeAlias = tuple[str, dict[str, str]]  # its name and settings

CPU: Provider = ("CPUExecutionProvider", {})


def open_session(
    bundle: Bundle, name: str, provider: Provider, *, threads: int | None = None
) -> Any:
    """Open a graph of the bundle on a provider, and check that both are what was asked for.

    Raises:
        BackendError: the graph cannot be opened, the provider did not become active, or the graph
            is not the contract's.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only; what matters is raised below
    if threads is not None:
        options.intra_op_num_threads = threads
    if provider == CPU or "enable_cuda_graph" in provider[1]:
        # From the second run of a shape on, a pattern would take one block for all activations,
        # beside the pieces that the arena keeps of the first run. Without, base in int8 peaks at
        # 805 MB instead of 1,164 (float32: 1,615 instead of 1,757), at the same speed. A graph that
        # CUDA captured would still write to the pieces.
        options.enable_mem_pattern = False
    if name == contract.DECODER:
        # Its int8 weights are for bandwidth only. ONNX Runtime would keep their DequantizeLinear,
        # waiting for int8 products that never come, and compute it at every step; with this, it is
        # folded into float weights when the graph is loaded.
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    providers = [provider] if provider == CPU else [provider, CPU]
    try:
        session = onnxruntime.InferenceSession(
            str(bundle.graph_file(name)), options, providers=providers
        )
    except Exception as error:
        raise BackendError(
            f"ONNX Runtime {onnxruntime.__version__} cannot open {bundle.graph_file(name)}: "
            f"{error}. Run florence-run with --check, or export the bundle again."
        ) from error
    check_active(provider[0], session.get_providers())
    _check_signature(bundle, name, session)
    return session


def available() -> Sequence[str]:
    """The providers that this ONNX Runtime was built with."""
    built: Sequence[str] = onnxruntime.get_available_providers()
    return built


def check_active(provider: str, active: Sequence[str]) -> None:
    """Refuse an ONNX Runtime that has another provider than the one that was asked for.

    Raises:
        BackendError: with what there is instead.
    """
    if provider not in active:
        raise BackendError(
            f"CUDA did not become active in ONNX Runtime {onnxruntime.__version__} (it has "
            f"{', '.join(active)}). Install florence-edge[gpu] instead of [cpu], with CUDA and "
            "cuDNN of the versions it was built for, or use device='cpu'."
        )


def _check_signature(bundle: Bundle, name: str, session: Any) -> None:
    """The graph must have the contract's tensors; otherwise the file is not this bundle's."""
    expected = contract.graphs(bundle.size, bundle.floats)[name]
    for kind, tensors, found in (
        ("inputs", expected.inputs, session.get_inputs()),
        ("outputs", expected.outputs, session.get_outputs()),
    ):
        if {(tensor.name, _static(tensor.shape)) for tensor in tensors} != {
            (value.name, _static(value.shape)) for value in found
        }:
            raise BackendError(
                f"The {kind} of {bundle.graph_file(name)} are not those of contract "
                f"{contract.CONTRACT_VERSION}. Export the bundle again."
            )


def _static(shape: Sequence[int | str]) -> tuple[int | None, ...]:
    """A shape without the names of its dynamic dimensions."""
    return tuple(side if isinstance(side, int) else None for side in shape)


def captured_as(number: int) -> Any:
    """Options of a run that CUDA replays under this number, of one binding alone, once it has run.

    Needs the provider's `enable_cuda_graph`. The key is onnxruntime_run_options_config_keys.h's.
    """
    options = onnxruntime.RunOptions()
    options.add_run_config_entry("gpu_graph_id", str(number))
    return options


def run_bound(session: Any, binding: Any, options: Any = None) -> None:
    """Run a graph on what is bound to it."""
    try:
        session.run_with_iobinding(binding, options)
    except Exception as error:
        raise BackendError(f"ONNX Runtime failed while running: {error}") from error


def ort_value(array: npt.NDArray[Any]) -> Any:
    """ONNX Runtime's view of an array, which must stay where it is."""
    return onnxruntime.OrtValue.ortvalue_from_numpy(array)
