"""OpenVINO, on Intel's CPUs and GPUs.

It computes in float32 whatever the floats of the bundle are, and keeps int8 weights as int8; left
to itself it would round to bfloat16 on every CPU that can (AVX512-BF16, AMX), and say nothing.
The package openvino is imported when a bundle is opened, never with this module.
"""

import sys
from collections.abc import Mapping
from functools import partial
from typing import Any

from .. import contract
from ..bundle import Bundle
from ..errors import BackendError, MissingPackageError
from .base import NamedArrays
from .host import Bind, HostBackend, HostModel, Run

_CPU = "CPU"


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
    model = HostModel(device="openvino", binds=binds, size=bundle.size, floats="float32")
    return HostBackend(model)


def _import_openvino() -> Any:
    # At its import OpenVINO asks an analytics service, unless this package of its own is missing.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        import openvino
    except ImportError as error:
        raise MissingPackageError(
            "OpenVINO is not installed. Install florence-edge[openvino]."
        ) from error
    return openvino


def _settings(device: str, threads: int | None, precision: str) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[precision],
        "PERFORMANCE_HINT": "LATENCY",  # one request at a time: all threads work on it
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
    try:
        model = core.read_model(path)
        _check_signature(bundle, name, model)
        compiled = core.compile_model(_exchange_float32(model), device, settings)
    except RuntimeError as error:
        raise BackendError(
            f"OpenVINO {_import_openvino().__version__} cannot compile {path} for {device}: "
            f"{_reason(error)} Run florence-run with --check, or export the bundle again."
        ) from error
    return partial(_bind, compiled)


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


def _bind(compiled: Any, inputs: NamedArrays, outputs: NamedArrays) -> Run:
    """A request of its own: its tensors stay the arrays they were made of."""
    tensor_of = _import_openvino().Tensor
    request = compiled.create_infer_request()
    try:
        for name, array in {**inputs, **outputs}.items():
            request.set_tensor(name, tensor_of(array, shared_memory=True))
    except RuntimeError as error:
        raise BackendError(f"OpenVINO refuses an array: {_reason(error)}") from error

    def run() -> None:
        try:
            request.infer(share_outputs=True)  # or every output would be copied once more
        except RuntimeError as error:
            raise BackendError(f"OpenVINO failed while running: {_reason(error)}") from error

    return run


def _reason(error: RuntimeError) -> str:
    """What an error says after the places in OpenVINO's source that it passed through."""
    lines = [line.strip() for line in str(error).splitlines()]
    message = [line for line in lines if line and not line.startswith("Exception from ")]
    return " ".join(message) or str(error)
