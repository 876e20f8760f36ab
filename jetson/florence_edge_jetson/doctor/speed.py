"""florence-doctor --speed: every engine that is installed here answers in turn; which is fastest.

Each runs in a process of its own (`speed_worker.py`), and they take turns (A B C, C B A), so that
other work on the machine hits all alike. Who is clearly behind is sent away after a round: the time
goes to those that may win. What was found is kept for device="auto" (`backends/auto.py`).
"""

import datetime
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from time import monotonic

from florence_edge.backends.auto import MeasuredEngine, SpeedRecord, remember
from florence_edge.bundle import Bundle
from florence_edge.devices import EngineSettings
from florence_edge.errors import BackendError, FlorenceEdgeError, RequestError
from florence_edge.extras import pip_install

from ..machine.system import GIB, read_memory
from .speed_process import EngineProcess
from .speed_worker import Job

logger = logging.getLogger(__name__)

TOKENS = 40  # of an answer: between a caption (20) and many boxes (100)

_LEAST_ROUNDS = 2  # timed, after one that warms up
_BEHIND = 1.4  # times the fastest in every round so far: more than the noise of a busy machine
_TIMES_WEIGHTS = 2.5  # what a process takes, at most, of the weights' size (results/speed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A bundle on one engine."""

    bundle: Bundle
    settings: EngineSettings
    rounds_more: bool = False
    """Whether it rounds more than the bundle does."""

    @property
    def label(self) -> str:
        """What to call it in a line about it."""
        return f"{self.bundle.folder}, {self.settings.arguments()}"

    def rivals(self, other: "Candidate") -> bool:
        """Whether device="auto" chooses between the two: of one bundle, and round alike."""
        ours, theirs = self.bundle.folder, other.bundle.folder
        return (ours, self.rounds_more) == (theirs, other.rounds_more)


@dataclass(frozen=True, slots=True)
class Measured:
    """A candidate, and how long its answers took."""

    candidate: Candidate
    engine: MeasuredEngine


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeedReport:
    """What was measured, the fastest first, and what was left out and why."""

    tokens: int
    rounds: int
    measured: tuple[Measured, ...]
    left_out: tuple[str, ...]

    @property
    def best(self) -> Measured | None:
        """The fastest that rounds no more than its bundle does; None where only others answered."""
        return next((each for each in self.measured if not each.engine.rounds_more), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """For how many seconds to measure, and of how many tokens the answers are."""

    seconds: float = 60.0
    tokens: int = TOKENS
    engine_dir: Path | None = None


OpenEngine = Callable[[Job], EngineProcess]


@dataclass(slots=True)
class _Racer:
    candidate: Candidate
    process: EngineProcess
    rounds: list[Mapping[str, float]] = field(default_factory=list)
    problem: str | None = None

    @property
    def seconds(self) -> list[float]:
        """Of its timed answers; those of one round share a place."""
        return [each["seconds"] for each in self.rounds]


def measure(
    candidates: Sequence[Candidate],
    limits: Limits,
    open_engine: OpenEngine = EngineProcess,
    clock: Callable[[], float] = monotonic,
) -> SpeedReport:
    """Let all candidates answer in turn for about `limits.seconds`; loading is not counted.

    Raises:
        BackendError: none of them answers, with the first reason.
        RequestError: there is no candidate.
    """
    if not candidates:
        raise RequestError(f"No engine is installed that runs this bundle: {pip_install('cpu')}")
    left_out: list[str] = []
    with ExitStack() as stack:

        def open_and_end(job: Job) -> EngineProcess:
            process = open_engine(job)
            stack.callback(process.close)  # at once: Ctrl-C may come while the next one loads
            return process

        started = [_started(each, limits, open_and_end, left_out) for each in candidates]
        racers = [each for each in started if each is not None]
        _race(racers, limits.seconds, clock)
    left_out += [f"{each.candidate.label}: {each.problem}" for each in racers if each.problem]
    racers = [each for each in racers if each.rounds and each.problem is None]
    if not racers:
        raise BackendError(f"No engine answered. {left_out[0]}")
    scores = _scores(racers)
    measured = sorted(
        (_measured(each, score / min(scores)) for each, score in zip(racers, scores, strict=True)),
        key=lambda each: each.engine.times_fastest,
    )
    return SpeedReport(
        tokens=limits.tokens,
        rounds=max(len(each.rounds) for each in racers),
        measured=tuple(measured),
        left_out=tuple(left_out),
    )


def _started(
    candidate: Candidate, limits: Limits, open_engine: OpenEngine, left_out: list[str]
) -> _Racer | None:
    """The candidate in its process, loaded; None where that fails or memory is short."""
    memory = read_memory()
    needed = sum(stored.bytes for stored in candidate.bundle.files.values()) * _TIMES_WEIGHTS
    if memory is not None and memory.available < needed:
        left_out.append(
            f"{candidate.label}: {memory.available / GIB:.1f} GiB are free beside the others, "
            f"{needed / GIB:.1f} are needed"
        )
        return None
    settings = candidate.settings
    job = Job(
        bundle=str(candidate.bundle.folder),
        device=str(settings.device),
        tokens=limits.tokens,
        threads=settings.threads,
        spinning=settings.spinning,
        precision=settings.precision,
        engine_dir=None if limits.engine_dir is None else str(limits.engine_dir),
    )
    logger.info("Loading %s", candidate.label)
    try:
        return _Racer(candidate, open_engine(job))
    except FlorenceEdgeError as error:
        left_out.append(f"{candidate.label}: {error}")
        return None


def _race(racers: Sequence[_Racer], seconds: float, clock: Callable[[], float]) -> None:
    """Rounds of answers, the first to warm up, until the time is over or one is left."""
    racing, begin, number = list(racers), clock(), 0
    while racing:
        for each in racing if number % 2 == 0 else racing[::-1]:
            try:
                answered = each.process.answer()
            except FlorenceEdgeError as error:
                each.problem = str(error)
                continue
            if number:
                each.rounds.append(answered)
        racing = [each for each in racing if each.problem is None]
        if number >= _LEAST_ROUNDS and (clock() - begin >= seconds or len(racing) == 1):
            return
        if number and racing:
            racing = _without_those_behind(racing, number)
        number += 1


def _without_those_behind(racing: Sequence[_Racer], rounds: int) -> list[_Racer]:
    """Those who were near the fastest of their rivals at least once; the others' processes end."""
    kept = []
    for each in racing:
        rivals = [other for other in racing if other.candidate.rivals(each.candidate)]
        fastest = [min(rival.seconds[i] for rival in rivals) for i in range(rounds)]
        pairs = zip(each.seconds, fastest, strict=True)
        if all(own > _BEHIND * best for own, best in pairs):
            each.process.close()
        else:
            kept.append(each)
    return kept


def _scores(racers: Sequence[_Racer]) -> list[float]:
    """How many times the fastest of each round a racer took: the median over its rounds.

    Rounds are compared, not seconds: other work on the machine slows all of a round.
    """
    rounds = max(len(each.rounds) for each in racers)
    fastest = [
        min(each.seconds[i] for each in racers if i < len(each.rounds)) for i in range(rounds)
    ]
    return [
        median(own / best for own, best in zip(each.seconds, fastest, strict=False))
        for each in racers
    ]


def _measured(racer: _Racer, times_fastest: float) -> Measured:
    settings = racer.candidate.settings

    def middle(stage: str) -> float:
        return median(each[stage] for each in racer.rounds)

    engine = MeasuredEngine(
        device=str(settings.device),
        threads=settings.threads,
        spinning=settings.spinning,
        precision=settings.precision,
        seconds=middle("seconds"),
        processor=middle("processor"),
        vision=middle("vision"),
        prefill=middle("prefill"),
        token=middle("token"),
        times_fastest=times_fastest,
        rounds=len(racer.rounds),
        rounds_more=racer.candidate.rounds_more,
    )
    return Measured(racer.candidate, engine)


def keep(report: SpeedReport, engine_dir: Path | None = None) -> list[Path]:
    """Remember what was measured, bundle by bundle; gives the files.

    `engine_dir` is where TensorRT's engines were, as in `Limits`.

    Raises:
        OSError: one cannot be written.
        RequestError: there is no home folder.
    """
    today = datetime.date.today().isoformat()
    of_bundles: dict[Path, tuple[Bundle, list[MeasuredEngine]]] = {}
    for each in report.measured:
        bundle = each.candidate.bundle
        of_bundles.setdefault(bundle.folder, (bundle, []))[1].append(each.engine)
    return [
        remember(bundle, SpeedRecord(measured=today, engines=tuple(engines)), engine_dir=engine_dir)
        for bundle, engines in of_bundles.values()
    ]
