import pytest

from florence_edge.cuda import device as cuda_device
from florence_edge_benchmarks.memory import DeviceMemory, open_device_memory

from ..runtime.fake_cuda import FakeCuda


def test_what_was_free_before_is_compared_with() -> None:
    free = iter([900, 800, 300, 850])  # the first reading opens the context
    memory = DeviceMemory(lambda: next(free))
    assert memory.taken() == 500
    assert memory.taken() == 0, "another process gave memory back"


def test_cuda_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeCuda()
    monkeypatch.setattr(cuda_device, "open_provider", lambda: fake)
    memory = open_device_memory(1, by_torch=False)
    assert memory is not None
    assert memory.taken() == 0
    assert fake.calls.count("cudaMemGetInfo") == 3


def test_the_cpu_has_none() -> None:
    assert open_device_memory(None, by_torch=True) is None
