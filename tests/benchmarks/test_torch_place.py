"""Time on a GPU, over a scripted `torch.cuda`: none was at hand."""

from dataclasses import dataclass, field

import pytest

from florence_edge.errors import BackendError
from florence_edge_benchmarks.gauges.torch_place import Steps, torch_cuda

from .scripted_time import Clock


@dataclass
class Event:
    """Happens on the GPU, at a time in seconds that is known once it is waited for."""

    cuda: "Cuda"
    at: float | None = None

    def record(self) -> None:
        self.cuda.queue.append(self)

    def elapsed_time(self, later: "Event") -> float:
        assert self.at is not None
        assert later.at is not None, "asked before it was waited for"
        return (later.at - self.at) * 1e3


@dataclass
class Cuda:
    """`torch.cuda` whose work takes 2 s an event, on a clock of its own."""

    now: float = 1000.0
    queue: list[Event] = field(default_factory=list)

    def Event(self, *, enable_timing: bool) -> Event:
        assert enable_timing
        return Event(self)

    def synchronize(self) -> None:
        for event in self.queue:
            event.at, self.now = self.now, self.now + 2
        self.queue.clear()


def test_steps_on_the_host_are_timed_by_its_clock() -> None:
    steps = Steps(Clock())
    steps.start()  # 1
    for _ in range(4):
        steps.mark()  # 2, 3, 4, 5
    assert [(call.what, call.begin, call.end) for call in steps.take()] == [
        ("step", 2, 3),
        ("step", 4, 5),
    ]
    steps.start()
    assert steps.take() == []


def test_steps_on_a_gpu_are_timed_there_and_told_on_the_hosts_clock() -> None:
    host, cuda = Clock(), Cuda()
    steps = Steps(host, cuda)
    steps.start()
    zero = host.now
    for _ in range(4):
        steps.mark()
    assert host.now == zero, "the host's clock says nothing about a GPU"
    assert [(call.begin - zero, call.end - zero) for call in steps.take()] == [(2, 4), (6, 8)]


def test_a_gpu_that_torch_does_not_find_is_one_message() -> None:
    torch = pytest.importorskip("torch")
    index = torch.cuda.device_count()
    with pytest.raises(BackendError, match=rf"finds no GPU number {index}.*NAME@cpu"):
        torch_cuda(index)
