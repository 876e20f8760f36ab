"""A scripted ONNX Runtime with its CUDA provider: real graphs that run on scripted memory."""

from dataclasses import dataclass, field
from typing import Any

import pytest

from florence_edge.backends import ort_cuda, ort_package
from florence_edge.bundle import Bundle
from florence_edge.cuda import device as cuda_device

from .fake_cuda import FakeCuda
from .fake_tensorrt import GRAPHS, numpy_type, run_graph


@dataclass
class Binding:
    """ONNX Runtime's IOBinding, taking addresses of the GPU."""

    cuda: FakeCuda
    index: int
    bound: dict[str, tuple[int, Any]] = field(default_factory=dict)
    types: dict[str, Any] = field(default_factory=dict)

    def bind_input(
        self, name: str, device: str, index: int, dtype: Any, shape: Any, address: int
    ) -> None:
        assert (device, index) == ("cuda", self.index)
        self.bound[name], self.types[name] = (address, tuple(shape)), dtype

    bind_output = bind_input


@dataclass
class Session:
    """A session on the scripted GPU: a run is enqueued, and may be captured if it was opened so."""

    cuda: FakeCuda
    path: str
    settings: dict[str, str]

    def io_binding(self) -> Binding:
        return Binding(self.cuda, int(self.settings["device_id"]))

    def get_inputs(self) -> Any:
        return GRAPHS[self.path].get_inputs()

    def get_outputs(self) -> Any:
        return GRAPHS[self.path].get_outputs()

    def run_with_iobinding(self, binding: Binding, options: Any) -> None:
        assert options.get_run_config_entry("disable_synchronize_execution_providers") == "1"
        if "enable_cuda_graph" in self.settings:
            assert options.get_run_config_entry("gpu_graph_id") == "-1"  # it captures nothing
        else:
            assert self.cuda.captured is None
        assert self.cuda.others[int(self.settings["user_compute_stream"])] == ("stream",)
        values = (*self.get_inputs(), *self.get_outputs())
        assert set(binding.bound) == {value.name for value in values}
        assert all(binding.types[value.name] is numpy_type(value) for value in values)
        bound = dict(binding.bound)
        self.cuda.enqueue(lambda: run_graph(GRAPHS[self.path], self.cuda, bound))


def script_onnxruntime(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    """Put a scripted CUDA, and sessions over it, in the place of ONNX Runtime's own."""
    scripted = FakeCuda()

    def open_session(bundle: Bundle, name: str, provider: tuple[str, dict[str, str]]) -> Session:
        assert provider[0] == ort_package.CUDA
        return Session(scripted, str(bundle.graph_file(name)), provider[1])

    monkeypatch.setattr(cuda_device, "open_provider", lambda: scripted)
    monkeypatch.setattr(ort_cuda, "available", lambda: [ort_package.CUDA, "CPUExecutionProvider"])
    monkeypatch.setattr(ort_cuda, "open_session", open_session)
    return scripted
