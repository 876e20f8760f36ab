"""A bundle as a compared system: the runtime as users call it, with its engine's calls recorded.

Random weights name the end token whenever they like. To compare engines over equally many tokens,
it is taken out of the scores, so that only the length ends an answer: what `min_new_tokens` is in
transformers. That costs a few microseconds a step, which count as search.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from florence_edge import Florence2
from florence_edge.backends.base import Backend, DecoderSession, Features, Pixels
from florence_edge.image import load_image
from florence_edge.search import Float32s, Ints, Scores

from ..timing import Calls, RecordedBackend, Timing, host_seconds, stages_from_calls, with_waits
from .system import SystemDevice
from .workload import Workload


class MinNewTokensBackend:
    """A backend whose decoders never score `end_token`; it closes the one behind it."""

    def __init__(self, backend: Backend, end_token: int) -> None:
        self.max_new_tokens = backend.max_new_tokens
        self._backend = backend
        self._end_token = end_token

    def encode_image(self, pixels: Pixels) -> Features:
        return self._backend.encode_image(pixels)

    def prefill(
        self, features: Features, input_ids: Ints, encoder_mask: Ints, *, beams: int
    ) -> "MinNewTokensDecoder":
        decoder = self._backend.prefill(features, input_ids, encoder_mask, beams=beams)
        return MinNewTokensDecoder(decoder, self._end_token)

    def close(self) -> None:
        self._backend.close()


class MinNewTokensDecoder:
    """A decoder that never scores `end_token`."""

    def __init__(self, decoder: DecoderSession, end_token: int) -> None:
        self._decoder = decoder
        self._end_token = end_token

    def step(self, tokens: Ints, parents: Ints) -> Sequence[Scores]:
        return [self._without_end(scores) for scores in self._decoder.step(tokens, parents)]

    def _without_end(self, scores: Scores) -> Scores:
        """Each row loses one of its top K: the end token or, without it, the last."""
        is_end = scores.top_ids == self._end_token

        def full() -> Float32s:
            log_probs: Float32s = scores.full().copy()
            log_probs[:, self._end_token] = -np.inf
            return log_probs

        if not is_end.any():
            return Scores(scores.top_log_probs[:, :-1], scores.top_ids[:, :-1], full)
        kept = np.argsort(is_end, axis=1, kind="stable")[:, :-1]
        return Scores(
            np.take_along_axis(scores.top_log_probs, kept, axis=1),
            np.take_along_axis(scores.top_ids, kept, axis=1),
            full,
        )


class BundleSystem:
    """A loaded bundle that answers workloads."""

    def __init__(self, model: Florence2, calls: Calls) -> None:
        self._model = model
        self._calls = calls
        self._recorded = RecordedBackend(with_waits(model.backend, calls), calls)
        self._min_new_tokens = MinNewTokensBackend(
            self._recorded, model.bundle.generation.eos_token_id
        )

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
        pinned = workload.new_tokens is not None
        self._model.backend = self._min_new_tokens if pinned else self._recorded
        self._calls.take()
        begin = self._calls.clock()
        images = [load_image(workload.image) for _ in range(workload.batch)]
        decoded = self._calls.clock()
        results = self._model.run(images, workload.task, workload.text, options=workload.options)
        end = self._calls.clock()
        calls = self._calls.take()
        return Timing(
            seconds=end - begin,
            stages=stages_from_calls(calls, begin=begin, decoded=decoded, end=end),
            steps=tuple(call.end - call.begin for call in calls if call.kind == "step"),
            token_ids=tuple(result.token_ids for result in results),
            host=host_seconds(calls),
        )
