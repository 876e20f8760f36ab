import ctypes
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from florence_edge.errors import BackendError
from florence_edge.tensorrt import driver as gpu


class Driver:
    """Stands in for libcuda: an AGX Orin, or a status other than success."""

    def __init__(self, status: int = 0) -> None:
        attributes = {16: 16, 75: 8, 76: 7}

        def write(value: int) -> Any:
            def call(target: Any, *_: Any) -> int:
                target._obj.value = value
                return status

            return call

        def attribute(target: Any, number: int, _: Any) -> int:
            target._obj.value = attributes[number]
            return status

        def name(buffer: Any, _: int, __: Any) -> int:
            buffer.value = b"Orin"
            return status

        def init(_: int) -> int:
            return status

        self.cuInit = init
        self.cuDriverGetVersion = write(12060)
        self.cuDeviceGet = write(0)
        self.cuDeviceGetName = name
        self.cuDeviceGetAttribute = attribute


def test_the_driver_is_asked_for_name_capability_and_version(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: Driver())
    assert gpu.find_gpu() == gpu.GpuInfo(
        name="Orin", compute_capability="8.7", multiprocessors=16, driver="12.6"
    )


def test_without_a_driver_the_message_says_where_to_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_: str) -> SimpleNamespace:
        raise OSError("libcuda.so.1: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    with pytest.raises(BackendError, match=r"no NVIDIA driver.*--gpus all"):
        gpu.find_gpu()


def test_a_driver_without_a_gpu_is_an_error_with_its_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: Driver(status=100))
    with pytest.raises(BackendError, match="error 100: there is no such GPU"):
        gpu.find_gpu()


def test_the_release_of_jetson_linux_is_read(tmp_path: Path) -> None:
    path = tmp_path / "nv_tegra_release"
    path.write_text(
        "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64\n"
    )
    assert gpu.l4t_release(path) == "36.4.3"
    path.write_text("something else\n")
    assert gpu.l4t_release(path) is None
    assert gpu.l4t_release(tmp_path / "none") is None
