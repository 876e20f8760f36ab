import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from florence_edge.bundle import Bundle
from florence_edge.devices import Device
from florence_edge.errors import BackendError
from florence_edge.tensorrt.install import CHOICE, TensorRT
from florence_edge.tensorrt.manifest import TargetDevice, read_manifest
from florence_edge_export.export import ExportOptions, export
from florence_edge_export.tensorrt_build import build as build_module
from florence_edge_export.tensorrt_build import cli
from florence_edge_export.tensorrt_build.builder import Built, Job
from florence_edge_export.tensorrt_build.cli import main
from florence_edge_export.tensorrt_build.compare import Drift, EngineComparison

from ..helpers.manifests import edit_manifest
from . import folders

pytest.importorskip("tensorrt_rtx_bindings")

MODULES = ["build", "builder", "cli", "compare", "memory_forecast", "worker"]
HEAVY = {
    *("torch", "transformers", "onnx", "onnxscript", "onnx_ir", "onnxruntime", "polygraphy"),
    *("safetensors", "huggingface_hub", "tensorrt", "tensorrt_rtx_bindings"),
}


@pytest.fixture(autouse=True)
def _as_at_a_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CHOICE, "rtx")
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # pytest keeps its own


def test_building_imports_nothing_but_tensorrt_and_the_runtime() -> None:
    imports = "; ".join(f"import florence_edge_export.tensorrt_build.{name}" for name in MODULES)
    command = f"import sys, json; {imports}; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", command], check=True, capture_output=True, text=True
    )
    assert set(json.loads(done.stdout)) & HEAVY == set()


def test_the_list_of_modules_is_complete() -> None:
    folder = Path(build_module.__file__).parent
    assert sorted(path.stem for path in folder.glob("*.py")) == ["__init__", *MODULES]


def test_a_bundle_is_built_and_built_only_once(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        *(str(tiny_bundle), "--compute-capability", "8.6", "--beams", "1"),
        *("--max-new-tokens", "64", "--engine-dir", str(tmp_path)),
    ]
    assert main(arguments) == 0
    printed, quiet = capsys.readouterr()
    assert "vision_encoder: " in printed
    assert "self-test not run: built ahead of time, without a GPU" in printed
    assert f"--device tensorrt-rtx --engine-dir {tmp_path}" in printed
    assert quiet == ""
    assert main(arguments) == 0
    assert "has what was requested; --refresh builds it again" in capsys.readouterr().out
    assert len(list(tmp_path.iterdir())) == 1


def refused(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """The one line on stderr of a command that fails."""
    assert main([str(argument) for argument in arguments]) == 1
    printed, message = capsys.readouterr()
    assert printed == ""
    assert message.startswith("florence-build: ")
    assert message.count("\n") == 1
    return message


def test_without_a_bundle_the_export_to_run_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "Make one: florence-export" in refused(capsys, tmp_path / "none")


def test_a_bundle_for_the_cpu_is_refused(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = folders.copy(tiny_bundle, tmp_path / "bundle")
    edit_manifest(copy, lambda manifest: manifest.update(target="cpu"))
    message = refused(capsys, copy, "--compute-capability", "8.6")
    assert "made for cpu" in message
    assert "Run: florence-export" in message


@pytest.mark.parametrize(
    ("arguments", "printed"),
    [
        (["--beams", "9"], "--beams is 9; expected 1 (greedy) to 8"),
        (["--batch", "0"], "--batch is 0"),
        (["--max-new-tokens", "99999"], "--max-new-tokens is 99999"),
        (["--workspace", "-1"], "--workspace is -1"),
    ],
)
def test_options_out_of_range_are_refused(
    tiny_bundle: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], printed: str
) -> None:
    assert printed in refused(capsys, tiny_bundle, "--compute-capability", "8.6", *arguments)


def test_without_a_gpu_the_way_to_do_without_is_named(
    tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if Path("/proc/driver/nvidia").exists() or os.name == "nt":
        pytest.skip("there is a driver")
    message = refused(capsys, tiny_bundle)
    assert "no NVIDIA driver" in message
    assert "--compute-capability 8.6" in message


def test_comparing_needs_the_gpu(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ahead = ["--compute-capability", "8.6", "--engine-dir", str(tmp_path)]
    assert "--compare runs the engines" in refused(capsys, tiny_bundle, *ahead, "--compare")
    assert list(tmp_path.iterdir()) == []


HERE = TargetDevice(
    gpu="NVIDIA L4",
    multiprocessors=58,
    compute_capability="8.9",
    flavour="tensorrt_rtx",
    tensorrt="1.7.1.116",
    driver="13.0",
    l4t=None,
)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with a GPU, where building takes no time."""

    def build(_: Bundle, job: Job, *__: object) -> Built:
        job.plan.write_bytes(b"plan")
        return Built(seconds=61.5, peak_mb=2048)

    monkeypatch.setattr(build_module, "this_device", lambda *_: HERE)
    monkeypatch.setattr(build_module, "_build", build)


@pytest.mark.usefixtures("gpu")
def test_fresh_engines_are_tested_before_they_are_kept(
    tiny_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(cli, "check_engines", lambda *_: {"top_log_probs": 0.0012})
    assert main([str(tiny_bundle), "--engine-dir", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "decoder: 61.5 s, at most 2048 MB of memory" in printed
    assert "self-test: top_log_probs within 0.0012" in printed
    assert len(list(tmp_path.iterdir())) == 1


def test_the_second_gpu_is_built_for_and_tested(
    tiny_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked: list[object] = []

    def build(_: Bundle, job: Job, *__: object) -> Built:
        asked.append(job.gpu)
        job.plan.write_bytes(b"plan")
        return Built(seconds=1.0, peak_mb=1)

    def device(_: object, index: int) -> TargetDevice:
        asked.append(index)
        return HERE

    def check(_: Bundle, on: Device, __: Path) -> dict[str, float]:
        asked.append(str(on))
        return {}

    monkeypatch.setattr(build_module, "this_device", device)
    monkeypatch.setattr(build_module, "_build", build)
    monkeypatch.setattr(cli, "check_engines", check)
    assert main([str(tiny_bundle), "--engine-dir", str(tmp_path), "--gpu", "1"]) == 0
    assert asked == [1, 1, 1, 1, "tensorrt-rtx:1"]
    assert "--device tensorrt-rtx:1" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["--gpu", "-1"], ["--gpu", "1", "--compute-capability=8.6"]])
def test_a_gpu_that_cannot_be_meant_is_refused(
    tiny_bundle: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    assert "a GPU of this machine" in refused(capsys, tiny_bundle, *arguments)


@pytest.fixture
def in_place(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    bundle = tmp_path / "in place"
    export("tiny", tiny_checkpoint, bundle, ExportOptions())
    return bundle


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(
    ("arguments", "printed", "built"),
    [
        (["--max-new-tokens", "100"], "decoder: in place\n", 128),
        (["--max-new-tokens", "129"], "decoder: in place\n", 256),
        (["--portable-decoder"], "decoder: portable, because --portable-decoder asks for it\n", 0),
    ],
)
def test_the_in_place_decoder_is_built_where_it_serves(
    in_place: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    printed: str,
    built: int,
) -> None:
    monkeypatch.setattr(cli, "check_engines", lambda *_: {})
    assert main([str(in_place), "--engine-dir", str(tmp_path / "engines"), *arguments]) == 0
    assert printed in capsys.readouterr().out
    (folder,) = (tmp_path / "engines").iterdir()
    assert read_manifest(folder).options.in_place == built


@pytest.mark.usefixtures("gpu")
def test_an_older_tensorrt_gets_the_portable_decoder_and_that_is_printed(
    in_place: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(cli, "check_engines", lambda *_: {})
    old = TensorRT(SimpleNamespace(), "tensorrt_rtx", "10.13.3")
    monkeypatch.setattr(cli, "find_tensorrt", lambda _: old)
    assert main([str(in_place), "--engine-dir", str(tmp_path), "--max-new-tokens", "64"]) == 0
    assert "portable, because TensorRT 10.13.3 does not update" in capsys.readouterr().out


@pytest.mark.usefixtures("gpu")
def test_comparing_takes_the_portable_decoder(
    in_place: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(cli, "check_engines", lambda *_: {})
    monkeypatch.setattr(cli, "compare", lambda *_, **__: [])
    assert main([str(in_place), "--engine-dir", str(tmp_path), "--compare"]) == 0
    assert "decoder: portable, because --compare cannot feed" in capsys.readouterr().out


@pytest.mark.usefixtures("gpu")
def test_engines_that_fail_the_self_test_are_not_kept(
    tiny_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def off(bundle: Bundle, device: Device, engine_dir: Path) -> None:
        assert str(device) == "tensorrt-rtx"
        assert engine_dir.parent == tmp_path
        raise BackendError("The engines are off.")

    monkeypatch.setattr(cli, "check_engines", off)
    assert main([str(tiny_bundle), "--engine-dir", str(tmp_path)]) == 1
    assert "florence-build: The engines are off." in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(
    ("asked", "layers"), [(["--compare"], False), (["--compare=layers"], True)]
)
def test_comparisons_are_printed_for_fresh_and_for_old_engines(
    tiny_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    asked: list[str],
    layers: bool,
) -> None:
    pytest.importorskip("polygraphy")
    layered: list[bool] = []

    def compare(_: object, *, layers: bool) -> list[EngineComparison]:
        layered.append(layers)
        return [EngineComparison(graph="decoder", limit=0.05, drifts=(Drift("fc1", 0.2),))]

    monkeypatch.setattr(cli, "compare", compare)
    monkeypatch.setattr(cli, "check_engines", lambda *_: {})
    for _ in ("fresh", "old"):
        assert main([str(tiny_bundle), "--engine-dir", str(tmp_path), *asked]) == 0
        assert "the first that drifts: fc1, 0.2" in capsys.readouterr().out
    assert layered == [layers, layers]


def test_stopping_says_that_nothing_was_changed(
    tiny_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(build_module, "build_in_process", stop)
    arguments = [str(tiny_bundle), "--compute-capability", "8.6", "--engine-dir", str(tmp_path)]
    assert main(arguments) == 130
    assert "stopped; nothing was changed" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
