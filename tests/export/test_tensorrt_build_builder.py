"""The builder's settings for the full TensorRT, which is not installed here: a mock has them."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock, call

import pytest

from florence_edge.contract import GraphSignature
from florence_edge_export.tensorrt_build import builder
from florence_edge_export.tensorrt_build.builder import BuildProgress, Event, Job

MEASURED = b"timings of this device"


class ProgressMonitor:
    """TensorRT's class, which ours derives from."""


def full_tensorrt() -> Any:
    """The names of TensorRT 10 and 11 that the settings need, and no others."""
    return SimpleNamespace(
        NetworkDefinitionCreationFlag=SimpleNamespace(STRONGLY_TYPED=1),
        MemoryPoolType=SimpleNamespace(WORKSPACE="workspace"),
        BuilderFlag=SimpleNamespace(TF32="tf32"),
        ProfilingVerbosity=SimpleNamespace(DETAILED="detailed"),
        IProgressMonitor=ProgressMonitor,
    )


@pytest.fixture
def config() -> MagicMock:
    config = MagicMock()
    config.create_timing_cache = lambda content: ("cache", content)
    config.set_timing_cache.return_value = True
    config.get_timing_cache.return_value.serialize.return_value = bytearray(MEASURED)
    return config


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(
        graph=GraphSignature("decoder", (), ()),
        onnx=tmp_path / "decoder.onnx",
        plan=tmp_path / "decoder.plan",
        timing_cache=tmp_path / "timing.cache",
        profiles=(),
        workspace_mb=512,
        flavour="tensorrt",
        ahead_of_time=None,
    )


def test_networks_are_strongly_typed_where_that_takes_a_flag() -> None:
    assert builder.network_flags(full_tensorrt()) == 0b10
    forgotten = SimpleNamespace(NetworkDefinitionCreationFlag=SimpleNamespace())
    assert builder.network_flags(forgotten) == 0


def test_the_full_tensorrt_gets_every_setting_it_knows(config: MagicMock, job: Job) -> None:
    builder.configure(full_tensorrt(), config, job, lambda _: None)
    config.set_memory_pool_limit.assert_called_once_with("workspace", 512 << 20)
    config.clear_flag.assert_called_once_with("tf32")
    assert (config.max_aux_streams, config.profiling_verbosity) == (0, "detailed")
    assert isinstance(config.progress_monitor, ProgressMonitor)
    config.set_flag.assert_not_called()
    config.set_compute_capability.assert_not_called()


def test_timings_are_kept_from_one_build_to_the_next(config: MagicMock, job: Job) -> None:
    trt = full_tensorrt()
    builder.configure(trt, config, job, lambda _: None)
    builder.keep_timings(trt, config, job)
    assert job.timing_cache.read_bytes() == MEASURED
    builder.configure(trt, config, job, lambda _: None)
    assert config.set_timing_cache.mock_calls == [
        call(("cache", b""), False),
        call(("cache", MEASURED), False),
    ]


@pytest.mark.parametrize("damaged", [True, False])
def test_timings_that_cannot_be_used_are_left_out(
    config: MagicMock, job: Job, damaged: bool
) -> None:
    """A damaged file is no cache; that of another device is refused."""
    job.timing_cache.write_bytes(MEASURED)
    config.create_timing_cache = lambda content: None if damaged and content else ("cache", content)
    config.set_timing_cache.side_effect = lambda cache, ignored: cache[1] == b""
    builder.configure(full_tensorrt(), config, job, lambda _: None)
    assert config.set_timing_cache.mock_calls[-1] == call(("cache", b""), False)


def test_a_build_without_timings_keeps_what_there_was(config: MagicMock, job: Job) -> None:
    job.timing_cache.write_bytes(MEASURED)
    config.get_timing_cache.return_value = None
    builder.keep_timings(full_tensorrt(), config, job)
    assert job.timing_cache.read_bytes() == MEASURED


def test_a_tensorrt_without_progress_builds_without(config: MagicMock, job: Job) -> None:
    trt = full_tensorrt()
    del trt.IProgressMonitor
    builder.configure(trt, config, job, lambda _: None)
    assert isinstance(config.progress_monitor, MagicMock), "was never set"


def test_progress_is_reported_of_the_outermost_phase_alone(config: MagicMock, job: Job) -> None:
    reported: list[Event] = []
    builder.configure(full_tensorrt(), config, job, reported.append)
    monitor = config.progress_monitor
    monitor.phase_start("Building", None, 2)
    monitor.phase_start("Timing", "Building", 50)
    assert monitor.step_complete("Timing", 7)
    assert monitor.step_complete("Building", 0)
    monitor.phase_finish("Timing")
    monitor.phase_finish("Building")
    assert monitor.step_complete("Building", 1)
    assert reported == [BuildProgress("decoder", 0, 2), BuildProgress("decoder", 1, 2)]
