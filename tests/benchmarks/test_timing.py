"""What calls, steps and rounds become; torch's GPU is scripted, since none was at hand."""

import json
from dataclasses import asdict, dataclass, field

import pytest

from florence_edge import STAGES as RUNTIME
from florence_edge.errors import BackendError
from florence_edge.files import from_json
from florence_edge_benchmarks.timing import (
    DECODING,
    RUNTIME_STAGES,
    STAGES,
    EngineCall,
    Steps,
    Timing,
    median_by_position,
    percentile,
    ratios,
    stages_from_calls,
    torch_cuda,
)

from .scripted_time import Clock

CALLS = [
    EngineCall("encode_image", 5.0, 9.0),
    EngineCall("prefill", 10.0, 12.0),
    EngineCall("step", 13.0, 14.0),
    EngineCall("step", 14.5, 16.5),
]


def test_the_time_of_a_run_is_divided_by_its_calls() -> None:
    assert stages_from_calls(CALLS, begin=1.0, decoded=3.0, end=20.0) == {
        "decode image": 2.0,
        "resize": 2.0,
        "vision": 4.0,
        "text encoder": 3.0,
        "decoder": 3.0,
        "search": 1.5,
        "post-process": 3.5,
    }


def test_the_stages_add_up_to_the_whole() -> None:
    stages = stages_from_calls(CALLS, begin=1.0, decoded=3.0, end=20.0)
    assert tuple(stages) == STAGES
    assert sum(stages.values()) == pytest.approx(19.0)


def test_several_encodings_are_one_stage() -> None:
    calls = [EngineCall("encode_image", 1.0, 2.0), EngineCall("encode_image", 3.0, 5.0), *CALLS[1:]]
    stages = stages_from_calls(calls, begin=0.0, decoded=0.5, end=20.0)
    assert (stages["vision"], stages["resize"]) == (3.0, 1.5)


def test_every_stage_is_a_part_of_one_of_the_runtimes_in_its_order() -> None:
    assert tuple(dict.fromkeys(RUNTIME_STAGES.values())) == RUNTIME
    assert DECODING == ("decoder", "search")


def test_a_timing_survives_json() -> None:
    timing = Timing(
        seconds=1.5, stages={"vision": 1.0}, steps=(0.25, 0.25), token_ids=((2, 0, 7, 2), (2, 2))
    )
    assert from_json(Timing, json.loads(json.dumps(asdict(timing)))) == timing
    assert timing.tokens == 3


def test_percentiles_are_interpolated() -> None:
    assert percentile([1, 2, 3, 4], 50) == 2.5
    assert percentile([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11], 90) == 10


def test_ratios_are_taken_round_by_round() -> None:
    """The machine was busy in the second round: both took twice as long, the ratio stays."""
    spread = ratios(of=[2.0, 4.0, 2.1], to=[1.0, 2.0, 1.0])
    assert [spread.median, spread.low, spread.high] == pytest.approx([2.0, 2.0, 2.1])


def test_ratios_need_the_same_rounds() -> None:
    with pytest.raises(ValueError, match="zip"):
        ratios(of=[1.0], to=[1.0, 2.0])


def test_the_median_of_a_position_is_of_the_rows_that_reach_it() -> None:
    assert median_by_position([[1, 2], [3, 4, 9], [5, 6]]) == [3, 4, 9]
    assert median_by_position([]) == []


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
    assert [(call.kind, call.begin, call.end) for call in steps.take()] == [
        ("step", 2, 3),
        ("step", 4, 5),
    ]
    steps.start()
    assert steps.take() == []


def test_steps_on_a_gpu_are_timed_there_and_given_on_the_hosts_clock() -> None:
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
