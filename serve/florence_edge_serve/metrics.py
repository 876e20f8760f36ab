"""What Prometheus reads at /metrics."""

from collections.abc import Callable, Iterable
from functools import partial

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from florence_edge import TASKS, Result, Task

CONTENT_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_OF_THE_LOOK = ("image", "vision")  # stages that a picture goes through once for all answers
_BATCH = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64)


class Metrics:
    """Counters of one server; names begin with `florence_`."""

    def __init__(self, own_tasks: Iterable[Task] = ()) -> None:
        self._tasks = {*TASKS, *(task.name for task in own_tasks)}
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a series more for each, which hardly anybody reads
        self.registry = registry = CollectorRegistry()
        counter = partial(Counter, registry=registry)
        histogram = partial(Histogram, buckets=_SECONDS, registry=registry)
        self.requests = counter(
            "florence_requests_total",
            "HTTP requests and WebSockets, by route and status.",
            ("method", "route", "status"),
        )
        self.request_seconds = histogram(
            "florence_request_seconds",
            "From a request's head to the end of its reply.",
            ("route",),
        )
        self.batches = histogram(
            "florence_batch_size",
            "Questions that were answered together.",
            buckets=_BATCH,
        )
        self.queue_seconds = histogram(
            "florence_queue_seconds",
            "From a decoded picture to its turn in the engine.",
        )
        self.stage_seconds = counter(
            "florence_stage_seconds_total",
            "Seconds of answers by stage (image, vision, prefill, decode, parse).",
            ("stage",),
        )
        self.answers = counter(
            "florence_answers_total",
            "Answers by task and status.",
            ("task", "status"),
        )
        self.tokens = counter("florence_tokens_total", "Tokens of answers, forced ones included.")
        self.engine_failures = counter(
            "florence_engine_failures_total",
            "Batches at which the engine failed.",
        )
        self.frames = counter(
            "florence_frames_total",
            "Frames of live pictures and of the camera, by what became of them.",
            ("from", "fate"),
        )
        self.viewers = Gauge(
            "florence_viewers",
            "WebSockets and MJPEG streams that are open.",
            ("of",),
            registry=registry,
        )

    def gauge(self, name: str, says: str, value: Callable[[], float]) -> None:
        """Read a value whenever the metrics are read."""
        Gauge(name, says, registry=self.registry).set_function(value)

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self.registry)

    # What the engine's thread reports (batching.Observer).

    def batch(self, size: int) -> None:
        self.batches.observe(size)

    def answered(self, result: Result, *, first: bool) -> None:
        # A prompt in one's own words is its own marker: any number of them would be kept.
        task = result.task.name if result.task.name in self._tasks else "prompt"
        self.answers.labels(task, result.status).inc()
        self.tokens.inc(len(result.token_ids))
        for stage, seconds in result.seconds.items():
            if first or stage not in _OF_THE_LOOK:
                self.stage_seconds.labels(stage).inc(seconds)

    def failed(self) -> None:
        self.engine_failures.inc()
