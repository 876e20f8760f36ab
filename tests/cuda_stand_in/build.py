"""Builds the stand-in libraries, and a folder of packages where they lie as NVIDIA's wheels would.

The folder that FLORENCE_EDGE_ORT_CUDA names, filled by `make stand-in`, has the real
onnxruntime-gpu, NVRTC and CUDA's headers. In the folder that is made here, `onnxruntime` is that
package, and `nvidia` has stand-ins for what needs a GPU.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

FOLDER = "FLORENCE_EDGE_ORT_CUDA"
_SOURCES = Path(__file__).parent
_HOW = f"run `make stand-in`, which fetches onnxruntime-gpu and CUDA's headers and sets {FOLDER}"
CUDA = "nvidia/cu13"

# By library: its source, or "" for one whose functions nobody calls, and the folder of its wheel.
LIBRARIES = {
    "libcudart.so.13": ("libcudart", CUDA),
    "libcublas.so.13": ("libcublas", CUDA),
    "libcublasLt.so.13": ("libcublasLt", CUDA),
    "libcurand.so.10": ("", CUDA),
    "libcudnn.so.9": ("libcudnn", "nvidia/cudnn"),
    "libcuda.so.1": ("libcuda", "driver"),  # not a wheel: it comes with the driver
}


def need_packages() -> Path:
    """The folder with onnxruntime-gpu; skips the test where that or the compiler is not at hand."""
    if shutil.which("g++") is None:
        pytest.skip("g++ is not installed, which builds the stand-in CUDA libraries")
    named = os.environ.get(FOLDER)
    if not named or not (Path(named) / "onnxruntime" / "capi").is_dir():
        pytest.skip(_HOW)
    return Path(named)


def build_libraries(include: Path, target: Path) -> None:
    """Compile all stand-ins with CUDA's headers into the folders of their wheels below `target`."""
    for name, (source, wheel) in LIBRARIES.items():
        folder = target / wheel / ("" if wheel == "driver" else "lib")
        folder.mkdir(parents=True, exist_ok=True)
        versions = _SOURCES / f"{source}.map"
        command = ["g++", "-std=c++17", "-O1", "-fPIC", "-shared", "-Wall", f"-I{include}"]
        (folder / name).unlink(missing_ok=True)  # a wheel's
        command += ["-o", str(folder / name), f"-Wl,-soname,{name}"]
        command += [f"-Wl,--version-script={versions}"] if versions.exists() else []
        command += [str(_SOURCES / f"{source}.cpp")] if source else ["-xc++", "/dev/null"]
        subprocess.run([*command, "-ldl"], check=True)


def make_site(packages: Path, target: Path) -> Path:
    """A folder for PYTHONPATH with the real onnxruntime and NVRTC, and stand-ins beside them."""
    build_libraries(packages / CUDA / "include", target)
    (target / "onnxruntime").symlink_to(packages / "onnxruntime")
    for library in (packages / CUDA / "lib").glob("libnvrtc*.so.*"):
        (target / CUDA / "lib" / library.name).symlink_to(library)
    return target
