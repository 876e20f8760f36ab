"""How long the stages of an answer took, from the calls into the engine.

    begin ─ decoded ──┬ encode_image ┬──┬ prefill ┬──┬ step ┬─┬ step ┬ ... ┬ step ┬── end
    decode image  resize   vision      text encoder   decoder  search           post-process
                                    (with the prompt's tokens)  (between the steps)

The stages add up to the whole. Here is how calls are recorded (a backend between the model and its
own), how waits for a GPU are separated from work of the host, how torch's steps are timed where
they run, and how many timings become few numbers: percentiles, and ratios taken round by round.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Literal, NamedTuple

import numpy as np

from florence_edge import DECODE, IMAGE, PARSE, PREFILL, VISION
from florence_edge.backends.base import AheadDecoder, Backend, DecoderSession, Features, Pixels
from florence_edge.backends.gpu import GpuBackend
from florence_edge.cuda.api import CudaCall
from florence_edge.errors import BackendError
from florence_edge.options import GenerationConfig
from florence_edge.search import Ints, Scores


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """The middle of some numbers and how far they reach."""

    median: float
    low: float
    high: float


def percentile(values: Sequence[float], percent: float) -> float:
    """The value that `percent` of them do not exceed, interpolated."""
    return float(np.percentile(np.asarray(values, dtype=np.float64), percent))


def ratios(of: Sequence[float], to: Sequence[float]) -> Spread:
    """`of` divided by `to` round by round: median, lowest and highest.

    With times of a baseline and of a system it says how many times faster the system is.
    """
    each = [one / other for one, other in zip(of, to, strict=True)]
    return Spread(median=percentile(each, 50), low=min(each), high=max(each))


def median_by_position(rows: Sequence[Sequence[float]]) -> list[float]:
    """The median of every column; rows that end earlier take no part in the later ones."""
    longest = max(map(len, rows), default=0)
    return [
        percentile([row[place] for row in rows if place < len(row)], 50) for place in range(longest)
    ]


StageClock = Callable[[], float]  # () -> seconds

# The stages, in their order, under the names that committed results have. They are finer than those
# of the runtime's `Result.seconds`: beside each stands the one that it is a part of.
RUNTIME_STAGES: Mapping[str, str] = {
    "decode image": IMAGE,
    "resize": IMAGE,
    "vision": VISION,
    "text encoder": PREFILL,
    "decoder": DECODE,
    "search": DECODE,
    "post-process": PARSE,
}
STAGES = tuple(RUNTIME_STAGES)
DECODING = tuple(stage for stage, of_runtime in RUNTIME_STAGES.items() if of_runtime == DECODE)

CallKind = Literal["encode_image", "prefill", "step", "wait"]


class EngineCall(NamedTuple):
    """One call into the engine: vision encoder, text encoder or decoder step.

    A `wait` lies within another call, or between steps: the host does nothing but wait for a GPU.
    """

    kind: CallKind
    begin: float
    end: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """One run of a workload, in seconds; of a batch, all its pictures together."""

    seconds: float
    stages: Mapping[str, float]
    steps: tuple[float, ...]
    """Engine time of each decoder step."""
    token_ids: tuple[tuple[int, ...], ...]
    """The answer of each picture, from the start token on."""
    host: float | None = None
    """Of decoding, what the host did but for waiting for a GPU: search and launches. None where
    no GPU is waited for, or nobody says when."""

    @property
    def tokens(self) -> int:
        """New tokens of the longest answer: what the decoder was run for."""
        return max(map(len, self.token_ids)) - 1


def stages_from_calls(
    calls: Sequence[EngineCall], *, begin: float, decoded: float, end: float
) -> dict[str, float]:
    """Seconds a stage.

    Args:
        calls: those of one answer, in their order; at least one of each kind but waits.
        begin: when the answer began.
        decoded: when the picture's file was decoded.
        end: when the answer was parsed.
    """
    kinds: tuple[CallKind, ...] = ("encode_image", "prefill", "step")
    encoded, prefilled, stepped = (_last_end(calls, kind) for kind in kinds)
    vision, steps = _inside(calls, "encode_image"), _inside(calls, "step")
    return {
        "decode image": decoded - begin,
        "resize": encoded - decoded - vision,
        "vision": vision,
        "text encoder": prefilled - encoded,
        "decoder": steps,
        "search": stepped - prefilled - steps,
        "post-process": end - stepped,
    }


def host_seconds(calls: Sequence[EngineCall]) -> float | None:
    """From the end of prefill to that of the last step, without the waits; None without waits.

    What is enqueued on a GPU is waited for in `Cuda.synchronize`, and nowhere else.
    """
    begin, end = _last_end(calls, "prefill"), _last_end(calls, "step")
    waits = [call for call in calls if call.kind == "wait" and begin <= call.begin < end]
    return end - begin - _inside(waits, "wait") if waits else None


def _last_end(calls: Sequence[EngineCall], kind: CallKind) -> float:
    return max(call.end for call in calls if call.kind == kind)


def _inside(calls: Sequence[EngineCall], kind: CallKind) -> float:
    return sum(call.end - call.begin for call in calls if call.kind == kind)


class Calls:
    """The calls into an engine since the last `take`."""

    def __init__(self, clock: StageClock = perf_counter) -> None:
        self.clock = clock
        self._calls: list[EngineCall] = []

    @contextmanager
    def record(self, kind: CallKind) -> Iterator[None]:
        """Record the block as one call."""
        begin = self.clock()
        yield
        self.add(EngineCall(kind, begin, self.clock()))

    def add(self, call: EngineCall) -> None:
        """Record a call that is over."""
        self._calls.append(call)

    def take(self) -> list[EngineCall]:
        """The calls so far, which are then forgotten."""
        taken, self._calls = self._calls, []
        return taken


class RecordedBackend:
    """A backend whose calls are recorded; it closes the one behind it."""

    def __init__(self, backend: Backend, calls: Calls) -> None:
        self.max_new_tokens = backend.max_new_tokens
        self.max_batch = backend.max_batch
        self._backend = backend
        self._calls = calls

    def encode_image(self, pixels: Pixels) -> Features:
        with self._calls.record("encode_image"):
            return self._backend.encode_image(pixels)

    def prefill(
        self, features: Features, input_ids: Ints, encoder_mask: Ints, *, beams: int
    ) -> "RecordedDecoder":
        with self._calls.record("prefill"):
            decoder = self._backend.prefill(features, input_ids, encoder_mask, beams=beams)
        return RecordedDecoder(decoder, self._calls)

    def close(self) -> None:
        self._backend.close()


class RecordedDecoder:
    """A decoder whose steps are recorded."""

    def __init__(self, decoder: DecoderSession, calls: Calls) -> None:
        self._decoder = decoder
        self._calls = calls

    def step(self, tokens: Ints, parents: Ints) -> Sequence[Scores]:
        with self._calls.record("step"):
            return self._decoder.step(tokens, parents)

    def expect(self, configs: Sequence[GenerationConfig]) -> None:
        if isinstance(self._decoder, AheadDecoder):
            self._decoder.expect(configs)

    def leave(self, image: int) -> None:
        if isinstance(self._decoder, AheadDecoder):
            self._decoder.leave(image)


_WAITS = ("cudaStreamSynchronize", "cudaEventSynchronize")


def with_waits(backend: Backend, calls: Calls) -> Backend:
    """The backend, which from now on records its waits for a GPU if it has one."""
    if isinstance(backend, GpuBackend):
        backend.model.cuda.call = _recorded(backend.model.cuda.call, calls)
    return backend


def _recorded(call: CudaCall, calls: Calls) -> CudaCall:
    def recorded(name: str, *arguments: Any) -> Any:
        if name not in _WAITS:
            return call(name, *arguments)
        with calls.record("wait"):
            return call(name, *arguments)

    return recorded


def torch_cuda(index: int) -> Any:
    """`torch.cuda`, with GPU `index` as the current one.

    Raises:
        BackendError: this torch finds no such GPU.
    """
    import torch

    if not torch.cuda.is_available() or torch.cuda.device_count() <= index:
        raise BackendError(
            f"torch {torch.__version__} finds no GPU number {index}. Install a torch that is built "
            "for this machine's CUDA, or compare with NAME@cpu."
        )
    torch.cuda.set_device(index)
    return torch.cuda


class Steps:
    """Begin and end of every step of an answer, on the host's clock.

    Args:
        clock: the host's.
        cuda: `torch.cuda` where the steps run on a GPU.
    """

    def __init__(self, clock: StageClock, cuda: Any = None) -> None:
        self._clock = clock
        self._cuda = cuda
        self._moments: list[Any] = []
        self._zero, self._zero_event = 0.0, None

    def wait(self) -> None:
        """Until the GPU has done all that it was given."""
        if self._cuda is not None:
            self._cuda.synchronize()

    def start(self) -> None:
        """Forget all steps; both clocks are set to now."""
        self._moments = []
        self.wait()
        if self._cuda is not None:
            self._zero_event = self._event()
        self._zero = self._clock()

    def mark(self, *_: object) -> None:
        """A step begins or, the next time, ends; fit for a hook of torch."""
        self._moments.append(self._clock() if self._cuda is None else self._event())

    def take(self) -> list[EngineCall]:
        """The steps since the start."""
        self.wait()
        moments = self._moments
        if self._cuda is not None:
            zero: Any = self._zero_event
            moments = [self._zero + zero.elapsed_time(each) / 1e3 for each in moments]
        return [
            EngineCall("step", begin, end)
            for begin, end in zip(moments[::2], moments[1::2], strict=True)
        ]

    def _event(self) -> Any:
        event = self._cuda.Event(enable_timing=True)
        event.record()
        return event
