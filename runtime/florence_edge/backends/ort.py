"""ONNX Runtime: a session a graph, on the CPU (`open_ort`) or for `ort_cuda.py` on the GPU.

onnxruntime is imported when a graph is opened, never with this module.
"""

import os
from collections.abc import Sequence
from functools import cache, partial
from typing import Any, TypeAlias

import numpy as np

from .. import contract
from ..bundle import Bundle
from ..errors import BackendError, MissingPackageError
from .base import NamedArrays
from .host import HostBackend, HostModel, Run

Provider: TypeAlias = tuple[str, dict[str, str]]  # its name and settings

CPU: Provider = ("CPUExecutionProvider", {})

# MatMulInteger(a uint8 [m, k], b int8 [k, n]) -> c int32 [m, n], opset 10.
_PRODUCT = bytes.fromhex(
    "080812003a620a180a01610a01621201"
    "63220d4d61744d756c496e7465676572120167"
    "5a150a016112100a0e0802120a0a0312016d0a0312016b"
    "5a150a016212100a0e0803120a0a0312016b0a0312016e"
    "62150a016312100a0e0806120a0a0312016d0a0312016e42040a00100a"
)


def import_onnxruntime() -> Any:
    """The package onnxruntime, which sends no telemetry unless the user says `0` to it.

    Newer releases do by default, and read the variable when they are imported.

    Raises:
        MissingPackageError: it is not installed; which extras bring it.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingPackageError(
            "ONNX Runtime is not installed. Install florence-edge[cpu], or florence-edge[gpu] for "
            "CUDA (one of them, not both)."
        ) from error
    return onnxruntime


def open_ort(bundle: Bundle, *, threads: int | None = None) -> HostBackend:
    """Open a bundle's graphs on the CPU; see `open_session` for `threads` and what is raised."""
    sessions = {name: open_session(bundle, name, CPU, threads=threads) for name in contract.GRAPHS}
    binds = {name: partial(_bind, session) for name, session in sessions.items()}
    return HostBackend(HostModel(device="cpu", binds=binds, size=bundle.size, floats=bundle.floats))


def open_session(
    bundle: Bundle, name: str, provider: Provider, *, threads: int | None = None
) -> Any:
    """Open a graph of the bundle on a provider, and check that both are what was requested.

    `threads` limits the threads that one operator uses; None leaves it to ONNX Runtime.

    Raises:
        BackendError: the graph cannot be opened, the provider did not become active, or the graph
            is not the contract's.
        MissingPackageError: ONNX Runtime is not installed.
    """
    onnxruntime = import_onnxruntime()
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
    exact = provider == CPU and bundle.precision == "int8" and keep_products_exact(options)
    if name == contract.DECODER and not exact:
        # Its int8 weights are for bandwidth only. ONNX Runtime would keep their DequantizeLinear,
        # waiting for int8 products that never come, and compute it at every step; with this, it is
        # folded into float weights when the graph is loaded.
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    providers = [provider] if provider == CPU else [provider, CPU]
    try:
        session = onnxruntime.InferenceSession(
            str(bundle.graph_file(name)), options, providers=providers
        )
    except Exception as error:  # its classes have no other base
        raise BackendError(
            f"ONNX Runtime {onnxruntime.__version__} cannot open {bundle.graph_file(name)}: "
            f"{error}. Run florence-run with --check, or export the bundle again."
        ) from error
    check_active(provider[0], session.get_providers())
    _check_signature(bundle, name, session)
    return session


@cache
def int8_products_saturate() -> bool:
    """Whether uint8 times int8 loses what exceeds 16 bits here, as on x86-64 without VNNI.

    There, ONNX Runtime adds two products in 16 bits: on AMD before Zen 4, Intel before Cascade
    Lake and most Atoms. One small product is tried, which takes milliseconds.
    """
    session = import_onnxruntime().InferenceSession(_PRODUCT, providers=[CPU[0]])
    largest = {"a": np.full((1, 2), 255, np.uint8), "b": np.full((2, 1), 127, np.int8)}
    (product,) = session.run(None, largest)
    return int(product[0, 0]) != 2 * 255 * 127


def keep_products_exact(options: Any) -> bool:
    """Set up a session so that int8 products do not saturate; whether this processor needs that.

    Integer operators get uint8 weights, whose products do not; Q/DQ pairs lack the zero point that
    this takes, so their linears are computed in float on what the pairs have rounded. A processor
    with exact products is left alone. The keys are onnxruntime_session_options_config_keys.h's.
    """
    if not int8_products_saturate():
        return False
    options.add_session_config_entry("session.x64quantprecision", "1")
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    return True


def available() -> Sequence[str]:
    """The providers that this ONNX Runtime was built with.

    Raises:
        MissingPackageError: ONNX Runtime is not installed.
    """
    built: Sequence[str] = import_onnxruntime().get_available_providers()
    return built


def check_active(provider: str, active: Sequence[str]) -> None:
    """Refuse an ONNX Runtime that has another provider than the one that was requested.

    Raises:
        BackendError: with what there is instead.
    """
    if provider in active:
        return
    remedy = "Install florence-edge[cpu] again."
    if provider != CPU[0]:
        remedy = (
            "Install florence-edge[gpu] instead of [cpu], with CUDA and cuDNN of the versions it "
            "was built for, or use device='cpu'."
        )
    raise BackendError(
        f"{provider.removesuffix('ExecutionProvider')} did not become active in ONNX Runtime "
        f"{import_onnxruntime().__version__} (it has {', '.join(active)}). {remedy}"
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


def _bind(session: Any, inputs: NamedArrays, outputs: NamedArrays) -> Run:
    value_of = import_onnxruntime().OrtValue.ortvalue_from_numpy
    binding = session.io_binding()
    for name, array in inputs.items():
        binding.bind_ortvalue_input(name, value_of(array))
    for name, array in outputs.items():
        binding.bind_ortvalue_output(name, value_of(array))
    return lambda: run_bound(session, binding)


def run_bound(session: Any, binding: Any, options: Any = None) -> None:
    """Run a graph on what is bound to it, with an onnxruntime.RunOptions if given.

    Raises:
        BackendError: the run failed.
    """
    try:
        session.run_with_iobinding(binding, options)
    except Exception as error:  # as above
        raise BackendError(f"ONNX Runtime failed while running: {error}") from error


def captured_as(number: int) -> Any:
    """Options of a run that CUDA replays under this number, of one binding alone, once it has run.

    Needs the provider's `enable_cuda_graph`. The key is onnxruntime_run_options_config_keys.h's.
    """
    options = import_onnxruntime().RunOptions()
    options.add_run_config_entry("gpu_graph_id", str(number))
    return options
