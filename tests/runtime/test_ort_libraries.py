"""CUDA's libraries for ONNX Runtime: of wheels or of the system; what is said of missing ones."""

import ctypes
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from florence_edge import BackendError
from florence_edge.backends import ort, ort_libraries, ort_package


def package(folder: Path, *, cuda_version: str = "13.0", **functions: Any) -> Any:
    """A module onnxruntime in a folder of packages; `preload_dlls` is one of its functions."""
    capi = folder / "onnxruntime" / "capi"
    capi.mkdir(parents=True, exist_ok=True)
    (capi / "libonnxruntime_providers_cuda.so").touch()
    path = folder / "onnxruntime" / "__init__.py"
    return SimpleNamespace(
        __file__=str(path), __version__="1.31.1", cuda_version=cuda_version, **functions
    )


@pytest.mark.parametrize(
    ("beside", "cuda_version", "preloads"),
    [
        ("nvidia/cu13/lib/libcublasLt.so.13", "13.0", True),
        ("nvidia/cublas/lib/libcublasLt.so.12", "12.2", True),
        ("nvidia/cublas/lib/libcublasLt.so.12", "13.0", False),  # another program's CUDA
        ("nvidia/cu13/lib/libnvrtc.so.13", "13.0", False),  # NVRTC alone, with the system's CUDA
        ("numpy/__init__.py", "13.0", False),
    ],
)
def test_libraries_are_loaded_from_wheels_of_the_right_cuda_only(
    tmp_path: Path, beside: str, cuda_version: str, preloads: bool
) -> None:
    (tmp_path / beside).parent.mkdir(parents=True)
    (tmp_path / beside).touch()
    loaded: list[bool] = []
    onnxruntime = package(
        tmp_path, cuda_version=cuda_version, preload_dlls=lambda: loaded.append(True)
    )
    ort_libraries.preload(onnxruntime)
    assert bool(loaded) is preloads


def test_on_a_jetson_nothing_is_loaded_over_the_systems_libraries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = tmp_path / "nvidia" / "cu13" / "lib" / "libcublasLt.so.13"
    wheel.parent.mkdir(parents=True)
    wheel.touch()
    release = tmp_path / "nv_tegra_release"
    release.touch()
    monkeypatch.setattr(ort_libraries, "L4T_RELEASE", release)
    onnxruntime = package(tmp_path, preload_dlls=lambda: pytest.fail("they were loaded"))
    ort_libraries.preload(onnxruntime)
    remedy = ort_libraries.remedy_for(onnxruntime, "libcublasLt.so.13")
    assert "apt install nvidia-jetpack-runtime" in remedy
    assert "pip" not in remedy


@pytest.mark.parametrize(("jetson", "missing"), [(True, ""), (False, "libcudnn.so.9")])
def test_which_cudnn_a_jetson_has_is_jetpacks_affair(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jetson: bool, missing: str
) -> None:
    def load(name: str, mode: int = 0) -> None:
        if name == "libcudnn.so.9":
            raise OSError(f"{name}: cannot open shared object file: No such file or directory")

    release = tmp_path / "nv_tegra_release"
    if jetson:
        release.touch()
    monkeypatch.setattr(ort_libraries, "L4T_RELEASE", release)
    monkeypatch.setattr(ctypes, "CDLL", load)
    assert ort_libraries.missing_library(package(tmp_path)) == missing


@pytest.mark.parametrize(
    "said",
    [
        "libcublas.so.13: undefined symbol: cublasLtCreate",
        "version `GLIBC_2.38' not found (required by libcudnn.so.9)",
        "libcudart.so.13: cannot open shared object file: Permission denied",
    ],
)
def test_a_library_that_does_not_load_is_not_called_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    def load(name: str, mode: int = 0) -> None:
        raise OSError(said)

    monkeypatch.setattr(ctypes, "CDLL", load)
    with pytest.raises(BackendError, match=r"cannot load its CUDA provider.* Install it again: "):
        ort_libraries.missing_library(package(tmp_path))


def test_an_onnxruntime_that_cannot_load_from_wheels_is_left_alone(tmp_path: Path) -> None:
    wheel = tmp_path / "nvidia" / "cublas" / "lib" / "libcublasLt.so.12"
    wheel.parent.mkdir(parents=True)
    wheel.touch()
    ort_libraries.preload(package(tmp_path, cuda_version="12.2"))


@pytest.mark.parametrize(
    ("absent", "said"),
    [
        ("libcublasLt.so.13", "libcublasLt.so.13 is not found. Run: pip install 'onnxruntime-gpu["),
        (
            "libcuda.so.1",
            "libcuda.so.1 is not found. It comes with NVIDIA's driver: install that, ",
        ),
    ],
)
def test_a_library_that_the_provider_lacks_is_named_with_the_command_that_brings_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, absent: str, said: str
) -> None:
    def load(name: str, mode: int = 0) -> None:
        if name.endswith("providers_cuda.so"):
            raise OSError(f"{absent}: cannot open shared object file: No such file or directory")

    monkeypatch.setattr(ctypes, "CDLL", load)
    monkeypatch.setattr(ort, "import_onnxruntime", lambda: package(tmp_path))
    monkeypatch.setattr(ort, "available", lambda: [ort_package.CUDA, "CPUExecutionProvider"])
    with pytest.raises(BackendError) as raised:
        ort.check_active(ort_package.CUDA, ["CPUExecutionProvider"])
    assert said in str(raised.value)
