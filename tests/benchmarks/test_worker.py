import pytest

from florence_edge.cuda import device as cuda_device
from florence_edge_benchmarks import timing
from florence_edge_benchmarks.speed.worker import device_memory_of
from florence_edge_benchmarks.systems.system import System

from ..runtime.fake_cuda import FakeCuda

OURS = System(label="fp16 on cuda", kind="bundle", bundle="b", threads=1, device="cuda:1")
THEIRS = System(label="torch", kind="transformers", bundle="b", threads=1, device="cuda:1")


class TorchCuda:
    """What is free, as `torch.cuda` reports it."""

    def mem_get_info(self, index: int) -> tuple[int, int]:
        assert index == 1
        return 700, 900


def test_cuda_itself_is_asked_about_a_bundle(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeCuda()
    monkeypatch.setattr(cuda_device, "open_provider", lambda: fake)
    memory = device_memory_of(OURS)
    assert memory is not None
    assert memory.taken() == 0
    assert fake.calls.count("cudaMemGetInfo") == 3


def test_torch_is_asked_where_torch_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "torch_cuda", {1: TorchCuda()}.get)
    memory = device_memory_of(THEIRS)
    assert memory is not None
    assert memory.taken() == 0


def test_a_system_on_the_cpu_has_no_such_memory() -> None:
    assert device_memory_of(System(label="x", kind="bundle", bundle="b", threads=1)) is None
