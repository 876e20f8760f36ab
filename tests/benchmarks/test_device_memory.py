import pytest

from florence_edge import cuda
from florence_edge_benchmarks.device_memory import DeviceMemory, open_device_memory
from florence_edge_benchmarks.systems import System

from ..runtime.fake_cuda import FakeCuda

SYSTEM = System(label="fp16 on cuda", kind="bundle", bundle="b", threads=1, device="cuda:1")


def test_what_was_free_before_is_compared_with() -> None:
    free = iter([900, 800, 300, 850])  # the first asking opens the context
    memory = DeviceMemory(lambda: next(free))
    assert memory.taken() == 500
    assert memory.taken() == 0, "another process gave memory back"


def test_cuda_is_asked_on_the_gpu_of_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeCuda()
    monkeypatch.setattr(cuda, "open_calls", lambda: fake)
    memory = open_device_memory(SYSTEM)
    assert memory is not None
    assert memory.taken() == 0
    assert fake.calls.count("cudaMemGetInfo") == 3


def test_a_system_on_the_cpu_has_none() -> None:
    assert open_device_memory(System(label="x", kind="bundle", bundle="b", threads=1)) is None
