"""ONNX Runtime: a session a graph, on the CPU (`open_ort`) or for `ort_cuda.py` on the GPU.

onnxruntime is imported when a graph is opened, never with this module.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from .. import contract
from ..bundle import Bundle
from ..cuda.api import advice_on
from ..engine_failures import SEE_DOCTOR, engine_failure
from ..errors import BackendError
from ..extras import pip_install
from .base import NamedArrays
from .host import HostBackend, HostModel, Run
from .int8_products import keep_products_exact
from .ort_libraries import missing_library, remedy_for
from .ort_package import (
    CPU,
    Provider,
    available,
    import_onnxruntime,
    ort_version,
    use_cores,
)


def open_ort(
    bundle: Bundle, *, threads: int | None = None, spinning: bool | None = None
) -> HostBackend:
    """Open a bundle's graphs on the CPU; `open_session` has the arguments and what is raised."""
    sessions = {
        name: open_session(bundle, name, CPU, threads=threads, spinning=spinning)
        for name in contract.GRAPHS
    }
    value_of = import_onnxruntime().OrtValue.ortvalue_from_numpy
    binds = {name: partial(_bind, session, value_of) for name, session in sessions.items()}
    return HostBackend(
        HostModel(
            device="cpu",
            binds=binds,
            size=bundle.size,
            floats=bundle.floats,
            check=bundle.check_unchanged,
        )
    )


def open_session(
    bundle: Bundle,
    name: str,
    provider: Provider,
    *,
    threads: int | None = None,
    spinning: bool | None = None,
) -> Any:
    """Open a graph of the bundle on a provider, and check that both are what was requested.

    `threads` and `spinning` are for the CPU, see `use_cores`; None is its default.

    Raises:
        BackendError: the graph cannot be opened, the provider did not become active, or the graph
            is not the contract's.
        MissingPackageError: ONNX Runtime is not installed.
    """
    onnxruntime = import_onnxruntime()
    options = session_options(bundle, name, provider, threads=threads, spinning=spinning)
    providers = [provider] if provider == CPU else [provider, CPU]
    model = _model(bundle, name, options)
    try:
        session = onnxruntime.InferenceSession(
            model, options, providers=providers, enable_fallback=False
        )
    except RuntimeError as error:  # the provider's, before the graph is read
        doing = f"{_label(provider[0])} did not start in ONNX Runtime {onnxruntime.__version__}"
        raise _failure(doing, error, SEE_DOCTOR, on_gpu=provider != CPU) from error
    except Exception as error:  # its classes have no other base
        doing = f"ONNX Runtime {onnxruntime.__version__} cannot open {bundle.graph_file(name)}"
        again = "Run florence-run with --check, or export the bundle again."
        raise _failure(doing, error, again, on_gpu=provider != CPU) from error
    check_active(provider[0], session.get_providers())
    if provider != CPU:
        _check_libraries(provider[0])
    _check_signature(bundle, name, session)
    return session


def session_options(
    bundle: Bundle,
    name: str,
    provider: Provider,
    *,
    threads: int | None = None,
    spinning: bool | None = None,
) -> Any:
    """onnxruntime's `SessionOptions` for a graph; the arguments are those of `open_session`.

    Raises:
        MissingPackageError: ONNX Runtime is not installed.
    """
    options = import_onnxruntime().SessionOptions()
    options.log_severity_level = 3  # errors only; what matters is raised by `open_session`
    # Of a file that is a graph in its own format, too, the external data would not be ours to see.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    if provider == CPU:
        use_cores(options, threads, spinning=bool(spinning))
    # From the second run of a shape on, a pattern would take one block for all activations, beside
    # the pieces that the arena keeps of the first run. Without, base in int8 peaks at 805 MB, not
    # 1,164 (float32: 1,615, not 1,757), at the same speed. On a GPU it would allocate when all
    # is warm, and a step that CUDA captured would still write to the pieces.
    options.enable_mem_pattern = False
    exact = provider == CPU and bundle.may_saturate() and keep_products_exact(options)
    if not exact and (name == contract.DECODER or provider != CPU or bundle.target == "gpu"):
        # Int8 weights of the decoder, and of any graph on a GPU. ONNX Runtime would keep their
        # DequantizeLinear, waiting for int8 products that never come, and compute it at every step
        # (the whole embedding for each prompt); with this, it is folded into float weights when
        # the graph is loaded.
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    return options


def _model(bundle: Bundle, name: str, options: Any) -> str | bytes:
    """What a session is to open: the file, or for weights behind a link a graph that needs none.

    From 1.24 on ONNX Runtime follows no link out of the graph's folder. Before 1.22 it follows all,
    and does not know the setting.
    """
    path = bundle.graph_file(name)
    if ort_version() < (1, 22) or not bundle.has_linked_weights():
        return str(path)
    weights = bundle.weights_file()
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", str(weights.parent)
    )
    return bundle.relocated_graph(name, lambda tensor: replace(tensor, location=weights.name))


def check_active(provider: str, active: Sequence[str]) -> None:
    """Refuse an ONNX Runtime that has another provider than the one that was requested.

    Raises:
        BackendError: with what there is instead.
    """
    if provider in active:
        return
    remedy = f"Install it again: {pip_install('cpu')}"
    if provider != CPU[0]:
        if provider in available():  # it is in the package, and did not load
            _check_libraries(provider)
        remedy = (
            "Use device='cpu', or have ONNX Runtime's other package: pip uninstall onnxruntime, "
            f"then {pip_install('gpu')}"
        )
    raise BackendError(
        f"{_label(provider)} did not become active in ONNX Runtime "
        f"{import_onnxruntime().__version__} (it has {', '.join(active)}). {remedy}"
    )


def _check_libraries(provider: str) -> None:
    """Refuse a provider that lacks a library of CUDA, by the library's name."""
    onnxruntime = import_onnxruntime()
    missing = missing_library(onnxruntime)
    if missing:
        raise BackendError(
            f"{_label(provider)} did not become active in ONNX Runtime {onnxruntime.__version__}: "
            f"{missing} is not found. {remedy_for(onnxruntime, missing)}"
        )


def _label(provider: str) -> str:
    return provider.removesuffix("ExecutionProvider")


def _check_signature(bundle: Bundle, name: str, session: Any) -> None:
    """The graph must have the contract's tensors; otherwise the file is not this bundle's."""
    graphs = contract.graphs(bundle.size, bundle.floats)
    graphs[contract.VISION_CUDA] = graphs[contract.VISION_ENCODER]
    graphs[contract.CUDA_DECODER] = contract.cuda_decoder(bundle.size, bundle.floats)
    expected = graphs[name]
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


def _bind(
    session: Any, value_of: Callable[[Any], Any], inputs: NamedArrays, outputs: NamedArrays
) -> Run:
    binding = session.io_binding()
    for name, array in inputs.items():
        binding.bind_ortvalue_input(name, value_of(array))
    for name, array in outputs.items():
        binding.bind_ortvalue_output(name, value_of(array))
    return lambda: run_bound(session, binding)


def run_bound(session: Any, binding: Any, options: Any = None, *, on_gpu: bool = False) -> None:
    """Run a graph on what is bound to it, with an onnxruntime.RunOptions if given.

    What to do about a failure depends on where it runs: memory that is short may be a GPU's.

    Raises:
        BackendError: the run failed.
    """
    try:
        session.run_with_iobinding(binding, options)
    except Exception as error:  # as above
        raise _failure("ONNX Runtime failed while running", error, on_gpu=on_gpu) from error


def _failure(doing: str, error: BaseException, remedy: str = "", *, on_gpu: bool) -> BackendError:
    known = advice_on(str(error)) if on_gpu else ""
    return engine_failure(doing, error, remedy, known=known)


def unsynchronized(*, captures: bool) -> Any:
    """Options of runs on a GPU that return when they are enqueued; whoever reads must wait.

    With `captures`, for a session that was opened with `enable_cuda_graph`, they are not captured
    by ONNX Runtime itself. The keys are onnxruntime_run_options_config_keys.h's.
    """
    options = import_onnxruntime().RunOptions()
    options.add_run_config_entry("disable_synchronize_execution_providers", "1")
    if captures:
        options.add_run_config_entry("gpu_graph_id", "-1")
    return options
