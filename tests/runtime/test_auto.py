"""device="auto": what was measured here, or the usual order; and what is said about it."""

import json
import logging
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from florence_edge import Florence2, RequestError
from florence_edge.backends import auto
from florence_edge.backends.auto import MeasuredEngine, SpeedRecord, choose, remember, remembered
from florence_edge.backends.open import engine_settings
from florence_edge.backends.provider_trial import ProviderTrial
from florence_edge.bundle import Bundle
from florence_edge.devices import Device, EngineSettings
from florence_edge.errors import BackendError
from florence_edge.tensorrt.manifest import read_manifest, write_manifest
from florence_edge.tensorrt.profiles import EngineOptions

from .scripted_machine import Machine, place_engines

pytest.importorskip("onnxruntime")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "florence-edge" / "speed"


@pytest.fixture
def bundle(tiny_bundle: Path) -> Bundle:
    return Bundle.load(tiny_bundle)


SLOW = MeasuredEngine(device="cpu", threads=2, spinning=False, seconds=2.0)
FAST = MeasuredEngine(device="openvino", threads=1, precision="fp32", seconds=1.0)
ROUNDING = MeasuredEngine(
    device="openvino", threads=2, precision="bf16", seconds=0.5, rounds_more=True
)


def record(*engines: MeasuredEngine) -> SpeedRecord:
    return SpeedRecord(measured="2026-11-28", engines=engines)


def test_the_fastest_that_was_measured_is_taken_and_said(
    bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    remember(bundle, record(SLOW, ROUNDING, FAST))
    with caplog.at_level(logging.INFO, auto.__name__):
        found = choose(bundle)
    assert (found.device, found.threads, found.precision) == (Device("openvino"), 1, "fp32")
    assert found.reason == "the fastest here, 1000 ms an answer, on 2026-11-28"
    assert "device='auto' is openvino" in caplog.text


def test_what_rounds_more_is_taken_only_if_that_is_allowed(bundle: Bundle) -> None:
    remember(bundle, record(ROUNDING, FAST))
    assert engine_settings(bundle, "auto").precision == "fp32"
    assert engine_settings(bundle, "auto", precision="bf16").precision == "bf16"
    remember(bundle, record(ROUNDING))
    assert engine_settings(bundle, "auto").device == Device("cpu"), "the usual order"


def test_what_is_given_beside_auto_holds(bundle: Bundle) -> None:
    remember(bundle, record(SLOW))
    found = engine_settings(bundle, "auto", threads=3, spinning=True)
    assert (found.threads, found.spinning) == (3, True)
    with pytest.raises(RequestError, match="threads is 0"):
        engine_settings(bundle, "auto", threads=0)


@pytest.mark.parametrize("change", ["bundle", "processor", "cores", "version", "GPU"])
def test_a_record_is_for_one_bundle_on_one_machine(
    bundle: Bundle, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    remember(bundle, record(FAST))
    assert remembered(bundle) == record(FAST)
    other = bundle
    if change == "bundle":
        stored = replace(bundle.files["weights.bin"], sha256="0" * 64)
        other = replace(bundle, files={**bundle.files, "weights.bin": stored})
    elif change == "processor":
        monkeypatch.setattr(auto, "processor_identity", lambda: {"model name": "another"})
    elif change == "cores":
        monkeypatch.setattr(auto, "usable_cores", lambda: SimpleNamespace(count=77))
    elif change == "version":
        monkeypatch.setattr(auto, "version", lambda _: "77")
    else:
        gpu = SimpleNamespace(name="GPU", compute_capability="8.7", driver="13.0")
        monkeypatch.setattr(auto, "find_gpu", lambda: gpu)
    assert remembered(other) is None


ON_ENGINES = MeasuredEngine(device="tensorrt", seconds=0.1)


def test_engines_that_are_built_after_the_measurement_end_its_record(bare: Machine) -> None:
    bundle = Bundle.load(bare.folder)
    remember(bundle, record(SLOW))
    assert choose(bundle).reason.startswith("the fastest here")
    engines = place_engines(bare.folder, EngineOptions())
    found = choose(bundle)
    assert found.device == Device("tensorrt")
    assert "nothing was measured" in found.reason
    remember(bundle, record(ON_ENGINES, SLOW))
    assert choose(bundle).reason.startswith("the fastest here, 100 ms")
    shutil.rmtree(engines)
    assert choose(bundle).device == Device("cpu")


def test_engines_of_another_folder_are_not_taken_without_it(bare: Machine, tmp_path: Path) -> None:
    bundle, other = Bundle.load(bare.folder), tmp_path / "engines"
    place_engines(bare.folder, EngineOptions(), other)
    remember(bundle, record(ON_ENGINES, SLOW), engine_dir=other)
    assert choose(bundle, engine_dir=other).device == Device("tensorrt")
    assert choose(bundle).device == Device("cpu")
    (folder,) = other.iterdir()
    folder.rename(other / f".{folder.name}")  # as while florence-build replaces it
    assert choose(bundle, engine_dir=other).device == Device("cpu")


def test_engines_that_no_longer_fit_are_passed_over_for_what_was_next(
    bare: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = Bundle.load(bare.folder)
    place_engines(bare.folder, EngineOptions())
    remember(bundle, record(ON_ENGINES, FAST))
    monkeypatch.setattr(bare.trt, "__version__", "10.16.2")
    found = choose(bundle)
    assert found.device == Device("openvino")
    assert found.reason.startswith("the fastest here, 1000 ms")


def test_engines_of_another_bundle_beside_them_change_nothing(
    bare: Machine, tmp_path: Path
) -> None:
    bundle, shared = Bundle.load(bare.folder), tmp_path / "engines"
    remember(bundle, record(SLOW), engine_dir=shared)
    folder = place_engines(bare.folder, EngineOptions(), shared)
    manifest = read_manifest(folder)
    write_manifest(folder, replace(manifest, sources=dict.fromkeys(manifest.sources, "0" * 64)))
    assert remembered(bundle, engine_dir=shared) == record(SLOW)


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"measured": 1}', '{"measured": "x", "engines": [{"device": 1}]}']
)
def test_a_damaged_record_is_said_and_passed_over(
    bundle: Bundle, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = remember(bundle, record(FAST))
    path.write_text(content)
    assert choose(bundle).device == Device("cpu")
    assert "cannot be read" in caplog.text
    assert "--speed" in caplog.text


def test_a_device_of_a_newer_version_is_passed_over(bundle: Bundle) -> None:
    remember(bundle, record(replace(FAST, device="npu"), SLOW))
    assert choose(bundle).device == Device("cpu")


def test_the_record_names_no_folder_of_the_user(bundle: Bundle, cache: Path) -> None:
    path = remember(bundle, record(FAST))
    assert path.parent == cache
    assert str(bundle.folder) not in path.read_text()
    assert json.loads(path.read_text())["bundle"]["precision"] == "fp32"


def test_without_a_home_nothing_is_remembered(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # to be ignored, says its specification

    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    assert choose(bundle).device == Device("cpu")
    with pytest.raises(RequestError, match="neither XDG_CACHE_HOME nor HOME"):
        remember(bundle, record(FAST))


# Without a record.


@pytest.mark.parametrize(
    ("precision", "target", "installed", "expected"),
    [
        ("fp32", "any", {"onnxruntime", "openvino"}, "cpu"),
        ("fp32", "any", {"openvino"}, "openvino"),
        ("fp32", "any", set(), "cpu"),  # whose error says what to install
        ("int8", "any", {"onnxruntime", "openvino"}, "openvino"),
        ("int8", "any", {"onnxruntime"}, "cpu"),
        ("int8", "cpu", {"onnxruntime", "openvino"}, "cpu"),
    ],
)
def test_the_usual_order_on_a_cpu(
    bundle: Bundle,
    precision: str,
    target: str,
    installed: set[str],
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(auto, "find_spec", lambda name: name if name in installed else None)
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    found = auto.usual_choice(replace(bundle, precision=precision, target=target))
    assert str(found.device) == expected
    assert "nothing was measured (florence-doctor" in found.reason


@pytest.mark.parametrize(
    ("problem", "device", "reason"),
    [
        ("", "cuda", "there is a GPU"),
        ("libcudnn.so.9 is not found", "cpu", "CUDA is left out: libcudnn.so.9 is not found"),
    ],
)
def test_a_gpu_is_taken_where_onnx_runtime_has_it(
    bundle: Bundle, problem: str, device: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = SimpleNamespace(name="GPU", compute_capability="8.7", driver="13.0")
    monkeypatch.setattr(auto, "find_gpu", lambda: gpu)
    trial = ProviderTrial("CUDAExecutionProvider", problem)
    monkeypatch.setattr(auto, "try_provider", lambda *_: trial)
    found = auto.usual_choice(bundle)
    assert str(found.device) == device
    assert reason in found.reason


@pytest.mark.parametrize("fits", [True, False])
def test_engines_that_fit_go_before_all_others(
    bundle: Bundle, tmp_path: Path, fits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "engines" / "a").mkdir(parents=True)
    (tmp_path / "engines" / "a" / "engine.json").write_text("{}")
    here = SimpleNamespace(flavour="tensorrt_rtx")
    monkeypatch.setattr(auto, "find_tensorrt", lambda: None)
    monkeypatch.setattr(auto, "this_device", lambda _: here)

    def find_engines(*_: Any, **__: Any) -> None:
        if not fits:
            raise BackendError("No engine fits this GPU. Run: florence-build.")

    monkeypatch.setattr(auto, "find_engines", find_engines)
    found = auto.usual_choice(bundle, tmp_path / "engines")
    assert str(found.device) == ("tensorrt-rtx" if fits else "cpu")
    if not fits:
        assert "TensorRT is left out: No engine fits this GPU" in found.reason


# The model.


def test_the_model_says_what_it_runs_on(tiny_bundle: Path, bundle: Bundle) -> None:
    remember(bundle, record(replace(SLOW, threads=1)))
    with Florence2.load(tiny_bundle, "auto") as model:
        found = model.engine_settings
    assert found is not None
    assert found.to_json() == {
        "device": "cpu",
        "threads": 1,
        "spinning": False,
        "reason": "the fastest here, 2000 ms an answer, on 2026-11-28",
    }


def test_threads_are_the_cores_of_the_process_and_do_not_spin(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[dict[str, Any]] = []
    monkeypatch.setattr(
        "florence_edge.backends.open.usable_cores", lambda: SimpleNamespace(count=3)
    )
    monkeypatch.setattr(
        "florence_edge.backends.ort.open_ort", lambda _, **given: opened.append(given)
    )
    from florence_edge.backends.open import open_engine

    open_engine(bundle, "cpu")
    open_engine(bundle, "cpu", threads=2, spinning=True)
    open_engine(bundle, "cpu", threads=1, spinning=True)  # one thread waits for none
    assert opened == [
        {"threads": 3, "spinning": False},
        {"threads": 2, "spinning": True},
        {"threads": 1, "spinning": False},
    ]
    with pytest.raises(RequestError, match="--spinning"):
        open_engine(bundle, "openvino", spinning=True)


@pytest.mark.skipif(sys.platform != "linux", reason="it counts the CPU time of threads")
@pytest.mark.parametrize("spinning", [True, False])
def test_sessions_are_told_whether_to_spin(
    bundle: Bundle, spinning: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnxruntime

    seen: list[str] = []
    opened = onnxruntime.InferenceSession

    def watch(model: Any, options: Any, **given: Any) -> Any:
        seen.append(options.get_session_config_entry("session.intra_op.allow_spinning"))
        return opened(model, options, **given)

    monkeypatch.setattr(onnxruntime, "InferenceSession", watch)
    with Florence2.load(bundle.folder, threads=2, spinning=spinning):
        assert seen == [f"{spinning:d}"] * 3


def test_settings_are_written_as_florence_run_reads_them() -> None:
    settings = EngineSettings(device=Device("cpu"), threads=2, spinning=False)
    assert settings.arguments() == "--device cpu --threads 2 --spinning no"
    rounding = EngineSettings(device=Device("openvino"), threads=2, precision="bf16")
    assert rounding.arguments() == "--device openvino --threads 2 --engine-precision bf16"
    assert EngineSettings(device=Device("cuda", 1)).to_json() == {"device": "cuda:1"}
