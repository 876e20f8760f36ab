from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from florence_edge_jetson.doctor import checks_software
from florence_edge_jetson.doctor.checks_software import MODEL, ProviderTrial, try_providers


def test_the_model_is_one_addition() -> None:
    onnx = pytest.importorskip("onnx")
    helper, float32 = onnx.helper, onnx.TensorProto.FLOAT
    x, y, z = (helper.make_tensor_value_info(name, float32, [2]) for name in "xyz")
    node = helper.make_node("Add", ["x", "y"], ["z"])
    model = helper.make_model(
        helper.make_graph([node], "g", [x, y], [z]),
        opset_imports=[helper.make_opsetid("", 13)],
        ir_version=8,
    )
    assert model.SerializeToString() == MODEL
    onnx.checker.check_model(onnx.load_from_string(MODEL))


def test_the_cpu_of_the_real_onnxruntime_runs_it() -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    assert ProviderTrial("CPUExecutionProvider") in try_providers(onnxruntime)


class FakeRuntime(SimpleNamespace):
    """An ONNX Runtime whose sessions do what a test says."""

    def __init__(self, **providers: Any) -> None:
        super().__init__(providers=providers, forbidden=[], __file__="nowhere/__init__.py")

    def get_available_providers(self) -> list[str]:
        return [f"{name}ExecutionProvider" for name in self.providers]

    def SessionOptions(self) -> SimpleNamespace:
        return SimpleNamespace(
            add_session_config_entry=lambda key, value: self.forbidden.append((key, value))
        )

    def InferenceSession(
        self, model: bytes, options: object, providers: list[str], enable_fallback: bool
    ) -> Any:
        assert not enable_fallback  # it would print
        answer = self.providers[providers[0].removesuffix("ExecutionProvider")]
        return SimpleNamespace(run=lambda outputs, feeds: answer(feeds["x"] + feeds["y"]))


def no_kernel(_: object) -> object:
    raise RuntimeError("cudaErrorNoKernelImageForDevice:\n no kernel image is available")


def test_a_provider_that_is_listed_but_built_for_another_gpu_is_found_out() -> None:
    runtime = FakeRuntime(CUDA=no_kernel, CPU=lambda z: [z])
    assert try_providers(runtime) == (
        ProviderTrial(
            "CUDAExecutionProvider",
            "cudaErrorNoKernelImageForDevice: no kernel image is available",
        ),
        ProviderTrial("CPUExecutionProvider"),
    )


def test_a_provider_that_lacks_a_library_is_reported_with_what_brings_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(checks_software, "missing_library", lambda onnxruntime: "libcurand.so.10")
    runtime = FakeRuntime(CUDA=no_kernel)
    runtime.__version__ = "1.31.1"
    trials = try_providers(runtime)
    (finding,) = checks_software.check_onnxruntime(trials, version="1.31.1", tensorrt=False)
    assert finding.state == "warn"
    assert "libcurand.so.10 is not found" in finding.found
    assert "pip install 'onnxruntime-gpu[cuda,cudnn]==1.31.1'" in finding.fix


def test_libraries_of_wheels_are_loaded_before_a_provider_is_tried(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done: list[str] = []

    def run(z: Any) -> list[Any]:
        done.append("ran")
        return [z]

    monkeypatch.setattr(checks_software, "preload", lambda onnxruntime: done.append("preloaded"))
    try_providers(FakeRuntime(CUDA=run))
    assert done == ["preloaded", "ran"]


def test_the_cpu_may_not_stand_in_for_another_provider() -> None:
    runtime = FakeRuntime(CUDA=lambda z: [z])
    try_providers(runtime)
    assert runtime.forbidden == [("session.disable_cpu_ep_fallback", "1")]


def test_a_wrong_sum_is_a_problem() -> None:
    (trial,) = try_providers(FakeRuntime(CUDA=lambda z: [np.zeros_like(z)]))
    assert "came out as [0.0, 0.0]" in trial.problem


def test_what_sends_work_away_is_not_tried() -> None:
    assert try_providers(FakeRuntime(Azure=no_kernel)) == ()
