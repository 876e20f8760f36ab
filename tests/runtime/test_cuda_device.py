"""Memory, the stream, events and graphs of a scripted GPU."""

import gc
import threading

import numpy as np
import pytest

from florence_edge import BackendError
from florence_edge.cuda.buffers import DeviceView, StagingBuffer
from florence_edge.cuda.device import Cuda

from .fake_cuda import FakeCuda


@pytest.fixture
def fake() -> FakeCuda:
    return FakeCuda()


def test_a_mailbox_carries_values_there_and_back(fake: FakeCuda) -> None:
    gpu = Cuda(fake, 0)
    box = gpu.staging_buffer({"a": ((2, 3), np.float32), "b": ((5,), np.int64)})
    assert all(view.address % 256 == 0 for view in box.device.values())
    box.host["a"][:] = np.arange(6).reshape(2, 3)
    box.host["b"][:] = 7
    box.send(gpu.stream)
    box_device = fake.view(box.device["b"].address, (5,), np.int64)
    assert not (box_device == 7).any()  # nothing has run yet
    gpu.synchronize()
    assert (box_device == 7).all()
    box_device[:] = 9
    box.fetch(gpu.stream)
    gpu.synchronize()
    assert (box.host["b"] == 9).all()
    np.testing.assert_array_equal(gpu.download(box.device["a"]), box.host["a"])


def test_on_an_integrated_gpu_a_mailbox_is_one_memory_and_never_copied() -> None:
    fake = FakeCuda(integrated=True)
    gpu = Cuda(fake, 0)
    box = gpu.staging_buffer({"a": ((4,), np.int64)})
    box.host["a"][:] = 3
    box.send(gpu.stream)
    box.fetch(gpu.stream)
    assert (fake.view(box.device["a"].address, (4,), np.int64) == 3).all()
    assert "cudaMalloc" not in fake.calls
    assert "cudaMemcpyAsync" not in fake.calls


def test_rows_move_to_the_front_of_longer_ones(fake: FakeCuda) -> None:
    gpu = Cuda(fake, 0)
    short, long = gpu.array((3, 2, 4), np.float32), gpu.array((3, 5, 4), np.float32)
    values = np.arange(24, dtype=np.float32).reshape(3, 2, 4)
    gpu.upload(short.view, values)
    gpu.zero(long.view)
    gpu.copy_rows(long.view, short.view)
    found = gpu.download(long.view)
    np.testing.assert_array_equal(found[:, :2], values)
    assert not found[:, 2:].any()


def test_a_capture_runs_nothing_until_it_is_launched(fake: FakeCuda) -> None:
    gpu = Cuda(fake, 0)
    array = gpu.array((4,), np.int32)
    graph = gpu.capture(lambda: gpu.zero(array.view))
    gpu.synchronize()
    assert (gpu.download(array.view) == -1).all()  # the poison
    gpu.launch(graph)
    assert not gpu.download(array.view).any()


def test_a_capture_that_fails_ends_and_the_stream_goes_on(fake: FakeCuda) -> None:
    gpu = Cuda(fake, 0)
    held = len(fake.held)

    def fail() -> None:
        raise BackendError("no")

    with pytest.raises(BackendError, match="no"):
        gpu.capture(fail)
    assert fake.captured is None
    assert len(fake.held) == held


def test_of_two_captures_at_once_the_later_to_end_turns_collections_on(fake: FakeCuda) -> None:
    """Neither must the first to end do so, nor one that began late leave them off for good."""
    inner, outer = threading.Event(), threading.Event()
    during: list[bool] = []

    def later() -> None:
        inner.set()
        assert outer.wait(10)
        during.append(gc.isenabled())

    thread = threading.Thread(target=Cuda(FakeCuda(), 0).capture, args=(later,))

    def sooner() -> None:
        thread.start()
        assert inner.wait(10)

    Cuda(fake, 0).capture(sooner)
    outer.set()
    thread.join()
    assert during == [False]
    assert gc.isenabled()


def test_memory_is_freed_once_by_close_or_when_nobody_has_it(fake: FakeCuda) -> None:
    gpu = Cuda(fake, 0)
    array = gpu.array((4,), np.int32)
    array.close()
    array.close()
    del array
    box = StagingBuffer(fake, {"a": ((4,), np.int32)}, mapped=False)
    del box
    assert not fake.blocks
    gpu.close()
    assert not fake.held


def test_memory_that_was_given_back_is_taken_again(fake: FakeCuda) -> None:
    gpu = Cuda(fake, 0)
    first, other = gpu.pooled_array((4, 5), np.float16), gpu.pooled_array((4, 5), np.float16)
    addresses = {first.view.address, other.view.address}
    assert len(addresses) == 2
    del first, other
    again = [gpu.pooled_array((40,), np.uint8), gpu.pooled_array((5, 4), np.float16)]
    assert {array.view.address for array in again} == addresses
    assert [array.view.shape for array in again] == [(40,), (5, 4)]
    assert fake.calls.count("cudaMalloc") == 2
    gpu.pooled_array((41,), np.uint8)
    assert fake.calls.count("cudaMalloc") == 3


def test_of_memory_that_nobody_uses_only_so_much_is_kept(fake: FakeCuda) -> None:
    gpu = Cuda(fake, 0)
    arrays = [gpu.pooled_array((n + 1,), np.int64) for n in range(7)]
    sizes = [len(block.bytes) for block in fake.blocks.values()]
    arrays.clear()
    assert sorted(len(block.bytes) for block in fake.blocks.values()) == sorted(sizes)[:4]


def test_what_somebody_still_has_outlives_the_pool(fake: FakeCuda) -> None:
    gpu = Cuda(fake, 0)
    kept, dropped = gpu.pooled_array((3,), np.int64), gpu.pooled_array((3,), np.int64)
    del dropped
    gpu.close()
    assert list(fake.blocks) == [kept.view.address]
    del kept
    assert fake.held == []


def test_arrays_of_a_pool_are_each_ones_own_in_many_threads(fake: FakeCuda) -> None:
    gpu, wrong = Cuda(fake, 0), []

    def use(number: int) -> None:
        for _ in range(200):
            array = gpu.pooled_array((8,), np.int64)
            values = fake.view(array.view.address, (8,), np.int64)
            values[:] = number
            if not (values == number).all():
                wrong.append(number)

    threads = [threading.Thread(target=use, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    gpu.close()
    assert fake.held == []


def test_an_event_waits_for_what_came_before_it(fake: FakeCuda) -> None:
    gpu = Cuda(fake, 0)
    event, done = gpu.event(), []
    fake.enqueue(lambda: done.append("before"))
    event.record()
    fake.enqueue(lambda: done.append("behind"))
    event.wait()
    assert done == ["before"]
    event.wait()
    event.record()
    event.wait()
    assert done == ["before", "behind"]
    event.close()
    gpu.close()
    assert fake.held == []


def test_a_mailbox_whose_second_half_fails_frees_the_first(fake: FakeCuda) -> None:
    fake.fails_at = 2
    with pytest.raises(BackendError, match="cudaMalloc"):
        StagingBuffer(fake, {"a": ((4,), np.int32)}, mapped=False)
    assert not fake.held


def test_a_place_steps_over_whole_rows() -> None:
    view = DeviceView(1000, (3, 4, 5), np.dtype(np.float16))
    assert view[2] == DeviceView(1000 + 2 * 40, (4, 5), np.dtype(np.float16))
    assert view.nbytes == 120
