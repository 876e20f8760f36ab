"""What `florence-bench speed`, `accuracy` and `energy` measured, as values.

Each checks itself when it is made, so that what a file has wrong is found when it is read.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from florence_edge.errors import RequestError
from florence_edge_jetson.power.energy import Energy

from .machine import Machine
from .systems.system import System
from .systems.workload import Workload
from .timing import DECODING, STAGES


@dataclass(frozen=True, slots=True, kw_only=True)
class AccuracyResult:
    """How right one bundle was: by task, figures by name, the headline first.

    What it is a figure of is known by the fingerprints of bundle and data, by engine and beams,
    and by whether answers were cut short; names are for people.
    """

    machine: Machine
    settings: Mapping[str, Any]
    model: str
    precision: str
    device: str
    bundle: str
    """The name of its folder."""
    fingerprint: str
    """Of the bundle, see `results_io.bundle_fingerprint`."""
    beams: int
    max_new_tokens: int | None
    """Where answers were cut short; None leaves their length to the model."""
    data: str
    """The name of the data's folder."""
    data_fingerprint: str
    images: int
    figures: Mapping[str, Mapping[str, float]]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse a task that nothing was measured in.

        Raises:
            RequestError: naming it.
        """
        for task, figures in self.figures.items():
            if not figures:
                raise RequestError(f"figures.{task} has no figure")

    def headline(self, task: str) -> tuple[str, float]:
        """Name and value of the figure that stands in tables and plots."""
        return next(iter(self.figures[task].items()))


class BoardReading(Machine, total=False):
    """A machine, with what a Jetson's own files add; its heat is before and after."""

    l4t: str | None
    jetpack: str | None
    gpu_clock: Mapping[str, int | str | None] | None
    hottest_celsius: tuple[float | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EnergyResult:
    """Power and joules of a bundle that answered in a closed loop."""

    settings: Mapping[str, Any]
    machine: BoardReading
    plan: Mapping[str, Any]
    energy: Energy

    def __post_init__(self) -> None:
        """Refuse figures of an unknown model, or of no answer at all.

        Raises:
            RequestError: it is so.
        """
        if "model" not in self.settings:
            raise RequestError("settings.model is missing")
        if self.energy.images < 1:
            raise RequestError(f"energy.images is {self.energy.images}, expected 1 or more")

    @property
    def model(self) -> str:
        """The model that was measured."""
        return str(self.settings["model"])


_MAX_TOKENS = 10**9


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """What a system costs beside its answers; None where it is not known."""

    import_seconds: float | None
    load_seconds: float
    first_answer_seconds: float
    """Cold start: from starting the process to its first answer, files perhaps still in the
    page cache."""
    loaded_bytes: int | None
    """Resident memory once loaded."""
    answering_bytes: int | None
    """The peak of what was resident while it answered."""
    peak_bytes: int | None
    """The peak of what was resident at all, loading included."""
    disk_bytes: int | None
    device_bytes: int | None = None
    """What is held of an NVIDIA GPU's memory once it has answered, beyond the CUDA context."""
    reader: str | None = None
    """Who read the checkpoint, where one was read."""
    versions: Mapping[str, str] | None = None
    """Of packages in an environment of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Floors:
    """What an answer cannot do without, whatever the engine: see `speed/floors.py`."""

    vision_flop: float | None
    """Of one picture; None where nobody counted it."""
    step_bytes: float
    """Weights that a step of the decoder reads, however many rows it has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemRow:
    """A compared system: what it is, what starting it costs, or why it did not start."""

    system: System
    model: str
    precision: str
    start: Start | None
    error: str | None = None
    fingerprint: str = ""
    """Of a bundle, see `results_io.bundle_fingerprint`; it brings accuracy and speed together."""
    floors: Floors | None = None

    def __post_init__(self) -> None:
        """Refuse a system that neither started nor has an error, or both.

        Raises:
            RequestError: it is so.
        """
        if (self.start is None) == (self.error is None):
            raise RequestError("expected either start or error")


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One timed answer."""

    seconds: float
    stages: Mapping[str, float]
    tokens: int
    host: float | None = None
    """See `Timing.host`."""

    def __post_init__(self) -> None:
        """Refuse what no clock can have shown, since rates and ratios are made of it.

        Raises:
            RequestError: a stage is not known, or something took no time at all.
        """
        if not set(DECODING) <= set(self.stages) <= set(STAGES):
            raise RequestError(f"stages are {[*self.stages]}; expected some of {[*STAGES]}")
        times = (self.seconds, self.decoding_seconds, *self.stages.values())
        took_time = all(map(math.isfinite, times)) and min(times[:2]) > 0
        if not took_time or not 0 < self.tokens <= _MAX_TOKENS:
            raise RequestError(
                f"{self.tokens} tokens in {self.seconds} s, {self.decoding_seconds} s of them "
                "decoding; expected more than 0 of each"
            )

    @property
    def decoding_seconds(self) -> float:
        """Decoder and search."""
        return sum(self.stages[stage] for stage in DECODING)

    @property
    def step_seconds(self) -> float:
        """Mean time of decoder and search a token."""
        return self.decoding_seconds / self.tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRow:
    """All rounds of one system with one workload, or why there are none."""

    label: str
    workload: Workload
    rounds: tuple[Round, ...]
    steps: tuple[float, ...]
    """Median engine time of each decoder step, by its position in the answer."""
    step_p50: float | None
    step_p90: float | None
    step_count: int
    same_tokens: bool | None
    """Whether every answer has the token ids of the baseline's; None for the baseline itself."""
    error: str | None = None

    def __post_init__(self) -> None:
        """Refuse a run that has neither rounds nor an error, or rounds of different stages.

        Raises:
            RequestError: it is so.
        """
        if bool(self.rounds) == (self.error is not None):
            raise RequestError("expected either rounds or error")
        if len({frozenset(each.stages) for each in self.rounds}) > 1:
            raise RequestError("the rounds have different stages")


@dataclass(frozen=True, slots=True)
class Failure:
    """What could not be measured of a system, and why."""

    label: str
    at: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeedResult:
    """All systems and all their runs; `baseline` is the label that ratios refer to."""

    machine: Machine
    settings: Mapping[str, Any]
    baseline: str
    systems: tuple[SystemRow, ...]
    runs: tuple[RunRow, ...]
    accuracy: tuple[AccuracyResult, ...] = ()
    """Of the bundles, where truth was given."""
    failures: tuple[Failure, ...] = ()
    """Of accuracy; a system and a run have an `error` of their own."""

    def __post_init__(self) -> None:
        """Refuse a run or a baseline that is not one of the systems.

        Raises:
            RequestError: there is one, or the settings lack the number of threads.
        """
        labels = {row.system.label for row in self.systems}
        for label in (self.baseline, *(run.label for run in self.runs)):
            if label and label not in labels:
                raise RequestError(f"{label!r} is not one of the systems: {sorted(labels)}")
        if "threads" not in self.settings:
            raise RequestError("settings.threads is missing")

    @property
    def models(self) -> str:
        """The models that were measured."""
        started = [row.model for row in self.systems if row.error is None]
        return ", ".join(dict.fromkeys(started)) or "nothing that started"
