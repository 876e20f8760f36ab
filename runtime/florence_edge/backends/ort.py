"""ONNX Runtime on the CPU."""

from functools import partial
from typing import Any

from .. import contract
from ..bundle import Bundle
from .host import HostBackend, HostModel
from .host_decoder import Arrays, Run
from .ort_session import CPU, open_session, ort_value, run_bound


def open_ort(bundle: Bundle, *, threads: int | None = None) -> HostBackend:
    """Open a bundle's graphs in ONNX Runtime; see `open_session`."""
    sessions = {name: open_session(bundle, name, CPU, threads=threads) for name in contract.GRAPHS}
    binds = {name: partial(_bind, session) for name, session in sessions.items()}
    return HostBackend(HostModel(device="cpu", binds=binds, size=bundle.size, floats=bundle.floats))


def _bind(session: Any, inputs: Arrays, outputs: Arrays) -> Run:
    binding = session.io_binding()
    for name, array in inputs.items():
        binding.bind_ortvalue_input(name, ort_value(array))
    for name, array in outputs.items():
        binding.bind_ortvalue_output(name, ort_value(array))
    return lambda: run_bound(session, binding)
