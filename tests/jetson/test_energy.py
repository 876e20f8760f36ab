import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import get_ident

import pytest

from florence_edge.errors import BackendError, RequestError
from florence_edge_jetson.power.energy import (
    Energy,
    EnergyWork,
    MeasurementPlan,
    PowerSample,
    joules,
    measure,
    record_power,
)
from florence_edge_jetson.power.meter import Meter

PLAN = MeasurementPlan(idle_seconds=10, load_seconds=20, hertz=10)
Power = Callable[[float], float]


def meter(**changed: object) -> Meter:
    fields = {"source": "hwmon", "rails": ("VDD_IN",), "covers": "the module", "watts": lambda: 5.0}
    return Meter(**{**fields, **changed})  # type: ignore[arg-type]


class World:
    """A clock that only work and sleep move, and power as a function of time."""

    def __init__(self, power: Power) -> None:
        self.now = 100.0
        self.power = power
        self.alerts: Callable[[float], frozenset[str]] = lambda _: frozenset()

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def work(self, seconds: float, images: int = 1, tokens: int = 20) -> Callable[[], EnergyWork]:
        def turn() -> EnergyWork:
            self.now += seconds
            return EnergyWork(images, tokens)

        return turn

    @contextmanager
    def record(self, meter: Meter, hertz: float) -> Iterator[list[PowerSample]]:
        samples: list[PowerSample] = []
        begin = self.now
        yield samples
        count = math.ceil((self.now - begin) * hertz) + 1
        for i in range(count):
            at = begin + i / hertz
            samples.append(PowerSample(at, self.power(at), self.alerts(at)))

    def measure(self, meter: Meter, work: Callable[[], EnergyWork]) -> Energy:
        return measure(meter, work, PLAN, clock=self.clock, sleep=self.sleep, record=self.record)


def test_constant_power_is_power_times_time() -> None:
    samples = [PowerSample(float(second), 5.0) for second in range(11)]
    assert joules(samples, 0, 10) == pytest.approx(50)
    assert joules(samples, 2.5, 4.0) == pytest.approx(7.5)


def test_a_ramp_is_integrated_exactly_between_samples() -> None:
    samples = [PowerSample(0.0, 0.0), PowerSample(10.0, 100.0)]
    assert joules(samples, 0, 10) == pytest.approx(500)
    assert joules(samples, 5, 10) == pytest.approx(375)


def test_uneven_samples_weigh_by_their_time() -> None:
    samples = [
        PowerSample(0.0, 10.0),
        PowerSample(9.0, 10.0),
        PowerSample(9.5, 30.0),
        PowerSample(10.0, 10.0),
    ]
    assert joules(samples, 0, 10) == pytest.approx(110)


def test_beyond_the_samples_the_nearest_one_holds() -> None:
    samples = [PowerSample(1.0, 10.0), PowerSample(2.0, 20.0)]
    assert joules(samples, 0, 3) == pytest.approx(10 + 15 + 20)


def test_net_is_what_the_work_adds_to_the_power_at_rest() -> None:
    world = World(lambda at: 4.0 if at < 110 else 10.0)
    energy = world.measure(meter(), world.work(0.5))
    assert energy.method == "samples"
    assert energy.seconds == pytest.approx(20)
    assert (energy.images, energy.tokens) == (40, 800)
    assert energy.idle_watts == pytest.approx(4.0, abs=0.05)
    assert energy.load_watts == pytest.approx(10.0, abs=0.05)
    assert energy.gross_joules == pytest.approx(200, abs=0.5)
    assert energy.per_image == pytest.approx((5.0, 3.0), abs=0.03)
    assert energy.per_token == pytest.approx((0.25, 0.15), abs=0.002)


def test_the_turn_that_passes_the_end_belongs_to_the_window() -> None:
    world = World(lambda _: 10.0)
    energy = world.measure(meter(), world.work(3.0))
    assert energy.images == 7
    assert energy.seconds == pytest.approx(21)
    assert energy.gross_joules == pytest.approx(210)


def test_a_batch_counts_all_of_its_images() -> None:
    world = World(lambda _: 10.0)
    energy = world.measure(meter(), world.work(1.0, images=4, tokens=0))
    assert energy.images == 80
    assert energy.per_token is None


def test_a_sensor_that_counts_energy_is_believed() -> None:
    world = World(lambda _: 999.0)
    counter = meter(joules=lambda: 7.0 * world.now if world.now < 111 else 20.0 * world.now)
    energy = world.measure(counter, world.work(1.0))
    assert energy.method == "counter"
    assert energy.idle_watts == pytest.approx(7.0)
    assert energy.gross_joules == pytest.approx(20 * 130 - 7 * 110)


def test_negative_power_at_rest_is_an_offset_and_stays_in_the_net() -> None:
    world = World(lambda at: -0.4 if at <= 110 else 1.6)
    energy = world.measure(meter(), world.work(1.0))
    assert energy.idle_watts == pytest.approx(-0.4, abs=0.01)
    assert energy.net_joules == pytest.approx(40, abs=0.5)


def test_throttling_under_load_is_counted_by_its_beginnings() -> None:
    world = World(lambda _: 10.0)
    world.alerts = lambda at: frozenset(["gpu"] if 112 < at < 114 or 120 < at < 121 else [])
    counts = iter(
        [{"under-voltage": 3, "over-current": 0}, {"under-voltage": 5, "over-current": 0}]
    )
    energy = world.measure(meter(counters=lambda: next(counts)), world.work(0.5))
    assert energy.throttling == {"under-voltage": 2, "gpu": 2}


def test_too_few_samples_are_refused() -> None:
    world = World(lambda _: 5.0)

    @contextmanager
    def silent(meter: Meter, hertz: float) -> Iterator[list[PowerSample]]:
        yield []

    with pytest.raises(BackendError, match=r"0 samples at rest.*Measure longer"):
        measure(meter(), world.work(1), PLAN, clock=world.clock, sleep=world.sleep, record=silent)


@pytest.mark.parametrize(
    "wrong",
    [{"idle_seconds": 0}, {"load_seconds": math.nan}, {"load_seconds": math.inf}, {"hertz": 0}],
)
def test_impossible_plans_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(RequestError, match="must be above 0"):
        MeasurementPlan(**wrong)


def test_the_thread_samples_while_the_block_runs() -> None:
    threads = set()

    def watts() -> float:
        threads.add(get_ident())
        return 5.0

    result = measure(
        meter(watts=watts),
        lambda: EnergyWork(1, 1),
        MeasurementPlan(idle_seconds=0.1, load_seconds=0.1, hertz=500),
    )
    assert get_ident() not in threads
    assert result.samples >= 10
    assert result.gross_joules == pytest.approx(5.0 * result.seconds)
    assert result.net_joules == pytest.approx(0, abs=1e-9)


def test_a_sensor_that_misses_a_moment_leaves_a_gap_and_no_zero() -> None:
    readings = iter([5.0, None] * 1000)
    with record_power(meter(watts=lambda: next(readings, 5.0)), 1000) as samples:
        while len(samples) < 5:
            pass
    assert {sample.watts for sample in samples} == {5.0}


def test_a_meter_that_sets_the_pace_is_not_waited_for() -> None:
    readings: list[float] = []

    def watts() -> float:
        readings.append(1.0)
        return 1.0

    with record_power(meter(watts=watts, paced=True), 0.001) as samples:
        while len(samples) < 50:
            pass
    assert len(readings) >= 50


def test_a_meter_that_fails_ends_the_measurement_with_its_error() -> None:
    def broken() -> float:
        raise BackendError("tegrastats ended.")

    with (
        pytest.raises(BackendError, match="tegrastats ended"),
        record_power(meter(watts=broken), 100),
    ):
        pass
