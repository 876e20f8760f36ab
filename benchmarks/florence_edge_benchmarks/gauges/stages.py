"""What one answer took: the stages of its way, from the calls into the engine.

    begin ── decoded ──┬─ look ─┬──┬─ read ─┬──┬ step ┬─┬ step ┬ ... ┬ step ┬── end
    decode image   resize  vision   text encoder   decoder   search         post-process
                                    (with the prompt's tokens)   (between the steps)

The stages add up to the whole.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

Clock = Callable[[], float]  # () -> seconds

STAGES = (
    "decode image",
    "resize",
    "vision",
    "text encoder",
    "decoder",
    "search",
    "post-process",
)

DECODING = ("decoder", "search")

Engine = Literal["look", "read", "step", "wait"]


class Call(NamedTuple):
    """One call into the engine: vision encoder, text encoder or decoder step.

    A `wait` lies within another call, or between steps: the host does nothing but wait for a GPU.
    """

    what: Engine
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

    @staticmethod
    def from_json(found: Mapping[str, Any]) -> "Timing":
        """What `dataclasses.asdict` and JSON made of a timing."""
        return Timing(
            seconds=float(found["seconds"]),
            stages=dict(found["stages"]),
            steps=tuple(found["steps"]),
            token_ids=tuple(tuple(ids) for ids in found["token_ids"]),
            host=found["host"],
        )


def stages_from_calls(
    calls: Sequence[Call], *, begin: float, decoded: float, end: float
) -> dict[str, float]:
    """Seconds a stage.

    Args:
        calls: looks, reads and steps of one run, in their order; at least one of each.
        begin: when the run began.
        decoded: when the picture's file was decoded.
        end: when the answer was read.
    """
    looked, read, stepped = (
        max(call.end for call in calls if call.what == what) for what in ("look", "read", "step")
    )
    vision, steps = _inside(calls, "look"), _inside(calls, "step")
    return {
        "decode image": decoded - begin,
        "resize": looked - decoded - vision,
        "vision": vision,
        "text encoder": read - looked,
        "decoder": steps,
        "search": stepped - read - steps,
        "post-process": end - stepped,
    }


def host_seconds(calls: Sequence[Call]) -> float | None:
    """From the end of reading to that of the last step, without the waits; None without waits."""
    begin = max(call.end for call in calls if call.what == "read")
    end = max(call.end for call in calls if call.what == "step")
    waits = [call for call in calls if call.what == "wait" and begin <= call.begin < end]
    return end - begin - _inside(waits, "wait") if waits else None


def _inside(calls: Sequence[Call], what: Engine) -> float:
    return sum(call.end - call.begin for call in calls if call.what == what)
