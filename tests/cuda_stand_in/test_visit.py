"""What of tests/gpu needs CUDA, over the stand-ins: no numbers of a GPU, and no typos."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ..gpu.fat_binaries import keep_only
from ..gpu.figures import FAILED
from .build import CUDA, make_site, need_packages

ROOT = Path(__file__).parents[2]
CUDA_LIB = f"{CUDA}/lib"
PROVIDER = "libonnxruntime_providers_cuda.so"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_site(need_packages(), tmp_path_factory.mktemp("stand-in") / "site")


@pytest.fixture(scope="module")
def work(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a visit, with the tiny model in float16."""
    exporting = pytest.importorskip("florence_edge_export.export")
    work = tmp_path_factory.mktemp("work")
    bundle = work / "tiny" / "fp16"
    bundle.parent.mkdir()
    exporting.export("tiny", tiny_checkpoint, bundle, exporting.ExportOptions(precision="fp16"))
    return work


def run(site: Path, work: Path, program: str, *arguments: str) -> dict[str, Any]:
    """What a program notes; all must succeed but the tracing of a GPU that is not there."""
    figures = work / f"{program}.json"
    packages = ("runtime", "export", "calibration", "benchmarks", "jetson", "tests")
    folders = [site, *(ROOT / name for name in packages)]
    told = ["--figures", str(figures), "--work", str(work), "--architecture", "tiny", *arguments]
    done = subprocess.run(
        [sys.executable, "-m", f"gpu.{program}", *told],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(map(str, folders)),
            "LD_LIBRARY_PATH": os.pathsep.join(str(site / name) for name in ("driver", CUDA_LIB)),
            "FLORENCE_CUDA": "ctypes",
            "CUDA_STAND_IN_LOG": str(work / "log"),
        },
        capture_output=True,
        text=True,
    )
    assert figures.exists(), done.stderr[-3000:]
    found: dict[str, Any] = json.loads(figures.read_text(encoding="utf-8"))
    failed = [key for section in found.values() for key in section if key.endswith(FAILED)]
    untraced = [key for key in failed if key.endswith(f", device{FAILED}")]
    assert failed == untraced, done.stdout[-3000:] + done.stderr[-3000:]
    assert done.returncode == bool(untraced)
    return found


def test_steps_are_taken_eager_and_as_graphs(site: Path, work: Path) -> None:
    pytest.importorskip("torch")
    found = run(site, work, "decode_steps")["steps"]
    for way in ("eager", "graph"):
        for beams in (1, 3):
            name = f"tiny fp16 {way}, beams {beams}"
            assert found[name]["of that host ms, 4 to 60"] > 0
            assert found[name]["step ms, 4 to 60"]["count"] == 112
            assert found[f"{name}, best tokens as the first way"] == 1


def test_bandwidth_is_asked_of_cuda(site: Path, work: Path) -> None:
    found = run(site, work, "bandwidth", "--bytes", f"{1 << 20}")["bandwidth"]
    assert found["copy GB/s"]["best"] > 0
    assert found["launch and wait ms"]["p50"] > 0


@pytest.mark.slow
def test_a_provider_with_one_gpus_code_still_opens(site: Path, work: Path, tmp_path: Path) -> None:
    trimmed = tmp_path / "site"
    shutil.copytree(site, trimmed, symlinks=True)
    (trimmed / "onnxruntime").unlink()
    shutil.copytree((site / "onnxruntime").resolve(), trimmed / "onnxruntime")
    library = trimmed / "onnxruntime" / "capi" / PROVIDER
    content = bytearray(library.read_bytes())
    assert keep_only(content, ["9.0"]) > len(content) // 3
    library.write_bytes(content)
    found = run(trimmed, work, "decode_steps")["steps"]
    assert found["tiny fp16 graph, beams 3, best tokens as the first way"] == 1
