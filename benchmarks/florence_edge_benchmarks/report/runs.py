"""What is known of all rounds of one system with one workload, as numbers."""

from ..gauges.stages import STAGES
from ..results.speed import RunRow
from ..summary import percentile


def is_whole(run: RunRow) -> bool:
    """Whether a run has every stage; optimum answers have the decoder's alone."""
    return bool(run.rounds) and set(STAGES) <= set(run.rounds[0].stages)


def stage_median(run: RunRow, stage: str) -> float:
    """Median seconds of a stage."""
    return percentile([each.stages[stage] for each in run.rounds], 50)


def host_share(run: RunRow) -> float:
    """The part of decoding that is spent outside of the engine."""
    search, decoder = (stage_median(run, stage) for stage in ("search", "decoder"))
    return search / max(search + decoder, 1e-12)


def host_a_token(run: RunRow) -> float | None:
    """Median seconds of the host's own work a token; see `Timing.host`."""
    known = [each.host / each.tokens for each in run.rounds if each.host is not None]
    return percentile(known, 50) if known else None


def total(run: RunRow, percent: float = 50) -> float:
    """A percentile of the seconds of an answer."""
    return percentile([each.seconds for each in run.rounds], percent)
