"""Every setting of the builder, and all that only some versions of TensorRT have."""

from typing import Any

from florence_edge.errors import BackendError

from .job import Job, Tell
from .voices import monitor_of


def network_flags(trt: Any) -> int:
    """Strongly typed: 10.x has to be told, 11.x knows no other and may drop the name."""
    typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if typed is None else 1 << int(typed)


def updates_in_place(trt: Any) -> bool:
    """Whether this TensorRT has the layer that writes to a cache where it lies (as of 10.15)."""
    return hasattr(trt, "KVCacheMode")


def configure(trt: Any, config: Any, job: Job, tell: Tell) -> None:
    """Set a builder's configuration for a job.

    Raises:
        BackendError: this TensorRT cannot build for the compute capability asked for.
    """
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, job.workspace_mb << 20)
    config.clear_flag(trt.BuilderFlag.TF32)  # float32 in the graph means float32
    config.max_aux_streams = 0  # a step is captured as a CUDA graph from one stream
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if hasattr(trt, "IProgressMonitor"):
        config.progress_monitor = monitor_of(trt, job.graph.name, tell)
    if hasattr(trt.BuilderFlag, "REQUIRE_USER_ALLOCATION"):  # RTX: or contexts allocate in capture
        config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)
    if hasattr(trt, "ComputeCapability"):
        _set_compute_capability(trt, config, job.ahead_of_time)
    else:
        _set_timings(config, job)


def keep_timings(trt: Any, config: Any, job: Job) -> None:
    """Write what the builder measured, for the next build."""
    if not hasattr(trt, "ComputeCapability"):
        cache = config.get_timing_cache()
        if cache is not None:
            job.timing_cache.write_bytes(bytes(cache.serialize()))


def _set_timings(config: Any, job: Job) -> None:
    """Begin with what was measured before; with nothing, if that is damaged or another device's."""
    kept = job.timing_cache.read_bytes() if job.timing_cache.is_file() else b""
    cache = config.create_timing_cache(kept)
    if cache is None or not config.set_timing_cache(cache, False):  # False: devices must match
        config.set_timing_cache(config.create_timing_cache(b""), False)


def _set_compute_capability(trt: Any, config: Any, ahead_of_time: str | None) -> None:
    """TensorRT-RTX builds for named GPUs and measures nothing, so it has no use for timings."""
    members = trt.ComputeCapability.__members__
    known = [name for name in members if name.startswith("SM")]
    wanted = "CURRENT" if ahead_of_time is None else f"SM{ahead_of_time.replace('.', '')}"
    if ahead_of_time is not None and wanted not in known:
        others = ", ".join(f"{name[2:-1]}.{name[-1]}" for name in known)
        raise BackendError(
            f"TensorRT-RTX does not build for compute capability {ahead_of_time}, only for "
            f"{others}. Use the full TensorRT on such a GPU."
        )
    config.num_compute_capabilities = 1
    config.set_compute_capability(members[wanted], 0)
