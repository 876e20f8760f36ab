"""The doctor tries each provider of ONNX Runtime; how is in runtime/test_provider_trial.py."""

import pytest

from florence_edge.backends import provider_trial
from florence_edge.backends.provider_trial import ProviderTrial
from florence_edge_jetson.doctor.checks_software import check_onnxruntime, try_providers

from ..runtime.scripted_providers import CPU, CUDA, ScriptedProviders, no_kernel


def test_every_provider_is_tried() -> None:
    assert try_providers(ScriptedProviders(CUDA=no_kernel, CPU=lambda z: [z])) == (
        ProviderTrial(CUDA, "cudaErrorNoKernelImageForDevice: no kernel image is available"),
        ProviderTrial(CPU),
    )


def test_what_sends_work_away_is_not_tried() -> None:
    assert try_providers(ScriptedProviders(Azure=no_kernel)) == ()


def test_a_provider_that_lacks_a_library_is_reported_with_what_brings_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(provider_trial, "missing_library", lambda onnxruntime: "libcurand.so.10")
    trials = try_providers(ScriptedProviders(CUDA=no_kernel))
    (finding,) = check_onnxruntime(trials, version="1.31.1", tensorrt=False)
    assert finding.state == "warn"
    assert "libcurand.so.10 is not found" in finding.found
    assert "pip install 'onnxruntime-gpu[cuda,cudnn]==1.31.1'" in finding.fix
