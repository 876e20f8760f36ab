"""What Prometheus reads at /metrics."""

from collections.abc import Callable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from florence_edge import TASKS, Result

CONTENT_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_BATCH = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64)


class Metrics:
    """Counters of one server; names begin with `florence_`."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a series more for each, which hardly anybody reads
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "florence_requests_total",
            "HTTP requests and WebSockets, by route and status.",
            ("method", "route", "status"),
            registry=registry,
        )
        self.request_seconds = Histogram(
            "florence_request_seconds",
            "From a request's head to the end of its reply.",
            ("route",),
            buckets=_SECONDS,
            registry=registry,
        )
        self.batches = Histogram(
            "florence_batch_size",
            "Questions that were answered together.",
            buckets=_BATCH,
            registry=registry,
        )
        self.queue_seconds = Histogram(
            "florence_queue_seconds",
            "From a decoded picture to its turn in the engine.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.stage_seconds = Counter(
            "florence_stage_seconds_total",
            "Seconds of answers by stage (image, vision, prefill, decode, parse).",
            ("stage",),
            registry=registry,
        )
        self.answers = Counter(
            "florence_answers_total",
            "Answers by task and status.",
            ("task", "status"),
            registry=registry,
        )
        self.tokens = Counter(
            "florence_tokens_total", "Tokens of answers, forced ones included.", registry=registry
        )
        self.engine_failures = Counter(
            "florence_engine_failures_total",
            "Batches at which the engine failed.",
            registry=registry,
        )
        self.frames = Counter(
            "florence_frames_total",
            "Frames of live pictures and of the camera, by what became of them.",
            ("from", "fate"),
            registry=registry,
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

    def answered(self, result: Result) -> None:
        # A prompt in one's own words is its own marker: any number of them would be kept.
        task = result.task.name if result.task.name in TASKS else "prompt"
        self.answers.labels(task, result.status).inc()
        self.tokens.inc(len(result.token_ids))
        for stage, seconds in result.seconds.items():
            self.stage_seconds.labels(stage).inc(seconds)

    def failed(self) -> None:
        self.engine_failures.inc()
