"""The extra `gpu` in an environment of its own: gigabytes of wheels, and no GPU."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .build import CUDA, build_libraries

ROOT = Path(__file__).parents[2]
TRACE = Path(__file__).with_name("trace.py")
RUNNING = f"{sys.version_info.major}.{sys.version_info.minor}"

# What keeps ONNX Runtime from loading its CUDA provider: a file's name, or "".
MISSING = """
import sys, onnxruntime
from florence_edge.backends.ort_libraries import missing_library, preload
from florence_edge.backends.provider_trial import MODEL
if sys.argv[1] == "preloaded":
    preload(onnxruntime)
try:
    onnxruntime.InferenceSession(
        MODEL, providers=["CUDAExecutionProvider"], enable_fallback=False
    )
except RuntimeError:  # the provider has loaded, and finds no GPU
    pass
print("missing:", missing_library(onnxruntime))
"""


def find_python(version: str) -> str:
    if version == RUNNING:
        return sys.executable
    versions = (Path.home() / ".pyenv" / "versions").glob(f"{version}.*/bin/python")
    for found in (*map(str, versions), shutil.which(f"python{version}")):
        # What is on the path may be a script that finds no Python of this version.
        if found and not subprocess.run([found, "-c", ""], capture_output=True).returncode:
            return found
    pytest.skip(f"Python {version} is not installed")


def install(version: str, folder: Path) -> Path:
    """An environment with the extra; its Python."""
    subprocess.run([find_python(version), "-m", "venv", folder], check=True)
    python = folder / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", f"{ROOT}[gpu]"], check=True)
    return python


def output(python: Path, *arguments: str, **variables: str) -> str:
    environment = {**os.environ, "PYTHONPATH": "", **variables}
    command = [str(python), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def installed(python: Path) -> dict[str, str]:
    listed = json.loads(output(python, "-m", "pip", "list", "--format", "json"))
    return {package["name"].lower(): package["version"] for package in listed}


def site_packages(python: Path) -> Path:
    found = output(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))")
    return Path(found.strip())


@pytest.mark.slow
@pytest.mark.parametrize("version", sorted({"3.10", RUNNING}))
def test_the_extra_brings_one_cuda_and_the_provider_loads(version: str, tmp_path: Path) -> None:
    python = install(version, tmp_path / "venv")
    generation = "12" if version == "3.10" else "13"
    packages = installed(python)
    assert packages["cuda-bindings"].startswith(f"{generation}.")
    suffixes = {name[-5:] for name in packages if re.search("-cu1[0-9]$", name)}
    assert suffixes == {f"-cu{generation}"}
    if shutil.which("g++") is None:
        pytest.skip("g++ is not installed, which builds the stand-in driver")
    driver = stand_in_driver(tmp_path)
    without = output(python, "-c", MISSING, "as installed", LD_LIBRARY_PATH=driver)
    assert without == f"missing: libcublasLt.so.{generation}\n"
    preloaded = output(python, "-c", MISSING, "preloaded", LD_LIBRARY_PATH=driver)
    assert preloaded == "missing: \n"


@pytest.mark.slow
def test_the_extra_answers_over_stand_ins_in_the_place_of_its_wheels(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    if shutil.which("g++") is None:
        pytest.skip("g++ is not installed, which builds the stand-in CUDA libraries")
    exporting = pytest.importorskip("florence_edge_export.export")
    bundle = tmp_path / "bundle"
    exporting.export("tiny", tiny_checkpoint, bundle, exporting.ExportOptions(precision="fp16"))
    python = install(RUNNING, tmp_path / "venv")
    # The rest of the headers, which only compilers need.
    subprocess.run([python, "-m", "pip", "install", "-q", "nvidia-cuda-crt>=13,<14"], check=True)
    site = site_packages(python)
    build_libraries(site / CUDA / "include", site)
    for calls in ("ctypes", ""):  # cuda-bindings are refused by the stand-in driver, and give way
        printed = output(
            python,
            *(str(TRACE), str(bundle), "3", "5"),
            LD_LIBRARY_PATH=str(site / "driver"),
            FLORENCE_CUDA=calls,
        )
        assert json.loads(printed)["captured"]


def stand_in_driver(folder: Path) -> str:
    source = Path(__file__).with_name("libcuda.cpp")
    library = folder / "driver" / "libcuda.so.1"
    library.parent.mkdir()
    soname = f"-Wl,-soname,{library.name}"
    command = ["g++", "-std=c++17", "-fPIC", "-shared", soname, "-o", str(library), str(source)]
    subprocess.run([*command, "-ldl"], check=True)
    return str(library.parent)
