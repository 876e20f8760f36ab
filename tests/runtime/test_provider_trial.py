"""A provider of ONNX Runtime is tried by one addition."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from florence_edge.backends import provider_trial
from florence_edge.backends.provider_trial import MODEL, ProviderTrial, try_provider
from florence_edge.errors import BackendError

from .scripted_providers import CPU, CUDA, ScriptedProviders, no_kernel


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
    assert try_provider(onnxruntime, CPU) == ProviderTrial(CPU)
    assert "built without it" in try_provider(onnxruntime, "TPUExecutionProvider").problem


def test_a_provider_that_is_listed_but_built_for_another_gpu_is_found_out() -> None:
    """Its session opens; the kernel is what fails."""
    assert try_provider(ScriptedProviders(CUDA=no_kernel), CUDA) == ProviderTrial(
        CUDA, "cudaErrorNoKernelImageForDevice: no kernel image is available"
    )


def test_a_provider_that_lacks_a_library_is_told_with_what_brings_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(provider_trial, "missing_library", lambda onnxruntime: "libcurand.so.10")
    trial = try_provider(ScriptedProviders(CUDA=no_kernel), CUDA)
    assert trial.problem == "libcurand.so.10 is not found"
    assert "pip install 'onnxruntime-gpu[cuda,cudnn]==1.31.1'" in trial.fix


def test_a_provider_that_does_not_load_otherwise_is_told_in_the_loaders_words(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(onnxruntime: object) -> str:
        raise BackendError("ONNX Runtime cannot load its CUDA provider: undefined symbol: x.")

    monkeypatch.setattr(provider_trial, "missing_library", refuse)
    trial = try_provider(ScriptedProviders(CUDA=no_kernel), CUDA)
    assert "undefined symbol: x" in trial.problem


def test_libraries_of_wheels_are_loaded_before_a_provider_is_tried(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done: list[str] = []

    def run(z: Any) -> list[Any]:
        done.append("ran")
        return [z]

    monkeypatch.setattr(provider_trial, "preload", lambda onnxruntime: done.append("preloaded"))
    try_provider(ScriptedProviders(CUDA=run), CUDA)
    assert done == ["preloaded", "ran"]


def test_the_cpu_may_not_stand_in_for_another_provider() -> None:
    providers = ScriptedProviders(CUDA=lambda z: [z])
    try_provider(providers, CUDA)
    assert providers.forbidden == [("session.disable_cpu_ep_fallback", "1")]


def test_a_wrong_sum_is_a_problem() -> None:
    trial = try_provider(ScriptedProviders(CUDA=lambda z: [np.zeros_like(z)]), CUDA)
    assert "came out as [0.0, 0.0]" in trial.problem


def test_a_gpu_that_the_build_has_no_code_for_is_not_taken(
    tiny_bundle: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from florence_edge.backends import auto
    from florence_edge.bundle import Bundle

    gpu = SimpleNamespace(name="GPU", compute_capability="5.3", driver="13.0")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(auto, "find_gpu", lambda: gpu)
    built_for_others = ScriptedProviders(CUDA=no_kernel, CPU=lambda z: [z])
    monkeypatch.setattr(auto, "import_onnxruntime", lambda: built_for_others)
    found = auto.usual_choice(Bundle.load(tiny_bundle))
    assert str(found.device) == "cpu"
    assert "CUDA is left out: cudaErrorNoKernelImageForDevice" in found.reason
