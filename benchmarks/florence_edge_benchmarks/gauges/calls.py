"""Record when an engine is called: a backend between the model and its backend."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from time import perf_counter

from florence_edge.backends import Backend, Decoder
from florence_edge.backends.base import Features, Pixels
from florence_edge.logits import Ints
from florence_edge.search import Scores

from .stages import Call, Clock, Engine


class Calls:
    """The calls into an engine since the last `take`."""

    def __init__(self, clock: Clock = perf_counter) -> None:
        self.clock = clock
        self._calls: list[Call] = []

    @contextmanager
    def record(self, what: Engine) -> Iterator[None]:
        """Record the block as one call."""
        begin = self.clock()
        yield
        self.add(Call(what, begin, self.clock()))

    def add(self, call: Call) -> None:
        """Record a call that is over."""
        self._calls.append(call)

    def take(self) -> list[Call]:
        """The calls so far, which are then forgotten."""
        taken, self._calls = self._calls, []
        return taken


class RecordedBackend:
    """A backend whose calls are recorded."""

    def __init__(self, backend: Backend, calls: Calls) -> None:
        self.most_new_tokens = backend.most_new_tokens
        self._backend = backend
        self._calls = calls

    def look(self, pixels: Pixels) -> Features:
        with self._calls.record("look"):
            return self._backend.look(pixels)

    def read(
        self, features: Features, input_ids: Ints, encoder_mask: Ints, *, beams: int
    ) -> "RecordedDecoder":
        with self._calls.record("read"):
            decoder = self._backend.read(features, input_ids, encoder_mask, beams=beams)
        return RecordedDecoder(decoder, self._calls)


class RecordedDecoder:
    """A decoder whose steps are recorded."""

    def __init__(self, decoder: Decoder, calls: Calls) -> None:
        self._decoder = decoder
        self._calls = calls

    def step(self, tokens: Ints, parents: Ints) -> Sequence[Scores]:
        with self._calls.record("step"):
            return self._decoder.step(tokens, parents)
