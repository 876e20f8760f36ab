"""A bundle as a compared system: the runtime as users call it, with its engine's calls recorded.

Random weights name the end token whenever they like. To compare engines over equally many tokens,
workloads set `min_new_tokens`, as in transformers, so that only the length ends an answer. That
costs a few microseconds a step, which count as search.
"""

from pathlib import Path

from florence_edge import Florence2
from florence_edge.bundle import TOKENIZER
from florence_edge.image import load_image
from florence_edge.tokenizer import Tokenizer

from ..timing import Calls, RecordedBackend, Timing, host_seconds, stages_from_calls, with_waits
from .system import SystemDevice
from .workload import Workload


class BundleSystem:
    """A loaded bundle that answers workloads: `model`, on the engine of the one it is given."""

    def __init__(self, model: Florence2, calls: Calls) -> None:
        self._calls = calls
        bundle, recorded = model.bundle, RecordedBackend(with_waits(model.backend, calls), calls)
        tokenizer = Tokenizer(bundle.folder / TOKENIZER, bundle.generation)
        self.model = Florence2(bundle, recorded, tokenizer, model.convention, model.image_options)

    @staticmethod
    def load(folder: Path, device: SystemDevice, threads: int) -> "BundleSystem":
        """Load the bundle, with recorded calls.

        Raises:
            FlorenceEdgeError: it cannot be loaded.
        """
        precision = device.precision or None
        model = Florence2.load(folder, device.device, threads=threads, engine_precision=precision)
        return BundleSystem(model, Calls())

    def answer(self, workload: Workload) -> Timing:
        """Answer once, picture file to regions, and say how long each stage took."""
        self._calls.take()
        begin = self._calls.clock()
        images = [load_image(workload.image) for _ in range(workload.batch)]
        decoded = self._calls.clock()
        results = self.model.run(images, workload.task, workload.text, options=workload.options)
        end = self._calls.clock()
        calls = self._calls.take()
        return Timing(
            seconds=end - begin,
            stages=stages_from_calls(calls, begin=begin, decoded=decoded, end=end),
            steps=tuple(call.end - call.begin for call in calls if call.kind == "step"),
            token_ids=tuple(result.token_ids for result in results),
            host=host_seconds(calls),
        )
