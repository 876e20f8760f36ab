"""OpenVINO, on Intel's CPUs and GPUs.

It computes in float32 whatever the floats of the bundle are, and keeps int8 weights as int8; left
to itself it would round to bfloat16 on every CPU that can (AVX512-BF16, AMX), and what a decoder's
products read to int8 on every CPU with VNNI, and say nothing.
The package openvino is imported when a bundle is opened, never with this module.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import contract
from ..bundle import Bundle
from ..engine_failures import ENGINE_FAILURES, engine_failure, not_imported
from ..errors import BackendError, BundleError
from ..external_data import ExternalTensor
from ..extras import pip_install
from .base import NamedArrays
from .host import Bind, HostBackend, HostModel, Run

_CPU = "CPU"
_IN_MEMORY = "*/_ORT_MEM_ADDR_/*"  # the place of a tensor whose offset is an address


def open_openvino(
    bundle: Bundle, *, device: str = _CPU, threads: int | None = None, precision: str = "fp32"
) -> HostBackend:
    """Open a bundle's graphs on a device of OpenVINO: `CPU`, `GPU`, `GPU.0`, ...

    `threads` limits the threads of the CPU. `precision` "bf16" lets it round to bfloat16.

    Raises:
        BackendError: there is no such device, it has no bfloat16, or a graph does not compile.
        MissingPackageError: OpenVINO is not installed.
    """
    core = _import_openvino().Core()
    _check_device(core, device)
    if precision == "bf16":
        _check_bfloat16(core, device)
    settings = _settings(device, threads, precision)
    binds = {name: _open_graph(core, bundle, name, device, settings) for name in contract.GRAPHS}
    # Of float16 bundles, too: a CPU would convert the caches to float32 at every step.
    return HostBackend(
        HostModel(
            device="openvino",
            binds=binds,
            size=bundle.size,
            floats="float32",
            check=bundle.check_unchanged,
        )
    )


def device_capabilities() -> dict[str, tuple[str, ...]]:
    """OpenVINO's devices here that a bundle can run on, and what each can compute in.

    Raises:
        BackendError: OpenVINO is installed and does not load.
        MissingPackageError: it is not installed.
    """
    core = _import_openvino().Core()
    return {
        name: tuple(core.get_property(name, "OPTIMIZATION_CAPABILITIES"))
        for name in core.available_devices
        if name.startswith((_CPU, "GPU"))
    }


def _import_openvino() -> Any:
    # At its import OpenVINO asks an analytics service, unless this package of its own is missing.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        import openvino
    except ENGINE_FAILURES as error:
        raise not_imported(
            error,
            "openvino",
            f"OpenVINO is not installed. Install it with: {pip_install('openvino')}",
        ) from error
    return openvino


def _settings(device: str, threads: int | None, precision: str) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[precision],
        "PERFORMANCE_HINT": "LATENCY",  # one request at a time: all threads work on it
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,  # none: weights are int8, what they multiply is not
    }
    if device == _CPU and threads is not None:
        settings["INFERENCE_NUM_THREADS"] = threads
    return settings


def _check_device(core: Any, device: str) -> None:
    """Refuse what is not there, and OpenVINO's devices that choose by themselves (AUTO, HETERO)."""
    available: list[str] = core.available_devices
    # The only GPU is listed as GPU, the first of several as GPU.0.
    if device.removesuffix(".0") not in {name.removesuffix(".0") for name in available}:
        raise BackendError(
            f"OpenVINO {_import_openvino().__version__} finds no {device} here, only: "
            f"{', '.join(available)}. A GPU needs Intel's driver for OpenCL "
            "(intel-opencl-icd). Or use device='openvino', its CPU."
        )


def _check_bfloat16(core: Any, device: str) -> None:
    able = core.get_property(device, "OPTIMIZATION_CAPABILITIES")
    if "BF16" not in able:
        raise BackendError(
            f"OpenVINO's {device} has no bfloat16 here (it has {', '.join(able)}). Leave "
            "--engine-precision (engine_precision) out."
        )


def _open_graph(
    core: Any, bundle: Bundle, name: str, device: str, settings: Mapping[str, Any]
) -> Bind:
    """Read a graph where it lies, weights memory-mapped, and compile it."""
    path = bundle.graph_file(name)
    weights = _mapped_weights(bundle) if bundle.has_linked_weights() else None
    model: Path | bytes = path if weights is None else _graph_in_memory(bundle, name, weights)
    try:
        read = core.read_model(model)
        _check_signature(bundle, name, read)
        compiled = core.compile_model(_exchange_float32(read), device, settings)
    except (RuntimeError, MemoryError) as error:
        raise engine_failure(
            f"OpenVINO {_import_openvino().__version__} cannot compile {path} for {device}",
            error,
            "Run florence-run with --check, or export the bundle again.",
        ) from error
    return partial(_bind, _Compiled(compiled, weights))


@dataclass(frozen=True, slots=True)
class _Compiled:
    """A graph that is ready, and the memory that it may refer to."""

    model: Any
    weights: npt.NDArray[np.uint8] | None


def _mapped_weights(bundle: Bundle) -> npt.NDArray[np.uint8]:
    try:
        return np.memmap(bundle.weights_file(), dtype=np.uint8, mode="r")
    except (OSError, ValueError) as error:  # an empty file cannot be mapped
        raise BundleError(f"{bundle.weights_file()} cannot be mapped: {error}.") from error


def _graph_in_memory(bundle: Bundle, name: str, weights: npt.NDArray[np.uint8]) -> bytes:
    """The graph with its tensors at addresses: OpenVINO follows no link out of a folder."""
    start = weights.ctypes.data

    def at_address(tensor: ExternalTensor) -> ExternalTensor:
        length = len(weights) - tensor.offset if tensor.length is None else tensor.length
        return ExternalTensor(_IN_MEMORY, start + tensor.offset, length)

    return bundle.relocated_graph(name, at_address)


def _check_signature(bundle: Bundle, name: str, model: Any) -> None:
    """The graph must have the contract's tensors; otherwise the file is not this bundle's."""
    expected = contract.graphs(bundle.size, bundle.floats)[name]
    for kind, tensors, found in (
        ("inputs", expected.inputs, model.inputs),
        ("outputs", expected.outputs, model.outputs),
    ):
        shapes = {name: value.partial_shape for value in found for name in value.names}
        if len(tensors) != len(found) or not all(
            tensor.name in shapes and shapes[tensor.name].compatible(_partial(tensor))
            for tensor in tensors
        ):
            raise BackendError(
                f"The {kind} of {bundle.graph_file(name)} are not those of contract "
                f"{contract.CONTRACT_VERSION}. Export the bundle again."
            )


def _partial(tensor: contract.Tensor) -> Any:
    """The shape of a tensor as OpenVINO's, -1 for what is dynamic."""
    sides = [side if isinstance(side, int) else -1 for side in tensor.shape]
    return _import_openvino().PartialShape(sides)


def _exchange_float32(model: Any) -> Any:
    """The model with float32 features and caches, whatever it has inside."""
    openvino = _import_openvino()
    half, single = openvino.Type.f16, openvino.Type.f32
    changed = openvino.preprocess.PrePostProcessor(model)
    for i, value in enumerate(model.inputs):
        if value.element_type == half:
            changed.input(i).tensor().set_element_type(single)
    for i, value in enumerate(model.outputs):
        if value.element_type == half:
            changed.output(i).tensor().set_element_type(single)
    return changed.build()


def _bind(compiled: _Compiled, inputs: NamedArrays, outputs: NamedArrays) -> Run:
    """A request of its own: its tensors stay the arrays they were made of."""
    tensor_of = _import_openvino().Tensor
    request = compiled.model.create_infer_request()
    try:
        for name, array in {**inputs, **outputs}.items():
            request.set_tensor(name, tensor_of(array, shared_memory=True))
    except RuntimeError as error:
        raise engine_failure("OpenVINO refuses an array", error) from error

    def run() -> None:
        try:
            request.infer(share_outputs=True)  # or every output would be copied once more
        except (RuntimeError, MemoryError) as error:
            raise engine_failure("OpenVINO failed while running", error) from error

    return run
