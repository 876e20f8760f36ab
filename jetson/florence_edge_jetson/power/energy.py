"""Energy of an answer: power at rest, power under load, joules per image and per token.

    |<-- at rest -->|<------ under load: one answer after the other ------>|
     watts ~ idle     joules = integral of watts over the window
                      net    = joules - idle watts * seconds

Gross is what the battery gives; net is what the model adds to a machine that runs anyway.
"""

import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field

import numpy as np

from florence_edge.errors import BackendError, RequestError

from .meter import Meter

_MIN_SAMPLES = 10


@dataclass(frozen=True, slots=True)
class EnergyWork:
    """What one turn of the loop did."""

    images: int
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasurementPlan:
    """How long to measure, in seconds, and how often, in samples a second."""

    idle_seconds: float = 30.0
    load_seconds: float = 60.0
    hertz: float = 20.0

    def __post_init__(self) -> None:
        times = self.idle_seconds, self.load_seconds
        if not all(0 < time < math.inf for time in times) or not 0 < self.hertz <= 1000:
            raise RequestError(
                f"idle {self.idle_seconds} s, load {self.load_seconds} s, {self.hertz} samples a "
                "second: the times must be above 0, the samples at most 1000 a second."
            )


@dataclass(frozen=True, slots=True)
class PowerSample:
    """Power at a moment; seconds of one clock."""

    seconds: float
    watts: float
    alerts: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Energy:
    """Joules of a run. `method` is "counter" where the sensor adds up itself, else "samples".

    `throttling` counts what slowed the machine down under load, by name.
    """

    source: str
    rails: tuple[str, ...]
    covers: str
    method: str
    samples: int
    idle_watts: float
    load_watts: float
    seconds: float
    gross_joules: float
    net_joules: float
    images: int
    tokens: int
    throttling: dict[str, int] = field(default_factory=dict)

    @property
    def per_image(self) -> tuple[float, float]:
        """Gross and net joules per image."""
        return self.gross_joules / self.images, self.net_joules / self.images

    @property
    def per_token(self) -> tuple[float, float] | None:
        """Gross and net joules per generated token."""
        if self.tokens == 0:
            return None
        return self.gross_joules / self.tokens, self.net_joules / self.tokens


PowerRecording = Callable[[Meter, float], AbstractContextManager[list[PowerSample]]]


def joules(samples: Sequence[PowerSample], begin: float, end: float) -> float:
    """Integral of power from `begin` to `end` by trapezoids; between samples a straight line."""
    times = np.array([sample.seconds for sample in samples])
    watts = np.array([sample.watts for sample in samples])
    inside = (times > begin) & (times < end)
    corners = np.concatenate([[begin], times[inside], [end]])
    heights = np.interp(corners, times, watts)
    return float(np.sum(np.diff(corners) * (heights[1:] + heights[:-1]) / 2))


@contextmanager
def record_power(meter: Meter, hertz: float) -> Iterator[list[PowerSample]]:
    """PowerSample a meter in a thread while the block runs; the list is complete after it.

    Raises:
        BackendError: the meter failed meanwhile.
    """
    samples: list[PowerSample] = []
    failures: list[BackendError] = []
    stop = threading.Event()

    def sample() -> None:
        due = time.perf_counter()
        while not stop.is_set():
            try:
                watts = meter.watts()
            except BackendError as error:
                failures.append(error)
                return
            if watts is not None:
                samples.append(PowerSample(time.perf_counter(), watts, meter.alerts()))
            due = max(due + 1 / hertz, time.perf_counter())  # a slow sensor is not caught up with
            if not meter.paced:
                stop.wait(due - time.perf_counter())

    thread = threading.Thread(target=sample, name="power", daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        stop.set()
        thread.join()
    if failures:
        raise failures[0]


def measure(
    meter: Meter,
    work: Callable[[], EnergyWork],
    plan: MeasurementPlan,
    *,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
    record: PowerRecording = record_power,
) -> Energy:
    """Rest, then work in a closed loop, and account for the energy of both.

    Warm the model up before. `clock`, `sleep` and `record` stand in for time in tests.

    Raises:
        BackendError: the meter failed, or gave fewer than 10 samples.
    """
    with record(meter, plan.hertz) as idle:
        begin, counted = clock(), _counted_joules(meter)
        sleep(plan.idle_seconds)
        end, counted = clock(), _counted_joules(meter) - counted
    _check(idle, "at rest")
    idle_watts = (counted if meter.joules else joules(idle, begin, end)) / (end - begin)

    before = meter.counters()
    images = tokens = 0
    with record(meter, plan.hertz) as load:
        begin, counted = clock(), _counted_joules(meter)
        end = begin
        while end - begin < plan.load_seconds:
            done = work()
            images, tokens, end = images + done.images, tokens + done.tokens, clock()
        counted = _counted_joules(meter) - counted
    _check(load, "under load")
    gross = counted if meter.joules else joules(load, begin, end)
    after = meter.counters()
    events = {name: after[name] - before.get(name, 0) for name in after}
    return Energy(
        source=meter.source,
        rails=meter.rails,
        covers=meter.covers,
        method="counter" if meter.joules else "samples",
        samples=len(load),
        idle_watts=idle_watts,
        load_watts=gross / (end - begin),
        seconds=end - begin,
        gross_joules=gross,
        net_joules=gross - idle_watts * (end - begin),
        images=images,
        tokens=tokens,
        throttling={name: count for name, count in events.items() if count > 0} | _onsets(load),
    )


def _counted_joules(meter: Meter) -> float:
    return meter.joules() if meter.joules else 0.0


def _check(samples: Sequence[PowerSample], when: str) -> None:
    if len(samples) < _MIN_SAMPLES:
        raise BackendError(
            f"The meter gave {len(samples)} samples {when}, at least {_MIN_SAMPLES} are needed. "
            "Measure longer, or sample more often."
        )


def _onsets(samples: Sequence[PowerSample]) -> dict[str, int]:
    """How often each alert began during the samples; one that was on already counts once."""
    onsets: Counter[str] = Counter()
    active: frozenset[str] = frozenset()
    for sample in samples:
        onsets.update(sample.alerts - active)
        active = sample.alerts
    return dict(onsets)
