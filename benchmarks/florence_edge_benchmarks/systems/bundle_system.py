"""A bundle as a compared system: the runtime as users call it, with its engine's calls recorded."""

from pathlib import Path

from florence_edge import Florence2
from florence_edge.image import load_image

from ..gauges.calls import Calls, RecordedBackend
from ..gauges.stages import Timing, host_seconds, stages_from_calls
from ..gauges.waits import with_waits
from .devices import Device
from .endless import EndlessBackend
from .workload import Workload


class BundleSystem:
    """A loaded bundle that answers workloads."""

    def __init__(self, model: Florence2, calls: Calls) -> None:
        self._model = model
        self._calls = calls
        self._recorded = RecordedBackend(with_waits(model.backend, calls), calls)
        self._endless = EndlessBackend(self._recorded, model.bundle.generation.eos_token_id)

    @staticmethod
    def load(folder: Path, device: Device, threads: int) -> "BundleSystem":
        """Load the bundle, with recorded calls."""
        precision = device.precision or None
        model = Florence2.load(folder, device.engine, threads=threads, engine_precision=precision)
        return BundleSystem(model, Calls())

    def answer(self, workload: Workload) -> Timing:
        """Answer once, picture file to regions, and say how long each stage took."""
        pinned = workload.new_tokens is not None
        self._model.backend = self._endless if pinned else self._recorded
        texts = [workload.text] * workload.batch
        self._calls.take()
        begin = self._calls.clock()
        images = [load_image(workload.image) for _ in range(workload.batch)]
        decoded = self._calls.clock()
        results = self._model.run_batch(workload.task, images, texts, options=workload.options)
        end = self._calls.clock()
        calls = self._calls.take()
        return Timing(
            seconds=end - begin,
            stages=stages_from_calls(calls, begin=begin, decoded=decoded, end=end),
            steps=tuple(call.end - call.begin for call in calls if call.what == "step"),
            token_ids=tuple(result.token_ids for result in results),
            host=host_seconds(calls),
        )
